"""Makes a torchvision built for CUDA importable beside a torch for CPUs, by declaring two operators that nothing here calls.

The package index has only the build for CUDA. Put this folder first in PYTHONPATH, so that processes started by vLLM use it too. For tests
only; a user installs the build for their torch.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from typing import Any

OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


class _Before(MetaPathFinder):
    """Finds nothing; declares the operators when torchvision is first imported."""

    library: Any = None

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        if name == "torchvision" and self.library is None:
            import torch

            self.library = torch.library.Library("torchvision", "DEF")
            for operator in OPERATORS:
                self.library.define(operator)


sys.meta_path.insert(0, _Before())
