"""Text to video: captions of the embedded world, VBench's prompts, or prompts from a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from configs.errors import ConfigError
from configs.registry import register
from workloads.base import Workload, check_num_prompts
from workloads.mlperf.datasets import check_options, read_source
from workloads.readers.prompt_file import read_prompts
from workloads.records import Sample
from workloads.world.scenes import Scene, Split, caption, is_held_out, parse_caption, sample_scene

GIVE_UP_AFTER = 300  # consecutive captions without a new one
_DATA_SEED = 20_261  # of the shipped prompt sets; training draws from other seeds


@register("t2v")
@dataclass(frozen=True)
class TextToVideo(Workload):
    """Prompts for a video model.

    prompts: a file of prompts in one of the forms of workloads/readers/prompt_file.py. source: `vbench`, MLPerf's set; path: its file;
    sha256: of its file. By default captions are drawn from the embedded world. grade: `simple`, `rich`, or `mixed` (half and half).
    num_prompts: how many to draw, or the most to read. split: drawn captions are `train` (combinations that training draws), `held_out` or
    `any`.
    """

    prompts: str | None = None
    source: str | None = None
    path: str | None = None
    sha256: str | None = None
    grade: Literal["simple", "rich", "mixed"] = "simple"
    num_prompts: int | None = None
    split: Literal["train", "held_out", "any"] = "any"

    unit: ClassVar[str] = "frames"
    noun: ClassVar[str] = "videos"
    has_media: ClassVar[bool] = True
    default_pipeline: ClassVar[str] = "diffusers_t2v"
    default_metrics: ClassVar[tuple[str, ...]] = (
        "throughput",
        "latency",
        "stages",
        "client_lag",
        "peak_memory",
        "energy",
        "world_score",
        "temporal_flickering",
        "motion_smoothness",
        "dynamic_degree",
    )

    def __post_init__(self) -> None:
        check_num_prompts("t2v", self.num_prompts)
        check_options("t2v", self.source, self.path, self.sha256, {"prompts": self.prompts})

    def samples(self) -> Sequence[Sample]:
        if self.source is not None:
            return read_source(self.source, self.path, "t2v", self.num_prompts, self.sha256)
        if self.prompts is not None:
            texts = read_prompts(self.prompts)[: self.num_prompts]
            return [Sample(i, text, meta_of_prompt(text)) for i, text in enumerate(texts)]
        drawn = draw_captions(self.grade, self.num_prompts or 64, self.split)
        return [Sample(i, text, meta_of_scene(scene)) for i, (scene, text) in enumerate(drawn)]


def draw_captions(grade: str, count: int, split: Split, seed: int = _DATA_SEED, workload: str = "t2v") -> list[tuple[Scene, str]]:
    """`count` different captions with their scenes. Deterministic; a larger count only appends captions."""
    rng = np.random.default_rng((seed, ("simple", "rich", "mixed").index(grade)))
    scenes: dict[str, Scene] = {}
    attempt = last_new = 0
    while len(scenes) < count and attempt - last_new < GIVE_UP_AFTER:
        attempt += 1
        one: Literal["simple", "rich"] = "rich" if grade == "rich" or (grade == "mixed" and attempt % 2 == 0) else "simple"
        scene = sample_scene(rng, one, split)
        text = caption(scene, rng)
        if text not in scenes:
            scenes[text], last_new = scene, attempt
    if len(scenes) < count:
        raise ConfigError(
            f"workload {workload!r}: grade {grade!r} has {len(scenes)} different captions; num_prompts must not exceed that, got {count}"
        )
    return [(scene, text) for text, scene in scenes.items()]


def meta_of_scene(scene: Scene) -> dict[str, object]:
    return {
        "world": True,
        "grade": "simple" if scene.background is None else "rich",
        "held_out": any(is_held_out(g) for g in scene.groups),
        "expects_motion": any(g.direction != "still" for g in scene.groups),
    }


def meta_of_prompt(text: str) -> dict[str, object]:
    try:
        return meta_of_scene(parse_caption(text))
    except ValueError:
        return {"world": False}
