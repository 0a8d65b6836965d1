"""Which attention a language model gets for continuous batching on a GPU, where `attn_implementation` is not given."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

from pipelines.transformers.flash.functions import FA3, TORCH

MAX_WIDTH = 256  # of a head, for every flash attention kernel
HOPPER = 9


def use_best(model: Any) -> str:
    """Give the model the first flash attention that is at hand and takes it; its own stays where none does. Returns the reason."""
    if why_not := unfit(model):
        return f"{model.config._attn_implementation}: {why_not}"
    failed = []
    for name, why in candidates(model):
        try:
            model.set_attn_implementation(name)
        except (ImportError, OSError, RuntimeError, ValueError) as error:  # such as a hub that does not answer
            failed.append(f"{name}: {str(error).splitlines()[0][:100]}")
        else:
            return "; ".join([why, *failed])
    return "; ".join(["no flash attention is at hand: pip install flash-attn", *failed])


def unfit(model: Any) -> str | None:
    """Why flash attention is not for this model here; None where it is."""
    import torch

    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if model.device.type != "cuda":
        return f"the device is {model.device.type}"
    if model.dtype not in (torch.bfloat16, torch.float16):
        return f"dtype is {str(model.dtype).removeprefix('torch.')}, and flash attention takes bfloat16 and float16"
    if not getattr(model, "_supports_flash_attn", False):
        return f"transformers' {type(model).__name__} does not support flash attention"
    if kinds != {"full_attention"}:  # transformers decodes these from gathered keys only
        return f"its layers are {', '.join(sorted(kinds))}"
    if width > MAX_WIDTH or width % 8:
        return f"its heads are {width} wide, and flash attention takes multiples of 8 up to {MAX_WIDTH}"
    return None


def candidates(model: Any) -> Iterator[tuple[str, str]]:
    """Names of attention implementations and why each is possible, best first."""
    import torch
    from transformers.utils.import_utils import is_flash_attn_2_available, is_flash_attn_3_available

    on_rocm = torch.version.hip is not None
    if not on_rocm and is_flash_attn_3_available():
        yield "flash_attention_3", "flash-attn 3 is installed"
    if is_flash_attn_2_available():
        yield "flash_attention_2", f"flash-attn 2 is installed{', its ROCm build' if on_rocm else ''}"
    if importlib.util.find_spec("kernels"):  # transformers fetches FA3 or, on ROCm, AITER's kernels from the hub
        yield "flash_attention_3", f"{'AITER' if on_rocm else 'FA3'} from the kernels hub"
    if importlib.util.find_spec("triton") is None:
        return
    is_hopper = not on_rocm and torch.cuda.get_device_capability(model.device)[0] == HOPPER
    if is_hopper and model.dtype == torch.bfloat16 and importlib.util.find_spec("fa3_fwd_interface"):
        yield FA3, "fa3-fwd is installed, for prompts; decoding by a Triton kernel"
    yield TORCH, "flash-attn is not installed: torch's kernel for prompts, a Triton kernel for decoding"
