"""diffusers' attention backends: the kernel that computes a denoiser's attention, checked before weights are read.

native and _native_* are torch's own: `native` lets torch choose, `_native_math`, `_native_flash`, `_native_cudnn` and `_native_efficient`
require one kernel. flash, sage and xformers are packages. Names that end in _hub are downloaded by the package `kernels`;
`aiter_fa2_hub` is AITER's for ROCm. diffusers makes the last backend that was set the default of the whole process; it is reset here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from configs.errors import ConfigError, first_line, unknown
from pipelines.devices.accelerators import require
from pipelines.diffusers.speedups.base import DiffusersOptions, Loaded, SpeedUp, Target

TRIAL_TOKENS = 64  # of the attention that a backend is tried on, with the denoiser's own heads
AMD = ("aiter",)  # prefixes of backends that run on one vendor's GPUs
NVIDIA = ("_native_cudnn", "flash_4", "_flash_3", "_flash_varlen_3", "sage_blackwell", "_sage_qk_int8_pv_fp8", "_sage_qk_int8_pv_fp16_cuda")


class Attention(SpeedUp):
    """One backend for every denoiser of a pipeline."""

    option = "attention"
    entry = "attention"

    def __init__(self, options: DiffusersOptions) -> None:
        super().__init__(options)
        self.name: str = self.value
        self.what = f"pipeline 'diffusers_t2v': attention {self.name!r}"
        if self.requested and self.name not in (known := _known_backends()):
            raise ConfigError(f"pipeline 'diffusers_t2v': {unknown('attention', self.name, known)}")

    def check(self, target: Target) -> None:
        """Try the backend on attention of the denoisers' shape."""
        from diffusers.models import attention_dispatch as library

        parallel, device, dtype = self.options.replica.settings, target.device, target.dtype
        if parallel.context > 1 and parallel.context_kind == "ring":
            raise ConfigError(
                "option 'attention' cannot be combined with parallel.context_kind 'ring', which needs a kernel of its own. Leave it out."
            )
        if self.name.startswith(AMD):
            require(self.what, device, "aiter")
            if dtype != torch.bfloat16:
                raise ConfigError(f"{self.what} requires dtype bfloat16, got {_name(dtype)}.")
        if self.name.startswith(NVIDIA) and (device.type == "cpu" or torch.version.hip):
            device_name = "a CPU" if device.type == "cpu" else "an AMD GPU"
            raise ConfigError(f"{self.what} requires an NVIDIA GPU; this device is {device_name}. Choose another backend, or leave it out.")
        backend = library.AttentionBackendName(self.name)
        if parallel.context > 1 and not library._AttentionBackendRegistry._is_context_parallel_available(backend):
            able = ", ".join(sorted(library._AttentionBackendRegistry._supports_context_parallel))
            raise ConfigError(f"{self.what} does not support parallel.context. Backends that do: {able}.")
        for name, denoiser in target.outline.denoisers.items():
            if not list(_processors(denoiser)):
                kind = type(denoiser).__name__
                raise ConfigError(f"{self.what}: the {kind} of {name!r} has no selectable attention backend. Leave it out.")
        try:
            library._check_attention_backend_requirements(backend)
            with _quiet():
                library._maybe_download_kernel_for_backend(backend)
            for shape in {_heads(denoiser) for denoiser in target.outline.denoisers.values()}:
                query_BTHD = torch.ones(1, TRIAL_TOKENS, *shape, device=device, dtype=dtype)
                library.dispatch_attention_fn(query_BTHD, query_BTHD, query_BTHD, backend=backend)
        except Exception as error:  # a missing package, no such kernel for this device, or one that cannot be fetched
            raise ConfigError(f"{self.what} does not run on {device} in {_name(dtype)}: {first_line(error)}") from error

    def apply(self, loaded: Loaded) -> None:
        for denoiser in loaded.denoisers.values():
            with _quiet():
                denoiser.set_attention_backend(self.name)

    def effective(self, loaded: Loaded) -> str:
        """The backends set in the denoisers' attention layers; `native` where none is set."""
        return ", ".join(dict.fromkeys(name for denoiser in loaded.denoisers.values() for name in _backends(denoiser))) or "native"

    def fallbacks(self, loaded: Loaded) -> list[str]:
        wrong = {name: backends for name, denoiser in loaded.denoisers.items() if (backends := _backends(denoiser)) != [self.name]}
        return [f"attention of {name} is {' and '.join(backends)}, not {self.name}" for name, backends in wrong.items()]


def _known_backends() -> list[str]:
    from diffusers.models.attention_dispatch import AttentionBackendName

    return [backend.value for backend in AttentionBackendName]


def _processors(denoiser: Any) -> Iterator[Any]:
    """The denoiser's attention processors that have a backend."""
    for module in denoiser.modules():
        if hasattr(processor := getattr(module, "processor", None), "_attention_backend"):
            yield processor


def _backends(denoiser: Any) -> list[str]:
    names = dict.fromkeys(getattr(p._attention_backend, "value", p._attention_backend) or "native" for p in _processors(denoiser))
    return [str(name) for name in names] or ["native"]


def _heads(denoiser: Any) -> tuple[int, int]:
    """Number and size of the heads; where the config does not say, a shape that every kernel supports."""
    config = denoiser.config
    number, size = getattr(config, "num_attention_heads", None), getattr(config, "attention_head_dim", None)
    return (number if isinstance(number, int) else 2, size if isinstance(size, int) else 64)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress diffusers' warning that this is experimental, and restore the process's default backend."""
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry
    from diffusers.utils import logging

    level, active = logging.get_verbosity(), _AttentionBackendRegistry._active_backend
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        _AttentionBackendRegistry.set_active_backend(active)
