"""Libraries of AMD GPUs that are chosen by switches of PyTorch or by environment variables, under one option.

tunable_op    true: PyTorch tries the kernels of hipBLASLt and rocBLAS for each matrix product in the warm-up, and keeps the fastest
hipblaslt     true: matrix products by hipBLASLt, false: by rocBLAS
miopen_find   how MIOpen looks for the VAE's convolution kernels: normal (tries all of them), fast, hybrid, dynamic_hybrid
triton_flash  true: the package flash-attn by its Triton kernels, for `attention: flash`
AITER's attention is an attention backend: `attention: aiter_fa2_hub`.

Sources: docs.pytorch.org, torch.cuda.tunable and torch.backends.cuda.preferred_blas_library; rocm.docs.amd.com, MIOpen, "Using the find
APIs and immediate mode"; flash-attention's README, "AMD ROCm Support". None of them has been run by us on an AMD GPU.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from configs.errors import ConfigError
from pipelines.diffusers.library_options import build
from pipelines.diffusers.speedups.base import DiffusersOptions, Loaded, SpeedUp, Target

FIND, TRITON = "MIOPEN_FIND_MODE", "FLASH_ATTENTION_TRITON_AMD_ENABLE"


@dataclass(frozen=True)
class Libraries:
    """None leaves a library as it is."""

    tunable_op: bool | None = None
    hipblaslt: bool | None = None
    miopen_find: Literal["normal", "fast", "hybrid", "dynamic_hybrid"] | None = None
    triton_flash: bool | None = None


class Rocm(SpeedUp):
    """Sets the libraries before anything is computed, and reads afterwards what is in force."""

    option = "rocm"
    unset = (None,)
    entry = "rocm"
    what = "pipeline 'diffusers_t2v': option 'rocm'"

    def __init__(self, options: DiffusersOptions) -> None:
        super().__init__(options)
        self._wanted: Libraries = build(Libraries, self.what, self.value or {})

    def check(self, target: Target) -> None:
        if target.device.type == "cpu" or not torch.version.hip:
            device = "a CPU" if target.device.type == "cpu" else "an NVIDIA GPU"
            raise ConfigError(f"{self.what} requires an AMD GPU; this device is {device}. Leave it out.")
        wanted = self._wanted
        if wanted.triton_flash is not None:
            if "flash_attn" in sys.modules and (os.environ.get(TRITON) == "TRUE") != wanted.triton_flash:
                raise ConfigError(f"{self.what}: flash-attn is loaded already. Set {TRITON}={str(wanted.triton_flash).upper()} instead.")
            os.environ[TRITON] = str(wanted.triton_flash).upper()
        if wanted.miopen_find is not None:
            os.environ[FIND] = wanted.miopen_find.upper()
        if wanted.hipblaslt is not None:
            torch.backends.cuda.preferred_blas_library("hipblaslt" if wanted.hipblaslt else "cublas")  # on ROCm `cublas` is rocBLAS
        if wanted.tunable_op is not None:
            torch.cuda.tunable.enable(wanted.tunable_op)

    def apply(self, loaded: Loaded) -> None:
        """Nothing is left to do once weights are read."""

    def effective(self, loaded: Loaded) -> str | None:
        return ", ".join(f"{name} {value}" for name, value in self._in_force().items()) if self.requested else None

    def fallbacks(self, loaded: Loaded) -> list[str]:
        found = self._in_force()
        wanted = {name: str(value).lower() for name, value in vars(self._wanted).items() if value is not None}
        return [f"option rocm: {name} is {found[name]}, not {value}" for name, value in wanted.items() if found[name] != value]

    def _in_force(self) -> Mapping[str, str]:
        """What each library is set to, in the option's words; of those that are requested."""
        read: dict[str, Callable[[], Any]] = {
            "tunable_op": torch.cuda.tunable.is_enabled,
            "hipblaslt": lambda: "lt" in str(torch.backends.cuda.preferred_blas_library()).rpartition(".")[2].lower(),
            "miopen_find": lambda: os.environ.get(FIND, "not set"),
            "triton_flash": lambda: os.environ.get(TRITON, "not set"),
        }
        return {name: str(now()).lower() for name, now in read.items() if getattr(self._wanted, name) is not None}
