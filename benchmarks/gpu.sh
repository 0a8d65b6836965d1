#!/usr/bin/env bash
# All measurements that need a GPU, on one GPU, within 11 minutes, in one JSON file: docs/gpu.md.
#
#   benchmarks/gpu.sh [--output FILE] [--budget SECONDS] [--only PART,PART] [--shrink]
#   PYTHON=/path/to/python benchmarks/gpu.sh
#
# --shrink: the same parts with tiny shapes, on a CPU too. It tries the code out, and measures nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ -z "${PYTHON:-}" ]]; then
  PYTHON=.venv/bin/python
  [[ -x "$PYTHON" ]] || PYTHON=python3
fi
export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}"  # no request to a hub
exec "$PYTHON" -m benchmarks.gpu "$@"
