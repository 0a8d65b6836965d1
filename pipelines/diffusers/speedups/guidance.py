"""The two guidance passes of a denoising step, in pipelines that make them one after the other, as Wan's does.

A pipeline calls its denoiser in cache_context("cond") and then in cache_context("uncond"), and reads the first output only when it has
the second. So the first may be a tensor that is filled later. It holds NaN until then: if a pipeline read it too early, a canary would
trigger.

One batch reads the weights once for both passes, and fills a GPU that one pass leaves idle; it doubles the memory for activations. Where
nothing is said, a GPU with few tokens a pass tries it.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from configs.errors import ConfigError, first_line
from pipelines.diffusers.speedups.base import DiffusersOptions, Loaded, SpeedUp, Target, name_of
from pipelines.diffusers.trials.timing import agreed, chooses, difference, seconds_each

PASSES = ("cond", "uncond")  # the cache contexts in which pipelines make them
MOST_TOKENS = 16_384  # of a pass: its products alone fill a GPU, so that two passes at once only take more memory. Not measured yet
WORTHWHILE, CLOSE = 0.97, 0.1  # of the time of two passes, at most; of the latents' difference after a step, at most
BUDGET_S = 0.5


class GuidancePasses(ABC):
    """Replaces a denoiser's `forward`; subclasses define it for each pass. what: names the option in error messages."""

    def __init__(self, denoiser: Any, what: str) -> None:
        if not hasattr(denoiser, "cache_context"):
            raise ConfigError(f"{what}, but a {type(denoiser).__name__} does not distinguish its guidance passes. Leave it out.")
        self._what, self._denoiser = what, denoiser
        self._denoise, self._cache_context = denoiser.forward, denoiser.cache_context
        self._out_channels: int = denoiser.config.out_channels
        self._now: str | None = None
        self._first: Any = None  # what the first pass of this step keeps for the second
        denoiser.forward, denoiser.cache_context = self.forward, self.cache_context

    def restore(self) -> None:
        """Give the denoiser its own `forward` back."""
        self._denoiser.forward, self._denoiser.cache_context = self._denoise, self._cache_context

    @contextlib.contextmanager
    def cache_context(self, name: str, **kwargs: Any) -> Iterator[None]:
        self._now = name
        try:
            with self._cache_context(self._context_of(name), **kwargs):
                yield
        finally:
            self._now = None

    @abstractmethod
    def forward(self, hidden_states: torch.Tensor, *args: Any, return_dict: bool = True, **kwargs: Any) -> Any:
        """Return what the pipeline gets from the denoiser in the current pass."""

    def _context_of(self, name: str) -> str:
        """The name of the state that a cache uses in a pass."""
        return name

    def _check_turn(self, return_dict: bool) -> None:
        if self._now not in PASSES or (self._first is None) != (self._now == PASSES[0]) or return_dict:
            self._first = None
            raise RuntimeError(f"{self._what}, but this pipeline does not make its two guidance passes one after the other")

    def _empty(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """An output that is filled later."""
        shape = (hidden_states.shape[0], self._out_channels, *hidden_states.shape[2:])
        return torch.full(shape, torch.nan, dtype=hidden_states.dtype, device=hidden_states.device)


class BatchedPasses(GuidancePasses):
    """Makes both passes in one call of the denoiser, at the second. Weights are read once for both; memory for activations doubles."""

    def __init__(self, denoiser: Any) -> None:
        super().__init__(denoiser, "option 'guidance_batch' is on")
        self.num_batched = 0  # steps so far in which both passes were one call

    def forward(self, hidden_states: torch.Tensor, *args: Any, return_dict: bool = True, **kwargs: Any) -> Any:
        self._check_turn(return_dict)
        if self._first is None:
            self._first = (self._empty(hidden_states), (hidden_states, *args), kwargs)
            return (self._first[0],)
        empty, first_args, first_kwargs = self._first
        self._first = None
        size = hidden_states.shape[0]
        both = [_joined(one, two, size) for one, two in zip(first_args, (hidden_states, *args), strict=True)]
        named = {name: _joined(first_kwargs[name], value, size) for name, value in kwargs.items()}
        noise = self._denoise(*both, return_dict=False, **named)[0]
        empty.copy_(noise[:size])
        self.num_batched += 1
        return (noise[size:],)

    def _context_of(self, name: str) -> str:
        return PASSES[0] if name in PASSES else name  # one call has one state


class GuidanceBatch(SpeedUp):
    """Puts both guidance passes of a step into one call, in every denoiser. None: on a GPU, where a trial says that it is faster."""

    option = "guidance_batch"
    entry = "guidance"

    def __init__(self, options: DiffusersOptions) -> None:
        super().__init__(options)
        self._passes: list[BatchedPasses] = []
        self._choice: str | None = None

    @property
    def requested(self) -> bool:
        return self.value is not False

    def check(self, target: Target) -> None:
        if self.value is None:
            return
        if not target.outline.guides_in_two_passes:
            raise ConfigError(
                f"model {self.options.model!r} makes both guidance passes in one batch already, or only one. Leave out 'guidance_batch'."
            )
        if self.options.replica.settings.cfg > 1:
            raise ConfigError(
                "option 'guidance_batch' cannot be combined with parallel.cfg 2, which makes the two passes on two ranks. Leave one out."
            )

    def apply(self, loaded: Loaded) -> None:
        if self.value is None:
            self._choice = self._choose(loaded) if chooses(loaded.device) else None
            return
        loaded.family.check_two_passes("option 'guidance_batch' is on")
        self._passes = [BatchedPasses(denoiser) for denoiser in loaded.denoisers.values()]

    def effective(self, loaded: Loaded) -> str | None:
        return "both passes in one batch" if any(passes.num_batched for passes in self._passes) else None

    def notes(self, loaded: Loaded) -> Mapping[str, str]:
        return {} if self._choice is None else {"guidance_choice": self._choice}

    def fallbacks(self, loaded: Loaded) -> list[str]:
        batched = self.value is None or self.effective(loaded)
        return [] if batched else ["option guidance_batch: no step made both of its passes in one batch"]

    def _choose(self, loaded: Loaded) -> str:
        """Put both passes into one batch where that is faster. Returns the reason for what is done."""
        size, tokens = self.options.batch_size, loaded.family.num_tokens()
        why_not = {
            "this pipeline does not make two passes a step": not (loaded.family.guides_in_two_named_passes and loaded.family.is_guided),
            "a replica of several ranks": self.options.replica.size > 1,
            "a cache keeps the state of each pass": name_of(self.options.cache) != "none",
            f"a pass has more than {MOST_TOKENS} tokens": tokens is None or size * tokens > MOST_TOKENS,
        }
        if why := next((text for text, holds in why_not.items() if holds), None):
            return f"two passes, no trial: {why}"

        def step() -> torch.Tensor:
            return loaded.step(size)

        expected, separate, found, together, why = torch.empty(0), float("inf"), float("inf"), float("inf"), ""
        try:
            expected, separate = step(), seconds_each(step, loaded.device, BUDGET_S)
            self._passes = [BatchedPasses(denoiser) for denoiser in loaded.denoisers.values()]
            found, together = difference(expected, step()), seconds_each(step, loaded.device, BUDGET_S)
        except Exception as error:  # out of memory, arguments that cannot be joined, or a scheduler that cannot make one step
            together, why = float("inf"), f": {first_line(error)}"
        separate, together, found = agreed([separate, together, found], loaded.device)
        figures = f"a step takes {1e3 * separate:.3g} ms with two passes and {1e3 * together:.3g} ms with one batch{why}"
        if together < WORTHWHILE * separate and found <= CLOSE:
            return f"one batch: {figures}"
        for passes in self._passes:
            passes.restore()
        self._passes = []
        return f"two passes: {figures}" + (f"; latents differ by {found:.2g}" if found > CLOSE else "")


def _joined(one: Any, two: Any, size: int) -> Any:
    """Two values of one argument as one: tensors with a batch dimension are concatenated, anything else must be equal."""
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor) and one.ndim and one.shape[0] == size:
        return torch.cat([one, two])
    same = torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two
    if not same:
        raise RuntimeError("option 'guidance_batch' is on, but the two passes differ in an argument without a batch dimension")
    return one
