"""diffusers' denoiser caches: work of one denoising step used again in the next.

By name, with the parameters of diffusers' own config class, which its documentation explains:
  first_block    FirstBlockCacheConfig    all later blocks skipped while the first one's output hardly changes
  taylorseer     TaylorSeerCacheConfig    outputs of chosen modules extrapolated between steps that are computed
  mag            MagCacheConfig           all blocks skipped while residuals, as measured beforehand, hardly grow
  sea            SeaCacheConfig           all blocks skipped while the latents, filtered by noise level, hardly change; text-to-video Wan
  pyramid_attention_broadcast             attention computed every n-th time
  faster         FasterCacheConfig        the same, and the guidance pass approximated
  text_kv        TextKVCacheConfig        keys and values of the text kept: exact; for Nucleus's blocks alone

first_block and sea decide for a whole batch at once: what they skip in an answer, and so the answer, depends on the batch that
it is in. The others go by the step alone. pyramid_attention_broadcast and faster know no guidance passes: where a pipeline
makes two a step, one takes over the other's attention; effective() says so.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from configs.errors import ConfigError, first_line
from pipelines.diffusers.library_options import build, named
from pipelines.diffusers.speedups.base import DiffusersOptions, Loaded, SpeedUp, Target, hooks_of
from pipelines.diffusers.speedups.mag_calibration import measure_ratios
from pipelines.diffusers.speedups.skipped_work import DenoiserWork

CONFIGS = {
    "first_block": "FirstBlockCacheConfig",
    "taylorseer": "TaylorSeerCacheConfig",
    "mag": "MagCacheConfig",
    "sea": "SeaCacheConfig",
    "pyramid_attention_broadcast": "PyramidAttentionBroadcastConfig",
    "faster": "FasterCacheConfig",
    "text_kv": "TextKVCacheConfig",
}
BY_BATCH = ("first_block", "sea")  # decide by what they see, and see a batch
BLIND_TO_PASSES = ("pyramid_attention_broadcast", "faster")  # keep one state for both guidance passes
# Below these diffusers divides by nought, predicts from nothing, or never skips without a word.
LEAST: dict[str, float] = {
    "threshold": 0,
    "cache_interval": 1,
    "disable_cache_before_step": 1,
    "max_order": 0,
    "max_skip_steps": 0,
    "retention_ratio": 0,
    "spatial_attention_block_skip_range": 1,
    "temporal_attention_block_skip_range": 1,
    "cross_attention_block_skip_range": 1,
    "unconditional_batch_skip_range": 1,
}


class Cache(SpeedUp):
    """One cache with its parameters, put into every denoiser of a pipeline.

    mag_ratios: of `mag`, one list for all denoisers or one for each. Where they are not given, they are measured on loading, in one
    answer to a fixed prompt, as the mean over both guidance passes; effective() names them.
    """

    option = "cache"
    unset = (None, "none")
    entry = "cache"

    def __init__(self, options: DiffusersOptions) -> None:
        super().__init__(options)
        if not self.requested:
            return
        self.name, given = named("pipeline 'diffusers_t2v'", "cache", self.value, sorted(CONFIGS))
        self.what = f"pipeline 'diffusers_t2v': cache {self.name!r}"
        ratios: Any = given.pop("mag_ratios", None) if self.name == "mag" else None
        nested = isinstance(ratios, list) and ratios and isinstance(ratios[0], list)
        self._ratios: list[Any] | None = None if ratios is None else ratios if nested else [ratios]
        self._given = given
        if not all(isinstance(r, list) and r and all(isinstance(x, int | float) and x > 0 for x in r) for r in self._ratios or ()):
            raise ConfigError(f"{self.what}: option 'mag_ratios' is {ratios!r}; give a list of numbers above 0, or one for each denoiser")
        self._config(None, 1, [1.0])
        if options.first_frame == "held":
            raise ConfigError(
                f"{self.what} goes by steps that follow one another, and first_frame: held takes several at one noise level; "
                "leave one of them out"
            )
        self.depends_on_batch = self.name in BY_BATCH and options.batch_size > 1

    def check(self, target: Target) -> None:
        outline, context, cfg = target.outline, self.options.replica.settings.context, self.options.replica.settings.cfg
        if context > 1:
            raise ConfigError(
                f"{self.what} and parallel.context {context} do not go together: ranks would skip apart; leave one of them out"
            )
        if cfg > 1 and self.name in BLIND_TO_PASSES:
            raise ConfigError(f"{self.what} keeps one state for both guidance passes, which parallel.cfg parts; leave one of them out")
        if "cache_context(" not in outline.source and self.name not in BLIND_TO_PASSES:
            raise ConfigError(
                f"{self.what} needs a pipeline that tells its denoiser's passes apart, which this model's does not; leave it out"
            )
        if self.name == "sea" and "step_index" not in outline.source:
            raise ConfigError(
                f"{self.what} needs a pipeline that tells its denoiser the step and its noise level, as Wan's does; leave it out"
            )
        if self.name == "faster" and not outline.guides_in_one_batch and not self._given.get("is_guidance_distilled"):
            raise ConfigError(
                f"{self.what} takes the first half of a batch for the guidance pass, but this model's pipeline makes that pass by itself; "
                "give is_guidance_distilled: true, which leaves that pass as it is"
            )
        if self.name == "faster" and outline.has_tokens_in_a_row and not self._given.get("is_guidance_distilled"):
            raise ConfigError(
                f"{self.what} filters latents as a picture, and this model's pipeline hands them over as a row of tokens; "
                "give is_guidance_distilled: true, which leaves the guidance pass as it is"
            )
        if self._ratios is not None and len(self._ratios) not in (1, len(outline.denoisers)):
            raise ConfigError(
                f"{self.what}: {len(self._ratios)} lists of mag_ratios, but {len(outline.denoisers)} denoisers; give one for each"
            )
        self._two_passes = outline.guides_in_two_passes
        for denoiser in outline.denoisers.values():
            self._put_into(denoiser, self._config(None, 1, [1.0]))

    def apply(self, loaded: Loaded) -> None:
        pipe, denoisers, num_steps = loaded.pipe, loaded.denoisers, loaded.family.value("num_inference_steps") or 1
        if self.name == "mag" and self._ratios is None:
            self._ratios = measure_ratios(denoisers, loaded.generate_one)
        timesteps = _timesteps_each(pipe, list(denoisers), num_steps)
        self._refuse_first_steps(timesteps)
        for i, (name, denoiser) in enumerate(denoisers.items()):
            ratios = self._ratios[i % len(self._ratios)] if self._ratios else [1.0]
            self._put_into(denoiser, self._config(pipe, len(timesteps[name]), ratios))
        self._denoisers = denoisers
        self._work = DenoiserWork(denoisers, loaded.device)

    def start_batch(self) -> None:
        """Forget the last batch. diffusers does so at the end of a call, but not of one that failed in the middle."""
        for denoiser in self._denoisers.values():
            denoiser._reset_stateful_cache()
        self._work.start()

    def effective(self, loaded: Loaded) -> str:
        """What the denoisers hold, what goes with that, and how much of the last batch's work was skipped."""
        told = [_held_by(loaded.denoisers)]
        if not self.requested:
            return told[0]
        if self.depends_on_batch:
            told.append("decided for a batch at once")
        if self.name in BLIND_TO_PASSES and loaded.family.is_guided and self._two_passes:
            told.append("one state for both guidance passes")
        if shares := self._work.skipped_shares():
            each = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if name != "all")
            told.append(f"{shares['all']:.0%} of the last batch's work skipped ({each})")
        return "; ".join(told)

    def fallbacks(self, loaded: Loaded) -> list[str]:
        found = [
            f"cache {self.name!r} is not in force in {name}"
            for name, denoiser in loaded.denoisers.items()
            if type(denoiser._cache_config).__name__ != CONFIGS[self.name] or not _hooked(denoiser)
        ]
        if not found and self._work.skipped_shares().get("all") == 0:
            found.append(f"cache {self.name!r} skipped nothing in the last batch; give it a bolder setting or more steps, or leave it out")
        return found

    def _config(self, pipe: Any, num_steps: int, ratios: Sequence[float]) -> Any:
        """A config of diffusers' own; each denoiser gets one of its own, since diffusers writes into them."""
        import diffusers.hooks

        ours: dict[str, Any] = {}
        if self.name == "mag":
            ours = {"num_inference_steps": max(num_steps, 1), "mag_ratios": list(ratios), "calibrate": False}
        elif self.name in BLIND_TO_PASSES:
            ours = {"current_timestep_callback": lambda: pipe.current_timestep}
        try:
            config = build(getattr(diffusers.hooks, CONFIGS[self.name]), self.what, self._given, ours)
        except AttributeError:
            raise ConfigError(f"{self.what} is not in the installed diffusers") from None
        for name, least in LEAST.items():
            value = getattr(config, name, None)
            if value is not None and not value >= least:
                raise ConfigError(f"{self.what}: option {name!r} is {value}; it must be at least {least:g}")
        return config

    def _refuse_first_steps(self, timesteps: Mapping[str, Sequence[float]]) -> None:
        """Of `faster`, which in a denoiser's first step takes what no step has left yet (diffusers 0.42). Raises ConfigError."""
        if self.name != "faster":
            return
        config = self._config(None, 1, [1.0])
        for kind in ("spatial_attention", "temporal_attention"):
            option = f"{kind}_timestep_skip_range"
            low, high = getattr(config, option)
            for name, (first, *_) in ((name, steps) for name, steps in timesteps.items() if steps):
                if low < first < high and getattr(config, f"{kind}_block_skip_range"):
                    raise ConfigError(
                        f"{self.what}: option {option!r} is {[low, high]}, which takes in the first step of {name}, timestep {first:g}, "
                        f"when there is nothing to use again; let it end at {math.floor(first)} or below"
                    )

    def _put_into(self, denoiser: Any, config: Any) -> None:
        kind = type(denoiser).__name__
        if not hasattr(denoiser, "enable_cache"):
            raise ConfigError(f"{self.what}: diffusers has no caches for a {kind}; leave it out")
        try:
            denoiser.enable_cache(config)
        except (ValueError, IndexError) as error:  # blocks that diffusers does not know, or too few of them
            raise ConfigError(f"{self.what} does not work in a {kind}: {first_line(error)}; leave it out") from error
        if not _hooked(denoiser):
            blocks = r"; give it cache_identifiers, such as ['blocks\.\d+'], or use_lite_mode: true" if self.name == "taylorseer" else ""
            raise ConfigError(f"{self.what} finds nothing to cache in a {kind}{blocks or '; leave it out'}")


def _held_by(denoisers: Mapping[str, Any]) -> str:
    """The cache as the denoisers themselves hold it: name, parameters that are numbers or not the default, modules it sits in."""
    told = {name: _told(denoiser) for name, denoiser in denoisers.items()}
    texts = set(told.values())
    return texts.pop() if len(texts) == 1 else "; ".join(f"{name}: {text}" for name, text in told.items())


def _told(denoiser: Any) -> str:
    config = getattr(denoiser, "_cache_config", None)
    if config is None:
        return "none"
    name = next((name for name, cls in CONFIGS.items() if cls == type(config).__name__), type(config).__name__)
    values = {f.name: value for f in dataclasses.fields(config) if _is_telling(value := getattr(config, f.name), f.default)}
    return f"{name}({', '.join(f'{k}={_shown(v)}' for k, v in values.items())}) in {len(_hooked(denoiser))} modules"


def _timesteps_each(pipe: Any, names: Sequence[str], total: int) -> dict[str, list[float]]:
    """The timesteps of an answer that each denoiser takes; of two, the first works down to the pipeline's boundary."""
    scheduler = copy.deepcopy(pipe.scheduler)
    shift = (
        {"mu": scheduler.config.base_shift} if scheduler.config.get("use_dynamic_shifting") else {}
    )  # LTX-Video's; step 1 is 1000 with any
    scheduler.set_timesteps(total, **shift)
    timesteps = [float(t) for t in scheduler.timesteps]
    if scheduler.config.get("invert_sigmas"):  # Mochi's, which counts up, while its pipeline tells caches how much noise is left
        timesteps = [scheduler.config.num_train_timesteps - t for t in timesteps]
    if len(names) == 1:
        return {names[0]: timesteps}
    boundary = (pipe.config.boundary_ratio or 0) * scheduler.config.num_train_timesteps
    return {names[0]: [t for t in timesteps if t >= boundary], names[1]: [t for t in timesteps if t < boundary]}


def _hooked(denoiser: Any) -> list[Any]:
    """The modules inside the denoiser that its cache sits in."""
    where = type(getattr(denoiser, "_cache_config", None)).__module__
    inside = (m for m in denoiser.modules() if m is not denoiser)
    return [m for m in inside if any(type(hook).__module__ == where for hook in hooks_of(m).values())]


def _is_telling(value: Any, default: Any) -> bool:
    if callable(value) or value is None:
        return False
    if isinstance(value, torch.Tensor) or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return True
    return bool(value != default)


def _shown(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return "[" + ", ".join(f"{v:.4g}" for v in value.tolist()) + "]"
    return str(value).removeprefix("torch.")
