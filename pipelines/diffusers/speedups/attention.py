"""diffusers' attention backends: which kernel a denoiser's attention runs on, refused before loading where it cannot.

native and _native_* are torch's own (`_native_math` spells it out, `_native_flash`, `_native_cudnn` and `_native_efficient` insist on one
kernel); flash, sage and xformers are packages; names in _hub are fetched from the hub by the package kernels, `aiter_fa2_hub` being
AITER's for ROCm. diffusers keeps the last one that was set for everything in the process that has none of its own: it is put back here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from configs.errors import ConfigError, first_line, unknown
from pipelines.devices.accelerators import require
from pipelines.diffusers.speedups.base import DiffusersOptions, Loaded, SpeedUp, Target

TRIED_TOKENS = 64  # in the product that a backend is tried on, with the denoiser's own heads
AMD = ("aiter",)  # how names of one vendor's kernels begin
NVIDIA = ("_native_cudnn", "flash_4", "_flash_3", "_flash_varlen_3", "sage_blackwell", "_sage_qk_int8_pv_fp8", "_sage_qk_int8_pv_fp16_cuda")


class Attention(SpeedUp):
    """One backend for every denoiser of a pipeline."""

    option = "attention"
    entry = "attention"

    def __init__(self, options: DiffusersOptions) -> None:
        super().__init__(options)
        self.name: str = self.value
        self.what = f"pipeline 'diffusers_t2v': attention {self.name!r}"
        if self.requested and self.name not in (known := _names()):
            raise ConfigError(f"pipeline 'diffusers_t2v': {unknown('attention', self.name, known)}")

    def check(self, target: Target) -> None:
        """Try the backend on a product of the denoisers' heads."""
        from diffusers.models import attention_dispatch as library

        parallel, device, dtype = self.options.replica.settings, target.device, target.dtype
        if parallel.context > 1 and parallel.context_kind == "ring":
            raise ConfigError("parallel.context_kind is 'ring', which has a kernel of its own; leave out option 'attention'")
        if self.name.startswith(AMD):
            require(self.what, device, "aiter")
            if dtype != torch.bfloat16:
                raise ConfigError(f"{self.what} computes in bfloat16 alone, not {_word(dtype)}; give dtype: bfloat16")
        if self.name.startswith(NVIDIA) and (device.type == "cpu" or torch.version.hip):
            raise ConfigError(f"{self.what} is for NVIDIA's GPUs, not {'AMD' if torch.version.hip else 'a processor'}; leave it out")
        backend = library.AttentionBackendName(self.name)
        if parallel.context > 1 and not library._AttentionBackendRegistry._is_context_parallel_available(backend):
            able = ", ".join(sorted(library._AttentionBackendRegistry._supports_context_parallel))
            raise ConfigError(f"{self.what} does not split a clip over ranks, which parallel.context asks for; those that do: {able}")
        for name, denoiser in target.outline.denoisers.items():
            if not list(_choosers(denoiser)):
                kind = type(denoiser).__name__
                raise ConfigError(f"{self.what}: the {kind} of {name!r} does not choose its attention by name; leave it out")
        try:
            library._check_attention_backend_requirements(backend)
            with _quiet():
                library._maybe_download_kernel_for_backend(backend)
            for shape in {_heads(denoiser) for denoiser in target.outline.denoisers.values()}:
                query_BTHD = torch.ones(1, TRIED_TOKENS, *shape, device=device, dtype=dtype)
                library.dispatch_attention_fn(query_BTHD, query_BTHD, query_BTHD, backend=backend)
        except Exception as error:  # a missing package, no such kernel for this device, or one that cannot be fetched
            raise ConfigError(f"{self.what} does not work here, on {device} in {_word(dtype)}: {first_line(error)}") from error

    def apply(self, loaded: Loaded) -> None:
        for denoiser in loaded.denoisers.values():
            with _quiet():
                denoiser.set_attention_backend(self.name)

    def effective(self, loaded: Loaded) -> str:
        """The backends that the denoisers' attention layers note; `native` where they note none."""
        return ", ".join(dict.fromkeys(name for denoiser in loaded.denoisers.values() for name in _noted(denoiser))) or "native"

    def fallbacks(self, loaded: Loaded) -> list[str]:
        wrong = {name: seen for name, denoiser in loaded.denoisers.items() if (seen := _noted(denoiser)) != [self.name]}
        return [f"attention of {name} is {' and '.join(seen)}, not {self.name}" for name, seen in wrong.items()]


def _names() -> list[str]:
    from diffusers.models.attention_dispatch import AttentionBackendName

    return [backend.value for backend in AttentionBackendName]


def _choosers(denoiser: Any) -> Iterator[Any]:
    """The denoiser's attention processors that take a backend."""
    for module in denoiser.modules():
        if hasattr(processor := getattr(module, "processor", None), "_attention_backend"):
            yield processor


def _noted(denoiser: Any) -> list[str]:
    found = dict.fromkeys(getattr(p._attention_backend, "value", p._attention_backend) or "native" for p in _choosers(denoiser))
    return [str(name) for name in found] or ["native"]


def _heads(denoiser: Any) -> tuple[int, int]:
    """Number and size of the heads; of a config that does not say, something that every kernel takes."""
    config = denoiser.config
    number, size = getattr(config, "num_attention_heads", None), getattr(config, "attention_head_dim", None)
    return (number if isinstance(number, int) else 2, size if isinstance(size, int) else 64)


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without diffusers' warning on every denoiser that this is experimental, and with the process's backend as it was."""
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry
    from diffusers.utils import logging

    level, active = logging.get_verbosity(), _AttentionBackendRegistry._active_backend
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        _AttentionBackendRegistry.set_active_backend(active)
