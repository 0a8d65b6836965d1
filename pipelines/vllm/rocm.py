"""vLLM's options for ROCm, which are environment variables: AITER's kernels, and the number format of quick reduce.

They are set before vLLM is imported, since it reads some of them then; afterwards the effective ones are read from vLLM. Names and
defaults: vllm/envs.py of 0.32; effective kernels: vllm/_aiter_ops.py, vllm/distributed/device_communicators/quick_all_reduce.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from configs.errors import ConfigError, unknown
from pipelines.devices.accelerators import require

if TYPE_CHECKING:
    import torch

AITER, QUICK_REDUCE = "VLLM_ROCM_USE_AITER", "VLLM_ROCM_QUICK_REDUCE_QUANTIZATION"
CAST = "VLLM_ROCM_QUICK_REDUCE_CAST_BF16_TO_FP16"
REDUCED_TO = ("NONE", "FP", "INT8", "INT6", "INT4", "INT3")
REDUCED_RANKS = (2, 4, 8)  # QuickAllReduce._SUPPORTED_WORLD_SIZES


class Part(NamedTuple):
    """A part of AITER. check: the method of vLLM's `rocm_aiter_ops` that returns whether the part is effective."""

    meaning: str
    check: str


PARTS: Mapping[str, Part] = {
    "linear": Part("linear layers", "is_linear_enabled"),
    "linear_hipbmm": Part("linear layers by hipBLASLt through AITER", "is_linear_hipbmm_enabled"),
    "moe": Part("experts", "is_fused_moe_enabled"),
    "fusion_shared_experts": Part("shared experts fused with the others", "is_fusion_moe_shared_experts_enabled"),
    "mha": Part("attention", "is_mha_enabled"),
    "unified_attention": Part("attention by AITER's Triton kernels", "is_triton_unified_attn_enabled"),
    "mla": Part("latent attention", "is_mla_enabled"),
    "fp8bmm": Part("batched fp8 products of latent attention", "is_fp8bmm_enabled"),
    "fp4bmm": Part("batched fp4 products of latent attention", "is_fp4bmm_enabled"),
    "fp4_asm_gemm": Part("fp4 products in assembly", "is_asm_fp4_gemm_dynamic_quant_enabled"),
    "triton_gemm": Part("products by AITER's Triton kernels", "is_triton_gemm_enabled"),
    "triton_rope": Part("rotary positions", "is_triton_rotary_embed_enabled"),
    "custom_ar": Part("all-reduce", "is_custom_all_reduce_enabled"),
}
ATTENTION_PARTS = ("mha", "unified_attention", "mla")


@dataclass(frozen=True)
class RocmOptions:
    """None keeps vLLM's default. aiter: all kernels on or off, or parts by their names in PARTS, which turns AITER on."""

    aiter: bool | Mapping[str, bool] | None = None
    quick_reduce: str | None = None
    quick_reduce_cast: bool | None = None

    def __post_init__(self) -> None:
        for name in self.parts:
            if name not in PARTS:
                raise ConfigError(f"pipeline 'vllm': option 'aiter' has {unknown('part', name, PARTS)}")
        if self.quick_reduce_cast is not None and self.quick_reduce in (None, "NONE"):
            raise ConfigError("pipeline 'vllm': quick_reduce_cast has no effect without quick_reduce; give both, or leave it out")

    @property
    def parts(self) -> Mapping[str, bool]:
        return self.aiter if isinstance(self.aiter, Mapping) else {}

    @property
    def wants_aiter(self) -> bool:
        return self.aiter is True or bool(self.parts)

    def variables(self) -> dict[str, str]:
        """Environment variables to be set before vLLM is imported."""
        variables = {} if self.aiter is None else {AITER: str(int(self.wants_aiter))}
        variables |= {f"{AITER}_{name.upper()}": str(int(on)) for name, on in self.parts.items()}
        variables |= {} if self.quick_reduce is None else {QUICK_REDUCE: self.quick_reduce}
        return variables | ({} if self.quick_reduce_cast is None else {CAST: str(int(self.quick_reduce_cast))})

    def check(self, device: torch.device, num_ranks: int, dtype: str) -> None:
        """Raises ConfigError for what the device cannot do, what would have no effect, and what contradicts the environment."""
        import torch

        named = [name for name in ("aiter", "quick_reduce", "quick_reduce_cast") if getattr(self, name) is not None]
        if named and (device.type == "cpu" or torch.version.hip is None):
            where = "a CPU" if device.type == "cpu" else "CUDA"
            raise ConfigError(f"pipeline 'vllm': {named[0]} needs vLLM on ROCm, and this run is on {where}; leave it out")
        if self.wants_aiter:
            require("pipeline 'vllm': option 'aiter'", device, "aiter")
        if self.quick_reduce not in (None, "NONE"):
            require("pipeline 'vllm': option 'quick_reduce'", device, "quick_reduce")
            if num_ranks not in ((2,) if self.quick_reduce == "INT3" else REDUCED_RANKS):
                sizes = "2" if self.quick_reduce == "INT3" else ", ".join(map(str, REDUCED_RANKS))
                raise ConfigError(
                    f"pipeline 'vllm': quick_reduce: {self.quick_reduce} needs replicas of {sizes} ranks, and "
                    f"parallel.tensor is {num_ranks}; leave it out, or change parallel.tensor"
                )
            if dtype == "float32":
                raise ConfigError("pipeline 'vllm': quick_reduce sends 16-bit numbers, and dtype is float32; give bfloat16 or float16")
        for name, value in self.variables().items():
            if name in os.environ and not _same(os.environ[name], value):
                raise ConfigError(f"pipeline 'vllm': its options set {name}={value}, but the environment has {os.environ[name]}; unset it")


def effective_kernels(communicator: Any) -> dict[str, str]:
    """The effective kernels on ROCm, by vLLM's own account; empty elsewhere. communicator: of the tensor-parallel group, or None."""
    from vllm._aiter_ops import rocm_aiter_ops
    from vllm.platforms import current_platform

    if not current_platform.is_rocm():
        return {}
    on = aiter_parts(rocm_aiter_ops)
    reducer = getattr(communicator, "qr_comm", None)
    reduces = reducer is not None and not reducer.disabled
    return {
        "aiter": ("on: " + (", ".join(on) or "none of its parts")) if rocm_aiter_ops.is_enabled() else "off",
        "quick_reduce": reducer.qr_quant_level.name if reducer is not None and reduces else "off",
    }


def aiter_parts(ops: Any) -> list[str]:
    """Names of the effective parts. ops: `rocm_aiter_ops`, whose methods return None where AITER is not installed."""
    return [name for name, part in PARTS.items() if getattr(ops, part.check)()]


def ineffective_options(options: RocmOptions, facts: Mapping[str, str], attention: Sequence[str]) -> list[str]:
    """A sentence for each requested option that is not effective. facts: of `effective_kernels`. attention: the layers' backends."""
    sentences = []
    state = facts.get("aiter", "off")
    parts = state.removeprefix("on: ").split(", ") if state.startswith("on") else []
    if options.aiter is not None and options.wants_aiter != state.startswith("on"):
        sentences.append(f"aiter is {state}, not {'on' if options.wants_aiter else 'off'}")
    for name, wanted in options.parts.items():
        if (name in parts) != wanted:
            sentences.append(f"aiter's part {name} is {'on' if name in parts else 'off'}, not {'on' if wanted else 'off'}")
        elif wanted and name in ATTENTION_PARTS and not any("AITER" in backend for backend in attention):
            sentences.append(f"aiter's part {name} is allowed, but attention is by {', '.join(attention)}; name it by attention_backend")
    if options.quick_reduce is not None:
        reduced = facts.get("quick_reduce", "off")
        if reduced != ("off" if options.quick_reduce == "NONE" else options.quick_reduce):
            sentences.append(f"quick_reduce is {reduced}, not {options.quick_reduce}")
    return sentences


def _same(one: str, other: str) -> bool:
    """Whether vLLM reads two values as the same."""
    meanings = {"true": "1", "false": "0"}
    return meanings.get(one.lower(), one) == meanings.get(other.lower(), other)
