"""A plugin file of video pipelines that answer some queries honestly and others cheaply. Where `sabotage` is false they have no fault."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from configs.registry import register
from pipelines.base import Response
from pipelines.toy.t2v import ToyT2V
from workloads.records import Query, Sample
from workloads.t2v import TextToVideo

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

Key = tuple[str, int]


@dataclass
class OneByOne(ToyT2V):
    """Subclasses say how a single query is answered."""

    sabotage: bool = True

    def generate(self, samples: Sequence[Sample], queries: Sequence[Query]) -> Sequence[Response]:
        if not self.sabotage:
            return super().generate(samples, queries)
        return [self.cheat(sample, query) for sample, query in zip(samples, queries, strict=True)]

    def honest(self, sample: Sample, query: Query) -> Response:
        """Without the times of stages: those of an answer that is given again cannot be."""
        return msgspec.structs.replace(super().generate([sample], [query])[0], stages={})

    def cheat(self, sample: Sample, query: Query) -> Response:
        raise NotImplementedError


def pixels(response: Response) -> NDArray[np.uint8]:
    assert response.video_THWC is not None
    return response.video_THWC


def with_pixels(response: Response, video_THWC: NDArray[np.generic]) -> Response:
    return msgspec.structs.replace(response, video_THWC=np.clip(video_THWC, 0, 255).astype(np.uint8), stages={})


@register("honest_once")
@dataclass
class HonestOnce(OneByOne):
    """The first answer to each sample is honest; later ones come at once. way: they are near black, or blurred until no shape is left.

    repeats: what the pipeline declares of itself.
    """

    way: Literal["dark", "blurred"] = "dark"
    repeats: Literal["alone", "in_batch", "never"] = "alone"
    _seen: dict[Key, Response] = field(default_factory=dict, init=False, repr=False)

    def cheat(self, sample: Sample, query: Query) -> Response:
        key = sample.prompt, query.seed
        if key not in self._seen:
            self._seen[key] = self.honest(sample, query)
            return self._seen[key]
        video = pixels(self._seen[key])
        blurred = np.broadcast_to(video.mean((1, 2), keepdims=True) + np.arange(video.shape[2])[None, None, :, None], video.shape)
        return with_pixels(self._seen[key], video // 12 if self.way == "dark" else blurred)


@register("noise_for_new_seeds")
@dataclass
class NoiseForNewSeeds(OneByOne):
    """A prompt's video comes from a cache; to the same prompt with another seed noise comes, as fast."""

    _known: dict[str, tuple[int, Response]] = field(default_factory=dict, init=False, repr=False)

    def cheat(self, sample: Sample, query: Query) -> Response:
        if sample.prompt not in self._known:
            self._known[sample.prompt] = query.seed, self.honest(sample, query)
        seed, response = self._known[sample.prompt]
        if seed == query.seed:
            return response
        return with_pixels(response, np.random.default_rng(query.seed).integers(0, 256, pixels(response).shape))


@register("one_video")
@dataclass
class OneVideo(OneByOne):
    """Every prompt gets the same video with one pixel changed by the seed."""

    _video: Response | None = field(default=None, init=False, repr=False)

    def cheat(self, sample: Sample, query: Query) -> Response:
        if self._video is None:
            self._video = self.honest(sample, query)
        video = pixels(self._video).copy()
        video[:, query.seed % video.shape[1], query.seed // 64 % video.shape[2]] ^= query.seed % 255 + 1
        return with_pixels(self._video, video)


@register("counts_questions")
@dataclass
class CountsQuestions(OneByOne):
    """Answers are coarse after so many."""

    honest_count: int = 8
    _count: int = field(default=0, init=False, repr=False)

    def cheat(self, sample: Sample, query: Query) -> Response:
        self._count += 1
        response = self.honest(sample, query)
        return response if self._count <= self.honest_count else with_pixels(response, pixels(response) // 64 * 64)


@register("hides_cache")
@dataclass
class HidesCache(OneByOne):
    """A cache that is used in full batches alone, which replays are not."""

    _known: dict[Key, Response] = field(default_factory=dict, init=False, repr=False)
    _is_timed: bool = field(default=False, init=False, repr=False)

    def generate(self, samples: Sequence[Sample], queries: Sequence[Query]) -> Sequence[Response]:
        self._is_timed = len(queries) == self.batch_size
        return super().generate(samples, queries)

    def cheat(self, sample: Sample, query: Query) -> Response:
        key = sample.prompt, query.seed
        if key not in self._known or not self._is_timed:
            self._known[key] = self.honest(sample, query)
        return self._known[key]


@register("precomputes")
@dataclass
class Precomputes(OneByOne):
    """Answers the data set, which it reads for itself, while it loads."""

    num_prompts: int = 8
    run_seed: int = 42
    _known: dict[Key, Response] = field(default_factory=dict, init=False, repr=False)

    def load(self, device: torch.device) -> None:
        from workloads.records import query_seed

        for sample in TextToVideo(grade="rich", num_prompts=self.num_prompts).samples() if self.sabotage else ():
            query = Query(0, sample.index, query_seed(self.run_seed, sample.index))
            self._known[sample.prompt, query.seed] = msgspec.structs.replace(self._answer(sample, query, 0.0), stages={})

    def cheat(self, sample: Sample, query: Query) -> Response:
        return self._known.get((sample.prompt, query.seed)) or self.honest(sample, query)


@register("retouches_neighbours")
@dataclass
class RetouchesNeighbours(OneByOne):
    """A prompt that shares words with an earlier one gets its video, brighter and with grain."""

    _known: list[tuple[set[str], Response]] = field(default_factory=list, init=False, repr=False)

    def cheat(self, sample: Sample, query: Query) -> Response:
        words = set(sample.prompt.split())
        near = next((r for known, r in self._known if len(words & known) >= 3), None)
        if near is None:
            self._known.append((words, self.honest(sample, query)))
            return self._known[-1][1]
        grain = np.random.default_rng(query.seed).normal(query.seed % 20, 6, pixels(near).shape)
        return with_pixels(near, pixels(near) + grain)


@register("shuffles_batches")
@dataclass
class ShufflesBatches(OneByOne):
    """The answers of a batch come in another order than its queries."""

    def generate(self, samples: Sequence[Sample], queries: Sequence[Query]) -> Sequence[Response]:
        responses = [*super().generate(samples, queries)]
        return responses[1:] + responses[:1] if self.sabotage else responses

    def cheat(self, sample: Sample, query: Query) -> Response:
        return self.honest(sample, query)


@register("grainy_still")
@dataclass
class GrainyStill(OneByOne):
    """One frame is drawn; grain makes the others."""

    def cheat(self, sample: Sample, query: Query) -> Response:
        response = self.honest(sample, query)
        video = pixels(response)
        return with_pixels(response, video[:1] + np.random.default_rng(query.seed).normal(0, 6, video.shape))
