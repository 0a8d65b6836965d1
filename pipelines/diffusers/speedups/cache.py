"""diffusers' denoiser caches: results of one denoising step are reused in the next.

By name, with the parameters of diffusers' config class, which its documentation explains:
  first_block    FirstBlockCacheConfig    skips all later blocks while the first one's output hardly changes
  taylorseer     TaylorSeerCacheConfig    extrapolates outputs of chosen modules between steps that are computed
  mag            MagCacheConfig           skips all blocks while residuals, calibrated beforehand, hardly grow
  sea            SeaCacheConfig           skips all blocks while the latents, filtered by noise level, hardly change; text-to-video Wan only
  pyramid_attention_broadcast             computes attention every n-th time
  faster         FasterCacheConfig        the same, and approximates the guidance pass
  text_kv        TextKVCacheConfig        keeps keys and values of the text: exact; for Nucleus's blocks only

first_block and sea decide for the whole batch: what they skip for one clip, and so the clip, depends on the batch that it is in. The others
decide by the step alone. pyramid_attention_broadcast and faster do not distinguish guidance passes: where a pipeline makes two a step, one
reuses the other's attention; effective() reports it.
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
from pipelines.diffusers.skipped_work import DenoiserWork
from pipelines.diffusers.speedups.base import DiffusersOptions, Loaded, SpeedUp, Target, hooks_of
from pipelines.diffusers.speedups.mag_calibration import measure_ratios

CONFIGS = {
    "first_block": "FirstBlockCacheConfig",
    "taylorseer": "TaylorSeerCacheConfig",
    "mag": "MagCacheConfig",
    "sea": "SeaCacheConfig",
    "pyramid_attention_broadcast": "PyramidAttentionBroadcastConfig",
    "faster": "FasterCacheConfig",
    "text_kv": "TextKVCacheConfig",
}
BY_BATCH = ("first_block", "sea")  # compare outputs of the whole batch
ONE_STATE = ("pyramid_attention_broadcast", "faster")  # for both guidance passes
# Below these diffusers divides by zero, extrapolates from nothing, or silently never skips.
MINIMUM: dict[str, float] = {
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
    """One cache with its parameters, enabled in every denoiser of a pipeline.

    mag_ratios: of `mag`, one list for all denoisers or one for each. Where they are not given, they are measured on loading, in one clip
    of a fixed prompt, as the mean over both guidance passes; effective() reports them.
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
            raise ConfigError(f"{self.what}: mag_ratios must be a list of positive numbers, or one list for each denoiser, got {ratios!r}.")
        self._config(None, 1, [1.0])
        if options.first_frame == "held":
            raise ConfigError(
                f"{self.what} cannot be combined with first_frame 'held', which takes several steps at one noise level. Leave one out."
            )
        self.depends_on_batch = self.name in BY_BATCH and options.batch_size > 1

    def check(self, target: Target) -> None:
        outline, context, cfg = target.outline, self.options.replica.settings.context, self.options.replica.settings.cfg
        if context > 1:
            raise ConfigError(
                f"{self.what} cannot be combined with parallel.context {context}: ranks would skip different steps. Leave one of them out."
            )
        if cfg > 1 and self.name in ONE_STATE:
            raise ConfigError(f"{self.what} keeps one state for both guidance passes, which parallel.cfg separates. Leave one of them out.")
        if "cache_context(" not in outline.source and self.name not in ONE_STATE:
            raise ConfigError(
                f"{self.what} needs a pipeline that runs its denoiser in named cache contexts, which this model's does not. Leave it out."
            )
        if self.name == "sea" and "step_index" not in outline.source:
            raise ConfigError(
                f"{self.what} needs a pipeline that passes the step and its noise level to the cache, as Wan's does. Leave it out."
            )
        if self.name == "faster" and not outline.guides_in_one_batch and not self._given.get("is_guidance_distilled"):
            raise ConfigError(
                f"{self.what} takes the first half of a batch for the guidance pass, but this model's pipeline makes that pass separately. "
                "Set is_guidance_distilled: true, which leaves the guidance pass unchanged."
            )
        if self.name == "faster" and outline.packs_latents and not self._given.get("is_guidance_distilled"):
            raise ConfigError(
                f"{self.what} filters latents as an image, but this model's pipeline passes them as a sequence of tokens. "
                "Set is_guidance_distilled: true, which leaves the guidance pass unchanged."
            )
        if self._ratios is not None and len(self._ratios) not in (1, len(outline.denoisers)):
            raise ConfigError(
                f"{self.what}: mag_ratios has {len(self._ratios)} lists, but the model has {len(outline.denoisers)} denoisers. "
                "Give one for each."
            )
        self._two_passes = outline.guides_in_two_passes
        for denoiser in outline.denoisers.values():
            self._enable(denoiser, self._config(None, 1, [1.0]))

    def apply(self, loaded: Loaded) -> None:
        pipe, denoisers, num_steps = loaded.pipe, loaded.denoisers, loaded.family.value("num_inference_steps") or 1
        if self.name == "mag" and self._ratios is None:
            self._ratios = measure_ratios(denoisers, loaded.generate_one)
        timesteps = _timesteps_each(pipe, list(denoisers), num_steps)
        self._check_first_steps(timesteps)
        for i, (name, denoiser) in enumerate(denoisers.items()):
            ratios = self._ratios[i % len(self._ratios)] if self._ratios else [1.0]
            self._enable(denoiser, self._config(pipe, len(timesteps[name]), ratios))
        self._denoisers = denoisers
        self._work = DenoiserWork(denoisers, loaded.device)

    def start_batch(self) -> None:
        """Reset the state. diffusers does so at the end of a call, but not after one that failed."""
        for denoiser in self._denoisers.values():
            denoiser._reset_stateful_cache()
        self._work.start()

    def effective(self, loaded: Loaded) -> str:
        """The caches in the denoisers, how they treat batches and passes, and the share of the last batch's work that was skipped."""
        parts = [_caches_of(loaded.denoisers)]
        if not self.requested:
            return parts[0]
        if self.depends_on_batch:
            parts.append("decided for a batch at once")
        if self.name in ONE_STATE and loaded.family.is_guided and self._two_passes:
            parts.append("one state for both guidance passes")
        if shares := self._work.skipped_shares():
            each = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if name != "all")
            parts.append(f"{shares['all']:.0%} of the last batch's work skipped ({each})")
        return "; ".join(parts)

    def fallbacks(self, loaded: Loaded) -> list[str]:
        missing = [
            f"cache {self.name!r} is not enabled in {name}"
            for name, denoiser in loaded.denoisers.items()
            if type(denoiser._cache_config).__name__ != CONFIGS[self.name] or not _hooked(denoiser)
        ]
        if not missing and self._work.skipped_shares().get("all") == 0:
            return [f"cache {self.name!r} skipped nothing in the last batch. Raise its threshold or the number of steps, or leave it out."]
        return missing

    def _config(self, pipe: Any, num_steps: int, ratios: Sequence[float]) -> Any:
        """diffusers' config; a new one for each denoiser, since diffusers writes into it."""
        import diffusers.hooks

        ours: dict[str, Any] = {}
        if self.name == "mag":
            ours = {"num_inference_steps": max(num_steps, 1), "mag_ratios": list(ratios), "calibrate": False}
        elif self.name in ONE_STATE:
            ours = {"current_timestep_callback": lambda: pipe.current_timestep}
        try:
            config = build(getattr(diffusers.hooks, CONFIGS[self.name]), self.what, self._given, ours)
        except AttributeError:
            raise ConfigError(f"{self.what} is not part of the installed diffusers.") from None
        for name, minimum in MINIMUM.items():
            value = getattr(config, name, None)
            if value is not None and not value >= minimum:
                raise ConfigError(f"{self.what}: {name} must be at least {minimum:g}, got {value}.")
        return config

    def _check_first_steps(self, timesteps: Mapping[str, Sequence[float]]) -> None:
        """Refuse a `faster` that skips a denoiser's first step, when nothing is cached yet: diffusers 0.42 crashes. Raises ConfigError."""
        if self.name != "faster":
            return
        config = self._config(None, 1, [1.0])
        for kind in ("spatial_attention", "temporal_attention"):
            option = f"{kind}_timestep_skip_range"
            low, high = getattr(config, option)
            for name, (first, *_) in ((name, steps) for name, steps in timesteps.items() if steps):
                if low < first < high and getattr(config, f"{kind}_block_skip_range"):
                    raise ConfigError(
                        f"{self.what}: {option} is {[low, high]}, which includes the first step of {name}, timestep {first:g}, "
                        f"when nothing is cached yet. It must end at {math.floor(first)} or below."
                    )

    def _enable(self, denoiser: Any, config: Any) -> None:
        kind = type(denoiser).__name__
        if not hasattr(denoiser, "enable_cache"):
            raise ConfigError(f"{self.what}: diffusers has no caches for a {kind}. Leave it out.")
        try:
            denoiser.enable_cache(config)
        except (ValueError, IndexError) as error:  # blocks that diffusers does not know, or too few of them
            raise ConfigError(f"{self.what} does not work in a {kind}: {first_line(error)}. Leave it out.") from error
        if not _hooked(denoiser):
            identifiers = r"Give cache_identifiers, such as ['blocks\.\d+'], or use_lite_mode: true"
            remedy = identifiers if self.name == "taylorseer" else "Leave it out"
            raise ConfigError(f"{self.what} finds nothing to cache in a {kind}. {remedy}.")


def _caches_of(denoisers: Mapping[str, Any]) -> str:
    """The cache in each denoiser: its name, parameters that are numbers or not the default, and the number of modules with its hooks."""
    by_name = {name: _cache_of(denoiser) for name, denoiser in denoisers.items()}
    texts = set(by_name.values())
    return texts.pop() if len(texts) == 1 else "; ".join(f"{name}: {text}" for name, text in by_name.items())


def _cache_of(denoiser: Any) -> str:
    config = getattr(denoiser, "_cache_config", None)
    if config is None:
        return "none"
    name = next((name for name, cls in CONFIGS.items() if cls == type(config).__name__), type(config).__name__)
    values = {f.name: value for f in dataclasses.fields(config) if _is_reported(value := getattr(config, f.name), f.default)}
    return f"{name}({', '.join(f'{k}={_format(v)}' for k, v in values.items())}) in {len(_hooked(denoiser))} modules"


def _timesteps_each(pipe: Any, names: Sequence[str], total: int) -> dict[str, list[float]]:
    """The timesteps that each denoiser computes; of two, the first computes those down to the pipeline's boundary."""
    scheduler = copy.deepcopy(pipe.scheduler)
    # LTX-Video's scheduler needs a shift; which one does not matter here, since the first timestep is 1000 with any.
    shift = {"mu": scheduler.config.base_shift} if scheduler.config.get("use_dynamic_shifting") else {}
    scheduler.set_timesteps(total, **shift)
    timesteps = [float(t) for t in scheduler.timesteps]
    if scheduler.config.get("invert_sigmas"):  # Mochi's counts up, but its pipeline passes the remaining noise to caches
        timesteps = [scheduler.config.num_train_timesteps - t for t in timesteps]
    if len(names) == 1:
        return {names[0]: timesteps}
    boundary = (pipe.config.boundary_ratio or 0) * scheduler.config.num_train_timesteps
    return {names[0]: [t for t in timesteps if t >= boundary], names[1]: [t for t in timesteps if t < boundary]}


def _hooked(denoiser: Any) -> list[Any]:
    """The modules inside the denoiser that have its cache's hooks."""
    where = type(getattr(denoiser, "_cache_config", None)).__module__
    inside = (m for m in denoiser.modules() if m is not denoiser)
    return [m for m in inside if any(type(hook).__module__ == where for hook in hooks_of(m).values())]


def _is_reported(value: Any, default: Any) -> bool:
    if callable(value) or value is None:
        return False
    if isinstance(value, torch.Tensor) or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return True
    return bool(value != default)


def _format(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return "[" + ", ".join(f"{v:.4g}" for v in value.tolist()) + "]"
    return str(value).removeprefix("torch.")
