"""The device of the GPU proof: name, memory, power limit and software. Runs in a process of its own, before any part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.gpu.part import Job, Keep


def measure(job: Job, keep: Keep) -> None:
    import torch

    from pipelines.devices.system import system_facts
    from pipelines.launcher.provenance import suite_commit

    facts = system_facts()
    accelerators = facts.pop("accelerators")
    keep("torch_device", "cuda:0" if torch.cuda.is_available() else "cpu")
    keep("name", accelerators[0]["name"] if accelerators else facts["processor"])
    keep("accelerator", accelerators[0] if accelerators else None)
    keep("num_accelerators", len(accelerators))
    keep("system", facts)
    keep("suite_commit", suite_commit())


def summary(figures: Mapping[str, Any]) -> str:
    return str(figures["name"])
