"""torch.compile on the denoisers' repeated blocks: one block is compiled, and all others of its class use the result."""

from __future__ import annotations

from collections.abc import Sequence

from configs.errors import ConfigError
from pipelines.diffusers.speedups.base import Loaded, SpeedUp


class Compile(SpeedUp):
    """Compiles the blocks that each denoiser's class names as repeated."""

    option = "compile"
    entry = "compiled"

    def apply(self, loaded: Loaded) -> None:
        if not all(getattr(denoiser, "_repeated_blocks", None) for denoiser in loaded.denoisers.values()):
            raise ConfigError(f"model {self.options.model!r} has no repeated blocks to compile. Leave out option 'compile'.")
        for denoiser in loaded.denoisers.values():
            denoiser.compile_repeated_blocks()

    def effective(self, loaded: Loaded) -> str:
        modules = (module for denoiser in loaded.denoisers.values() for module in denoiser.modules())
        return str(any(getattr(module, "_compiled_call_impl", None) is not None for module in modules))

    def fallbacks(self, loaded: Loaded) -> Sequence[str]:
        return ["no block of the denoiser is compiled"] if self.effective(loaded) == "False" else []
