# Triptych on NVIDIA GPUs, from PyTorch's own image with a compiler, which torch.compile needs. Written, not built here: see
# docker/README.md.
#   docker build --file docker/cuda.Dockerfile --tag triptych:cuda .
ARG BASE=pytorch/pytorch:2.9.1-cuda12.6-cudnn9-devel
FROM ${BASE}

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
WORKDIR /triptych
COPY . .

# The image's torch stays: it takes the place of the one that constraints.txt names for CI.
RUN { grep -v '^torch==' constraints.txt; python -c 'import torch; print(f"torch=={torch.__version__}")'; } > /tmp/constraints.txt \
 && python -m pip install --constraint /tmp/constraints.txt --editable '.[nvml]' \
 && python -c 'import torch; assert torch.version.cuda, "pip replaced the CUDA build of torch"' \
 && python suite.py --help > /dev/null

CMD ["python", "suite.py", "--help"]
