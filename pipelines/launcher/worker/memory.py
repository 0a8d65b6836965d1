"""Memory of a rank: its peak, and what a batch that ran out of it still holds."""

from __future__ import annotations

import gc
import resource
import sys
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def peak_memory(device: torch.device) -> dict[str, int]:
    """Bytes: `host`, and `device` on a GPU."""
    import torch

    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in KiB on Linux
    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if device.type == "cuda":
        peak["device"] = torch.cuda.max_memory_allocated(device)
    return peak


def free_memory(error: Exception) -> None:
    """Release what a batch held that failed for lack of memory, so that the next one may succeed."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        traceback.clear_frames(error.__traceback__)
        gc.collect()
        if torch.accelerator.is_available():
            torch.accelerator.empty_cache()
