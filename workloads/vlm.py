"""Vision and language: questions about frames and clips of the embedded world, MLPerf's catalogue, or questions from a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from configs.errors import ConfigError, unknown
from configs.registry import register
from workloads.base import Workload, check_num_prompts
from workloads.mlperf.datasets import check_options, read_source
from workloads.readers.prompt_file import Entry, read_entries
from workloads.records import Sample
from workloads.run_folder.media import png_of
from workloads.world.scenes import Split
from workloads.world.vision import ANSWERS, TASKS, Item, draw_item

_DATA_SEED = 20_263  # of the shipped questions; training draws from other seeds
_EXAMPLE = '{"prompt": "what is this?", "images": ["cat.png"], "answer": "a cat"}'


@register("vlm")
@dataclass(frozen=True)
class VisionLanguage(Workload):
    """Questions about pictures.

    prompts: JSON lines or a JSON array of questions, each `{"prompt": ..., "images": [paths], "answer": ...}`; paths are relative to the
    file's folder, several images are one clip, and `answer` is optional. source: `shopify`, MLPerf's set; path: its files; sha256: of its
    file. By default questions are drawn from the embedded world. num_prompts: how many to draw, or the most to read. tasks: which, of
    `workloads.world.vision`. split: scenes are `train` (combinations that training draws), `held_out`, or half and half (`any`).
    """

    prompts: str | None = None
    source: str | None = None
    path: str | None = None
    sha256: str | None = None
    num_prompts: int | None = None
    tasks: tuple[str, ...] = TASKS
    split: Split = "any"

    unit: ClassVar[str] = "tokens"
    noun: ClassVar[str] = "answers"
    default_pipeline: ClassVar[str] = "transformers_vlm"
    default_metrics: ClassVar[tuple[str, ...]] = (
        "throughput",
        "latency",
        "stages",
        "client_lag",
        "peak_memory",
        "energy",
        "exact_match",
        "hierarchical_f1",
    )

    def __post_init__(self) -> None:
        check_num_prompts("vlm", self.num_prompts)
        if not self.tasks:
            raise ConfigError(f"workload 'vlm': option 'tasks' must not be empty; known: {', '.join(TASKS)}")
        for task in self.tasks:
            if task not in TASKS:
                raise ConfigError(f"workload 'vlm': option 'tasks' names an {unknown('task', task, TASKS)}")
        check_options("vlm", self.source, self.path, self.sha256, {"prompts": self.prompts})

    def samples(self) -> Sequence[Sample]:
        if self.source is not None:
            return read_source(self.source, self.path, "vlm", self.num_prompts, self.sha256)
        if self.prompts is not None:
            return read_questions(self.prompts)[: self.num_prompts]
        items = draw_items(self.tasks, self.num_prompts or 64, self.split)
        return [Sample(i, item.prompt, _meta(item), encode_png(item.frames_THWC)) for i, item in enumerate(items)]


def draw_items(tasks: Sequence[str], count: int, split: Split, seed: int = _DATA_SEED) -> list[Item]:
    """`count` items, the tasks in turn. Deterministic; a larger count only appends items.

    The answers of each task take turns too, in an order drawn once, so that guessing the most frequent answer does not pay. With `any` the
    two splits alternate.
    """
    rng = np.random.default_rng(seed)
    turns: dict[str, list[str | None]] = {task: [None] for task in TASKS}
    turns |= {task: rng.permutation(answers).tolist() for task, answers in ANSWERS.items()}
    items = []
    for i in range(count):
        task, turn = tasks[i % len(tasks)], i // len(tasks)
        by_turns: Split = "held_out" if turn % 2 else "train"
        answer = turns[task][turn % len(turns[task])]
        items.append(draw_item(np.random.default_rng((seed, TASKS.index(task), turn)), task, by_turns if split == "any" else split, answer))
    return items


def encode_png(frames_THWC: NDArray[np.uint8]) -> tuple[bytes, ...]:
    """Each frame as the bytes of a PNG file."""
    return tuple(png_of(frame) for frame in frames_THWC)


def read_questions(path: str) -> list[Sample]:
    """Samples from a file of questions.

    Images are read but not decoded: a damaged one fails its own query, not the run.
    Raises ConfigError, naming the line, if the file or an image file is missing or a line has another form.
    """
    folder = Path(path).parent
    entries = read_entries(path, ("images", "answer"), f"give dataset.prompts lines like {_EXAMPLE}")
    return [_sample(index, entry, folder) for index, entry in enumerate(entries)]


def _sample(index: int, entry: Entry, folder: Path) -> Sample:
    images = entry.values.get("images")
    if not isinstance(images, list) or not images or not all(isinstance(name, str) for name in images):
        raise ConfigError(f"{entry.where} has no 'images' list of paths; write lines like {_EXAMPLE}")
    meta: dict[str, Any] = {"task": "own"}
    if "answer" in entry.values:
        answer = entry.values["answer"]
        meta["answer"] = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
    return Sample(index, entry.prompt, meta, tuple(_read_image(folder / name, name, entry.where) for name in images))


def _read_image(path: Path, name: str, where: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{where}: image {name!r} does not exist; paths are relative to the file's folder") from None
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise ConfigError(f"{where}: image {name!r} cannot be read: {getattr(error, 'strerror', error)}") from None


def _meta(item: Item) -> dict[str, Any]:
    return {"task": item.task, "answer": item.answer, "held_out": item.held_out}
