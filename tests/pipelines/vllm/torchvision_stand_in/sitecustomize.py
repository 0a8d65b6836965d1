"""Lets a torchvision built for CUDA be imported beside a torch for processors, by names for two operators that nothing here calls.

The registries' build for CUDA is the only one that tests can have. Put this folder first in PYTHONPATH: it holds for the processes that
vLLM starts as well. For tests alone; a user installs the build for their torch.
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
    """Finds nothing; names the operators when torchvision is first looked for."""

    library: Any = None

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        if name == "torchvision" and self.library is None:
            import torch

            self.library = torch.library.Library("torchvision", "DEF")
            for operator in OPERATORS:
                self.library.define(operator)


sys.meta_path.insert(0, _Before())
