"""Language: tasks of the embedded world, one of MLPerf's sets, or prompts from a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from configs.errors import ConfigError, unknown
from configs.registry import register
from workloads.base import Workload, check_num_prompts
from workloads.mlperf.datasets import check_options, read_source
from workloads.readers.prompt_file import read_entries
from workloads.records import Sample
from workloads.world.language import TASKS, Item, draw_item, is_unseen
from workloads.world.scenes import Split

JUDGES = ("rouge", "exact_match")
_DATA_SEED = 90_217  # of the shipped prompt set; training draws from other seeds


@register("llm")
@dataclass(frozen=True)
class Language(Workload):
    """Prompts for a language model.

    prompts: a file of prompts in one of the forms of workloads/readers/prompt_file.py, or `builtin:everyday`. Objects and rows may have an
    `answer`, which is scored by ROUGE unless `scored_by` is `exact_match`. source: one of MLPerf's sets (workloads/mlperf/datasets.py);
    path: its files; sha256: of its file. By default tasks are drawn from the embedded world. tasks: which ones; all if empty. num_prompts:
    how many to draw, or the most to read. split: drawn scenes are `train` (combinations that training draws), `held_out` or `any`.
    """

    prompts: str | None = None
    source: str | None = None
    path: str | None = None
    sha256: str | None = None
    tasks: Sequence[str] = ()
    num_prompts: int | None = None
    split: Split = "any"

    unit: ClassVar[str] = "tokens"
    noun: ClassVar[str] = "answers"
    default_pipeline: ClassVar[str] = "transformers_llm"
    default_metrics: ClassVar[tuple[str, ...]] = (
        "throughput",
        "latency",
        "token_latency",
        "goodput",
        "tokens",
        "stages",
        "client_lag",
        "peak_memory",
        "energy",
        "exact_match",
        "rouge",
    )

    def __post_init__(self) -> None:
        check_num_prompts("llm", self.num_prompts)
        for task in self.tasks:
            if task not in TASKS:
                raise ConfigError(f"workload 'llm': {unknown('task', task, TASKS)}")
        check_options("llm", self.source, self.path, self.sha256, {"prompts": self.prompts, "tasks": self.tasks})

    def samples(self) -> Sequence[Sample]:
        if self.source is not None:
            return read_source(self.source, self.path, "llm", self.num_prompts, self.sha256)
        if self.prompts is not None:
            return read_prompt_items(self.prompts)[: self.num_prompts]
        items = draw_items(self.tasks or TASKS, self.num_prompts or 132, self.split)
        return [Sample(i, item.prompt, _meta(item)) for i, item in enumerate(items)]


def read_prompt_items(path: str) -> list[Sample]:
    """Samples from a file of prompts, with their answers. Raises ConfigError naming the line."""
    samples = []
    for index, entry in enumerate(read_entries(path, ("answer", "scored_by", "task"))):
        meta = {name: entry.values[name] for name in ("answer", "scored_by", "task") if entry.values.get(name) is not None}
        if not isinstance(meta.get("answer", ""), str):
            raise ConfigError(f"{entry.where}: the answer must be a text, got {meta['answer']!r}")
        if meta.get("scored_by", "rouge") not in JUDGES:
            raise ConfigError(f"{entry.where}: {unknown('scored_by', meta['scored_by'], JUDGES)}")
        if "answer" in meta:
            meta.setdefault("scored_by", "rouge")
        samples.append(Sample(index, entry.prompt, meta))
    return samples


def draw_items(tasks: Sequence[str], count: int, split: Split, seed: int = _DATA_SEED) -> list[Item]:
    """`count` items, the tasks in turn. Deterministic; a larger count only appends items."""
    rng = np.random.default_rng(seed)
    return [draw_item(rng, tasks[i % len(tasks)], split) for i in range(count)]


def _meta(item: Item) -> dict[str, object]:
    scored_by = "rouge" if item.task == "summary" else "exact_match"
    return {"task": item.task, "answer": item.answer, "scored_by": scored_by, "held_out": is_unseen(item)}
