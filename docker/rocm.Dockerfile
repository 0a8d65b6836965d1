# Triptych on AMD Instinct, from AMD's own PyTorch image. Written, not built here: see docker/README.md.
#   docker build --file docker/rocm.Dockerfile --tag triptych:rocm .
ARG BASE=rocm/pytorch:rocm7.2.4_ubuntu24.04_py3.12_pytorch_release_2.10.0
FROM ${BASE}

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
WORKDIR /triptych
COPY . .

# The image's torch is ROCm's and has to stay: it takes the place of the one that constraints.txt names for CI. amdsmi is the one of the
# image's ROCm, since it has to fit libamd_smi.so.
RUN { grep -v '^torch==' constraints.txt; python -c 'import torch; print(f"torch=={torch.__version__}")'; } > /tmp/constraints.txt \
 && python -m pip install --constraint /tmp/constraints.txt --editable . \
 && cp -r /opt/rocm/share/amd_smi /tmp/amd_smi && python -m pip install /tmp/amd_smi && rm -rf /tmp/amd_smi \
 && python -c 'import torch; assert torch.version.hip, "pip replaced the ROCm build of torch"' \
 && python suite.py --help > /dev/null

CMD ["python", "suite.py", "--help"]
