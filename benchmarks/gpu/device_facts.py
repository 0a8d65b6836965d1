"""What the GPU proof was run on: the device's name, memory, power limit and software. Asked in a process of its own, before any part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.gpu.part import Job, Keep


def measure(job: Job, keep: Keep) -> None:
    import torch

    from pipelines.devices.system import system_facts
    from pipelines.launcher.provenance import suite_commit

    facts = system_facts()
    found = facts.pop("accelerators")
    keep("torch_device", "cuda:0" if torch.cuda.is_available() else "cpu")
    keep("name", found[0]["name"] if found else facts["processor"])
    keep("accelerator", found[0] if found else None)
    keep("num_accelerators", len(found))
    keep("system", facts)
    keep("suite_commit", suite_commit())


def summary(figures: Mapping[str, Any]) -> str:
    return str(figures["name"])
