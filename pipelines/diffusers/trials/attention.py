"""Which attention backend the denoisers get on a GPU where option `attention` is not given, or is `auto`.

Each candidate is timed on attention of the run's own shape, for about a second in all. The fastest whose output is close to native's is
then used for one denoising step of the whole model, whose latents must be close to native's too; if they are not, or if it raises (an
attention with a mask, say), the next one is tried. FA3 is found as flash-attn-3, or as fa3-fwd, which has its forward kernels alone.

Shape letters: B batch, T tokens, H heads, D width of a head.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from configs.errors import first_line
from pipelines.diffusers.trials.timing import agreed, difference, seconds_each

NATIVE = "native"
ON_NVIDIA = ("_flash_3", "flash", "_native_cudnn")
ON_AMD = ("aiter_fa2_hub", "flash")
HALF = (torch.bfloat16, torch.float16)  # dtypes of these kernels
BUDGET_S = 1.0
# Kernels of one dtype differ in the order of their sums: by 0.002 to 0.005 in bfloat16, whose eps is 0.0078. After a whole step the
# differences of all layers have added up. A quantised kernel (SageAttention) is not a candidate.
CLOSE, CLOSE_AFTER_A_STEP = 0.02, 0.1
WORTHWHILE = 0.97  # of native's time, at most


class Shape(NamedTuple):
    """Of one denoiser's self-attention."""

    batch: int
    tokens: int
    heads: int
    width: int


def candidates(device: torch.device, dtype: torch.dtype) -> tuple[str, ...]:
    """Backends to try beside native; none on a CPU, and none in float32, which these kernels do not compute in."""
    if device.type != "cuda" or dtype not in HALF:
        return ()
    return ON_AMD if torch.version.hip else ON_NVIDIA


def times(names: Sequence[str], shape: Shape, device: torch.device, dtype: torch.dtype) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds by backend, on the slowest rank, native's first; and why the others are not possible."""
    from diffusers.models import attention_dispatch as library

    generator = torch.Generator("cpu").manual_seed(0)
    qkv_BTHD = [torch.randn(shape, generator=generator).to(device, dtype) for _ in range(3)]

    def attend(name: str) -> torch.Tensor:
        out: torch.Tensor = library.dispatch_attention_fn(*qkv_BTHD, backend=library.AttentionBackendName(name))
        return out

    why_not: dict[str, str] = {}
    seconds: list[float] = []
    with torch.inference_mode():
        expected = attend(NATIVE)
        for name in (NATIVE, *names):
            try:
                prepare(name)
                found = difference(expected, attend(name))
                if found > CLOSE:
                    raise ValueError(f"its output differs from native's by {found:.2g}")
                seconds.append(seconds_each(lambda name=name: attend(name), device, BUDGET_S / (1 + len(names))))  # type: ignore[misc]
            except Exception as error:  # a missing package, no kernel for this device, or one that cannot be fetched
                why_not[name] = first_line(error)
                seconds.append(math.inf)
    together = dict(zip((NATIVE, *names), agreed(seconds, device), strict=True))
    why_not = {name: why_not.get(name, "another rank cannot") for name, value in together.items() if math.isinf(value)}
    return {name: value for name, value in together.items() if name not in why_not}, why_not


def choose(
    seconds: dict[str, float], use: Callable[[str], None], step: Callable[[], torch.Tensor], device: torch.device
) -> tuple[str, dict[str, str]]:
    """The fastest backend with which a step of the model is close to native's; and why faster ones are not taken.

    seconds: of `times`. use: sets a backend in the model. step: makes a denoising step and returns its latents.
    """
    faster = [name for name in sorted(seconds, key=lambda n: seconds[n]) if seconds[name] < WORTHWHILE * seconds[NATIVE]]
    refused: dict[str, str] = {}
    if not faster:
        return NATIVE, refused
    use(NATIVE)
    failed, expected = "", torch.empty(0)
    try:
        expected = step()
    except Exception as error:  # a scheduler that cannot make one step, say; the warm-up shows what is wrong, if anything is
        failed = first_line(error)
    if agreed([bool(failed)], device)[0]:
        return NATIVE, {"a step with native": failed or "another rank cannot"}
    for name in faster:
        try:
            use(name)
            found = difference(expected, step())
            why = f"a step's latents differ from native's by {found:.2g}" if found > CLOSE_AFTER_A_STEP else ""
        except Exception as error:  # such as a mask that the kernel does not take
            found, why = math.inf, first_line(error)
        if agreed([found], device)[0] <= CLOSE_AFTER_A_STEP:
            return name, refused
        refused[name] = why or "another rank cannot"
    use(NATIVE)
    return NATIVE, refused


def reason(chosen: str, seconds: dict[str, float], why_not: dict[str, str]) -> str:
    """For the report: `fastest of a trial: _flash_3 3.1 ms, native 5.0 ms; flash: not installed`."""
    listed = ", ".join(f"{name} {1e3 * value:.3g} ms" for name, value in sorted(seconds.items(), key=lambda item: item[1]))
    left = "".join(f"; {name}: {why[:120]}" for name, why in why_not.items())
    taken = "fastest of a trial" if chosen != NATIVE else "none was faster in a trial"
    return f"{taken}: {listed}{left}"


def prepare(name: str) -> None:
    """Make a backend ready for use. Raises what the library raises where it is not installed."""
    from diffusers.models import attention_dispatch as library

    if name == "_flash_3":
        _offer_fa3_fwd(library)
    backend = library.AttentionBackendName(name)
    library._check_attention_backend_requirements(backend)
    library._maybe_download_kernel_for_backend(backend)


def _offer_fa3_fwd(library: Any) -> None:
    """Give diffusers the package fa3-fwd in place of flash-attn-3, which it looks for by that name alone (diffusers 0.42)."""
    if library._CAN_USE_FLASH_ATTN_3 or importlib.util.find_spec("fa3_fwd_interface") is None:
        return
    from fa3_fwd_interface import flash_attn_func

    library.flash_attn_3_func = flash_attn_func
    library._CAN_USE_FLASH_ATTN_3 = True
