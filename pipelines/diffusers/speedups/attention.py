"""diffusers' attention backends: the kernel that computes a denoiser's attention, checked before weights are read.

native and _native_* are torch's own: `native` lets torch choose, `_native_math`, `_native_flash`, `_native_cudnn` and `_native_efficient`
require one kernel. flash, sage and xformers are packages. Names that end in _hub are downloaded by the package `kernels`;
`aiter_fa2_hub` is AITER's for ROCm. Where none is named, trials/attention.py chooses on a GPU; on a CPU it is `native`. diffusers makes the
last backend that was set the default of the whole process; it is reset here.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from configs.errors import ConfigError, first_line, unknown
from pipelines.devices.accelerators import require
from pipelines.diffusers.speedups.base import DiffusersOptions, Loaded, SpeedUp, Target
from pipelines.diffusers.trials import attention as attention_trial
from pipelines.diffusers.trials.timing import chooses

TRIAL_TOKENS = 64  # of the attention that a backend is tried on, with the denoiser's own heads
AMD = ("aiter",)  # prefixes of backends that run on one vendor's GPUs
NVIDIA = ("_native_cudnn", "flash_4", "_flash_3", "_flash_varlen_3", "sage_blackwell", "_sage_qk_int8_pv_fp8", "_sage_qk_int8_pv_fp16_cuda")


class Attention(SpeedUp):
    """One backend for every denoiser of a pipeline. Always requested: without a name, the fastest of a trial on a GPU."""

    option = "attention"
    entry = "attention"

    def __init__(self, options: DiffusersOptions) -> None:
        super().__init__(options)
        self.name: str | None = None if self.value == "auto" else self.value
        self.what = f"pipeline 'diffusers_t2v': attention {self.name!r}"
        self._choice: str | None = None
        if self.name is not None and self.name not in (known := ["auto", *_known_backends()]):
            raise ConfigError(f"pipeline 'diffusers_t2v': {unknown('attention', self.name, known)}")

    @property
    def requested(self) -> bool:
        return True

    def check(self, target: Target) -> None:
        """Try the backend on attention of the denoisers' shape."""
        if self.name is None:
            return
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
            with _quiet():
                attention_trial.prepare(self.name)
            for shape in {_heads(denoiser) for denoiser in target.outline.denoisers.values()}:
                query_BTHD = torch.ones(1, TRIAL_TOKENS, *shape, device=device, dtype=dtype)
                library.dispatch_attention_fn(query_BTHD, query_BTHD, query_BTHD, backend=backend)
        except Exception as error:  # a missing package, no such kernel for this device, or one that cannot be fetched
            raise ConfigError(f"{self.what} does not run on {device} in {_name(dtype)}: {first_line(error)}") from error

    def apply(self, loaded: Loaded) -> None:
        if self.name is not None:
            _use(self.name, loaded)
        elif chooses(loaded.device):
            chosen, self._choice = self._choose(loaded)
            if chosen is not None:
                _use(chosen, loaded)

    def effective(self, loaded: Loaded) -> str:
        """The backends set in the denoisers' attention layers; `native` where none is set."""
        return ", ".join(dict.fromkeys(name for denoiser in loaded.denoisers.values() for name in _backends(denoiser))) or "native"

    def notes(self, loaded: Loaded) -> Mapping[str, str]:
        return {} if self._choice is None else {"attention_choice": self._choice}

    def fallbacks(self, loaded: Loaded) -> list[str]:
        if self.name is None:
            return []
        wrong = {name: backends for name, denoiser in loaded.denoisers.items() if (backends := _backends(denoiser)) != [self.name]}
        return [f"attention of {name} is {' and '.join(backends)}, not {self.name}" for name, backends in wrong.items()]

    def _choose(self, loaded: Loaded) -> tuple[str | None, str]:
        """The backend to set, or None to leave things as they are, and the reason."""
        first, tokens = next(iter(loaded.denoisers.values())), loaded.family.num_tokens()
        names = attention_trial.candidates(loaded.device, first.dtype)
        why_not = {
            "variable DIFFUSERS_ATTN_BACKEND is set": "DIFFUSERS_ATTN_BACKEND" in os.environ,
            "the denoiser has no selectable backend": not list(_processors(first)),
            "a replica of several ranks": self.options.replica.size > 1,  # one rank alone may not have the memory for a step
            f"no other backend computes in {_name(first.dtype)} on {loaded.device.type}": not names,
            "the number of tokens is not known": tokens is None,
        }
        if why := next((text for text, holds in why_not.items() if holds), None):
            return None, f"no trial: {why}"
        assert tokens is not None
        shape = attention_trial.Shape(self.options.batch_size, tokens, *_heads(first))
        with _quiet():
            seconds, others = attention_trial.times(names, shape, loaded.device, first.dtype)
            chosen, refused = attention_trial.choose(
                seconds, lambda name: _use(name, loaded), lambda: loaded.step(self.options.batch_size), loaded.device
            )
        return chosen, attention_trial.reason(chosen, seconds, others | refused)


def _use(name: str, loaded: Loaded) -> None:
    for denoiser in loaded.denoisers.values():
        with _quiet():
            denoiser.set_attention_backend(name)


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
