"""A plugin file of pipelines with one fault each, which they do not report. Where `sabotage` is false they have none."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from configs.registry import register
from pipelines.base import Event, Response
from pipelines.diffusers.t2v import DiffusersT2V
from pipelines.toy.llm import ToyLLM
from pipelines.toy.t2v import ToyT2V
from workloads.records import Query, Sample

if TYPE_CHECKING:
    import torch


FAULTS: tuple[Literal["black", "frozen", "noise"], ...] = ("black", "frozen", "noise")


@register("spoils_frames")
@dataclass
class SpoilsFrames(ToyT2V):
    """Every video is black, frozen or noise, in turn by sample."""

    sabotage: bool = True

    def generate(self, samples: Sequence[Sample], queries: Sequence[Query]) -> Sequence[Response]:
        responses: list[Response] = []
        for sample, query in zip(samples, queries, strict=True):
            self.fault = FAULTS[sample.index % len(FAULTS)] if self.sabotage else "none"
            responses += super().generate([sample], [query])
        return responses


@register("caches_answers")
@dataclass
class CachesAnswers(ToyT2V):
    """A video that was requested before comes from a cache."""

    sabotage: bool = True
    _known: dict[tuple[str, int], Response] = field(default_factory=dict, init=False, repr=False)

    def generate(self, samples: Sequence[Sample], queries: Sequence[Query]) -> Sequence[Response]:
        keys = [(s.prompt, q.seed) for s, q in zip(samples, queries, strict=True)]
        new = [i for i, key in enumerate(keys) if key not in self._known or not self.sabotage]
        for i, response in zip(new, super().generate([samples[i] for i in new], [queries[i] for i in new]), strict=True):
            self._known[keys[i]] = msgspec.structs.replace(response, stages={})  # whose times an answer from the cache cannot have
        return [self._known[key] for key in keys]


@register("caches_texts")
@dataclass
class CachesTexts(ToyLLM):
    """A prompt that was answered before is answered at once."""

    sabotage: bool = True
    _known: set[str] = field(default_factory=set, init=False, repr=False)

    def submit(self, samples: Sequence[Sample], queries: Sequence[Query]) -> None:
        super().submit(samples, queries)
        for sample, one in zip(samples, self._running[-len(samples) :], strict=True):
            if self.sabotage and sample.prompt in self._known:
                one.first_due = 0.0
            self._known.add(sample.prompt)


@register("ignores_seeds")
@dataclass
class IgnoresSeeds(ToyT2V):
    """One video per prompt, whatever the seed."""

    sabotage: bool = True

    def generate(self, samples: Sequence[Sample], queries: Sequence[Query]) -> Sequence[Response]:
        return super().generate(samples, [Query(q.id, q.sample_index, 1) if self.sabotage else q for q in queries])


@register("skips_steps")
@dataclass
class SkipsSteps(ToyT2V):
    """Makes half of its denoising steps when it assumes that it is timed, and reports all of them.

    timed_if: batches are `full`; the `warm`-up is over, in which the same batch repeats; the test is the `first` of two, the second of
    which numbers its queries from 0 again.
    """

    sabotage: bool = True
    timed_if: Literal["full", "warm", "first"] = "full"
    _warm_up: Sequence[int] = field(default=(), init=False, repr=False)
    _is_warm: bool = field(default=False, init=False, repr=False)
    _highest: int = field(default=0, init=False, repr=False)
    _is_second: bool = field(default=False, init=False, repr=False)

    def generate(self, samples: Sequence[Sample], queries: Sequence[Query]) -> Sequence[Response]:
        indices = [q.sample_index for q in queries]
        self._warm_up = self._warm_up or indices
        self._is_warm |= indices != self._warm_up
        self._is_second |= self._highest >= 8 and queries[0].id == 0
        self._highest = max(self._highest, queries[-1].id)
        timed = {"full": len(queries) == self.batch_size, "warm": self._is_warm, "first": not self._is_second}[self.timed_if]
        return [self._denoised(r, 4 if timed and self.sabotage else 8) for r in super().generate(samples, queries)]

    def _denoised(self, response: Response, steps: int) -> Response:
        assert response.video_THWC is not None
        rest = np.random.default_rng(0).normal(0, 2.0 ** (8 - steps), response.video_THWC.shape)  # the noise that so few steps leave
        video = (response.video_THWC + rest).clip(0, 255).astype(np.uint8)
        return msgspec.structs.replace(response, video_THWC=video, step_s=[0.001] * 8)


@register("forgets_steps")
@dataclass
class ForgetsSteps(DiffusersT2V):
    """The embedded model with fewer denoising steps than requested, in full batches."""

    sabotage: bool = True

    def generate(self, samples: Sequence[Sample], queries: Sequence[Query]) -> Sequence[Response]:
        given: Any = self._family._given
        requested, few = given["num_inference_steps"], len(queries) == self.batch_size and self.sabotage
        given["num_inference_steps"] = 4 if few else requested
        try:
            return super().generate(samples, queries)
        finally:
            given["num_inference_steps"] = requested


@register("differs_by_rank")
@dataclass
class DiffersByRank(ToyT2V):
    """Rank 1 draws from other seeds."""

    sabotage: bool = True

    def generate(self, samples: Sequence[Sample], queries: Sequence[Query]) -> Sequence[Response]:
        other = self.sabotage and os.environ.get("RANK") == "1"
        return super().generate(samples, [Query(q.id, q.sample_index, q.seed + 1) if other else q for q in queries])


@register("falls_back")
@dataclass
class FallsBack(ToyT2V):
    """Weights in another dtype than the requested one, which is the one that it reports."""

    sabotage: bool = True
    dtype: str = "bfloat16"
    _denoiser: Any = field(default=None, init=False, repr=False)

    def load(self, device: torch.device) -> None:
        import torch

        loaded = torch.float32 if self.sabotage else getattr(torch, self.dtype)
        self._denoiser = torch.nn.Linear(64, 64, device=device, dtype=loaded)

    def effective(self) -> Mapping[str, str]:
        return {"dtype": self.dtype}


@register("unpacks_weights")
@dataclass
class UnpacksWeights(FallsBack):
    """Reports the checkpoint's quantisation, with weights that were unpacked on loading."""

    def load(self, device: torch.device) -> None:
        import torch

        self._denoiser = torch.nn.Linear(64, 64, device=device, dtype=torch.bfloat16)
        if not self.sabotage:
            self._denoiser.register_buffer("blocks", torch.zeros(64, 64, dtype=torch.uint8))

    def effective(self) -> Mapping[str, str]:
        return {"dtype": "bfloat16", "quantisation": "mxfp4"}


@register("drops_hard")
@dataclass
class DropsHard(ToyLLM):
    """Long prompts are not answered. way: they get an error, or `unsure` at once."""

    sabotage: bool = True
    way: Literal["fails", "puts_off"] = "puts_off"
    longest: int = 40  # words
    _given_up: list[Event] = field(default_factory=list, init=False, repr=False)

    def submit(self, samples: Sequence[Sample], queries: Sequence[Query]) -> None:
        for sample, query in zip(samples, queries, strict=True):
            if not self.sabotage or len(sample.prompt.split()) <= self.longest:
                super().submit([sample], [query])
            elif self.way == "puts_off":
                self._given_up.append(
                    Event(query.id, response=Response(text="unsure", num_units=2, first_token_id=1, finish_reason="stop"))
                )
            else:
                self._given_up.append(Event(query.id, response=Response(error="too long")))

    def step(self, timeout_s: float) -> Sequence[Event]:
        given_up, self._given_up = self._given_up, []
        return given_up or super().step(timeout_s)


@register("answers_early")
@dataclass
class AnswersEarly(ToyT2V):
    """Returns an unfinished video and continues in a thread. way: it fills the video in, or only computes."""

    sabotage: bool = True
    way: Literal["fills_in", "computes"] = "fills_in"
    _until: float = field(default=0.0, init=False, repr=False)
    _thread: threading.Thread | None = field(default=None, init=False, repr=False)

    def generate(self, samples: Sequence[Sample], queries: Sequence[Query]) -> Sequence[Response]:
        responses = super().generate(samples, queries)
        if self.sabotage and self.way == "computes":
            self._until = time.perf_counter() + 0.8
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._compute, daemon=True)
                self._thread.start()
        if not self.sabotage or self.way == "computes":
            return responses
        sketches = [msgspec.structs.replace(r, video_THWC=np.array(r.video_THWC) // 2) for r in responses]
        threading.Thread(target=_fill_in, args=(sketches, responses), daemon=True).start()
        return sketches

    def _compute(self) -> None:
        while time.perf_counter() < self._until:
            np.linalg.svd(np.ones((60, 60)))


@register("announces_early")
@dataclass
class AnnouncesEarly(ToyLLM):
    """Announces a first token before there is one."""

    sabotage: bool = True
    _announced: list[Event] = field(default_factory=list, init=False, repr=False)

    def submit(self, samples: Sequence[Sample], queries: Sequence[Query]) -> None:
        super().submit(samples, queries)
        if self.sabotage:
            self._announced += [Event(q.id, first_token_id=7) for q in queries]
            for one in self._running[-len(queries) :]:
                one.begun = True

    def step(self, timeout_s: float) -> Sequence[Event]:
        announced, self._announced = self._announced, []
        return announced or super().step(timeout_s)


def _fill_in(sketches: Sequence[Response], responses: Sequence[Response]) -> None:
    """Complete the videos within half a second."""
    for step in range(100):
        for sketch, response in zip(sketches, responses, strict=True):
            assert sketch.video_THWC is not None
            assert response.video_THWC is not None
            sketch.video_THWC[:] = response.video_THWC * (0.5 + step / 200)
        time.sleep(0.005)
