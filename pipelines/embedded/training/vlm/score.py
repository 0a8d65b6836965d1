"""Scores of the embedded vision-language model, task by task."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch

from pipelines.transformers.vlm import TransformersVLM
from workloads.records import Query, Sample
from workloads.vlm import encode_png
from workloads.world.vision import TASKS, draw_item


def print_scores(folder: Path, count: int) -> None:
    """Exact match by task on fresh pictures of both splits, as the pipeline answers them, as rows of a Markdown table."""
    pipeline = TransformersVLM(model=str(folder), batch_size=32, max_new_tokens=48)
    pipeline.load(torch.device("cpu"))
    began = time.monotonic()
    totals = {"train": 0, "held_out": 0}
    print("| task | training scenes | held-out scenes |\n|---|---|---|")
    for task in TASKS:
        rights = {}
        for split in ("train", "held_out"):
            rng = np.random.default_rng((99, TASKS.index(task), split == "train"))
            items = [draw_item(rng, task, split) for _ in range(count)]
            samples = [Sample(i, item.prompt, {}, encode_png(item.frames_THWC)) for i, item in enumerate(items)]
            texts = []
            for first in range(0, count, pipeline.batch_size):
                part = samples[first : first + pipeline.batch_size]
                texts += [r.text for r in pipeline.generate(part, [Query(s.index, s.index, 0) for s in part])]
            rights[split] = sum(text == item.answer for text, item in zip(texts, items, strict=True))
            totals[split] += rights[split]
        print(f"| {task} | {rights['train'] / count:.3f} | {rights['held_out'] / count:.3f} |", flush=True)
    print(f"| **all** | **{totals['train'] / count / len(TASKS):.3f}** | **{totals['held_out'] / count / len(TASKS):.3f}** |")
    print(json.dumps({"questions_a_task_and_split": count, "seconds": round(time.monotonic() - began, 1)}))
