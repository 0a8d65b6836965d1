"""torch.compile on the denoisers' repeated blocks: one block is compiled, and all others of its class use the result.

Mode `default`, which was faster than `max-autotune-no-cudagraphs` for Wan 2.2 (sglang #28304). torchao's quantised layers are written to
be compiled: without it they were slower than bfloat16 on an H100 (docs/gpu.md), so on a GPU they are compiled where nothing else is said.
Compilation happens in the warm-up, at the first use of each shape. Its seconds are reported; if they grow during the timed test, a shape
was new there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from configs.errors import ConfigError
from pipelines.diffusers.speedups.base import DiffusersOptions, Loaded, SpeedUp, name_of
from pipelines.diffusers.trials.timing import chooses


class Compile(SpeedUp):
    """Compiles the blocks that each denoiser's class names as repeated. None: on a GPU, those of torchao's quantised kinds."""

    option = "compile"
    entry = "compiled"

    def __init__(self, options: DiffusersOptions) -> None:
        super().__init__(options)
        self._begin_s: float | None = None  # spent on compilation in this process before

    @property
    def requested(self) -> bool:
        return self.value is not False

    def apply(self, loaded: Loaded) -> None:
        can = all(getattr(denoiser, "_repeated_blocks", None) for denoiser in loaded.denoisers.values())
        needed = name_of(self.options.quantisation) == "torchao" and chooses(loaded.device)
        if self.value is None and not (needed and can):
            return
        if not can:
            raise ConfigError(f"model {self.options.model!r} has no repeated blocks to compile. Leave out option 'compile'.")
        for denoiser in loaded.denoisers.values():
            denoiser.compile_repeated_blocks(mode="default")
        self._begin_s = _compile_s()

    def effective(self, loaded: Loaded) -> str:
        modules = (module for denoiser in loaded.denoisers.values() for module in denoiser.modules())
        return str(any(getattr(module, "_compiled_call_impl", None) is not None for module in modules))

    def notes(self, loaded: Loaded) -> Mapping[str, str]:
        if self._begin_s is None:
            return {}
        why = {} if self.value else {"compile_choice": "on: torchao's kinds are slower without it"}
        return why | {"compile_s": f"{_compile_s() - self._begin_s:.1f}"}

    def fallbacks(self, loaded: Loaded) -> Sequence[str]:
        wanted = self.value or self._begin_s is not None
        return ["no block of the denoiser is compiled"] if wanted and self.effective(loaded) == "False" else []


def _compile_s() -> float:
    """Seconds that this process has spent on torch.compile so far."""
    from torch._dynamo.utils import calculate_time_spent

    return float(calculate_time_spent().get("total_wall_time", 0.0))
