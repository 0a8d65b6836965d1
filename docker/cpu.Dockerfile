# Triptych on CPUs, with the versions that CI runs. Written, not built here: see docker/README.md.
#   docker build --file docker/cpu.Dockerfile --build-arg TORCH_WHEELS=URL --tag triptych:cpu .
# TORCH_WHEELS: the index of CPU wheels that PyTorch's "Get started" page names; without it torch comes with CUDA's libraries, and
# works too.
FROM python:3.11.14-slim-bookworm

ARG TORCH_WHEELS=""
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
WORKDIR /triptych

# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends gcc g++ && rm -rf /var/lib/apt/lists/*
COPY . .
RUN grep '^torch==' constraints.txt > /tmp/torch.txt \
 && python -m pip install ${TORCH_WHEELS:+--index-url "$TORCH_WHEELS"} --requirement /tmp/torch.txt \
 && python -m pip install --constraint constraints.txt --editable . \
 && python suite.py --help > /dev/null

CMD ["accelerate", "launch", "suite.py", "--workload", "t2v"]
