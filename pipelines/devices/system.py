"""The system that a run is on: operating system, CPU, memory, accelerators, environment, package versions."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipelines.devices.accelerators import accelerators
from pipelines.devices.environment import settings

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "vllm",
    "mlcommons_loadgen",
    "pillow",
    "av",
    "numpy",
    "opencv-python-headless",
    "scipy",
)


def system_facts() -> dict[str, Any]:
    """The content of system.json, without the doctor's part."""
    import psutil
    import torch

    return {
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "processor": cpu_name(),
        "num_cpus": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "accelerators": accelerators(),
        "rocm": torch.version.hip,
        "cuda": torch.version.cuda,
        "environment": settings(os.environ),
        "packages": package_versions(),
    }


def package_versions() -> dict[str, str | None]:
    """Of the packages that answers and scores depend on; None where one is not installed."""
    return {name: package_version(name) for name in PACKAGES}


def package_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
