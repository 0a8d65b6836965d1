"""What only a GPU can show, one part a file; `benchmarks/gpu.sh` runs them all. What each figure is: docs/engines.md, "GPU proof"."""
