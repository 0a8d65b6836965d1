"""Measurements that need a GPU, one file for each part; `benchmarks/gpu.sh` runs them all. The figures: docs/engines.md, "GPU proof"."""
