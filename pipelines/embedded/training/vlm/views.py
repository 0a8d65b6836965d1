"""The training pictures and clips, drawn once and kept on disk. They contain no held-out combination."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.embedded.training.common import Progress
from workloads.world.scenes import SIZE, Scene
from workloads.world.vision import CLIP_FRAMES, draw_scene, show

# Kinds of view, named after a task that shows them: how many are drawn, and the tasks of the questions about each.
KINDS: dict[str, tuple[int, tuple[str, ...]]] = {
    "colour": (12_000, ("colour", "shape", "count", "catalogue")),
    "place": (6_000, ("colour", "shape", "place", "catalogue")),
    "which": (8_000, ("which", "which", "which")),
    "direction": (10_000, ("direction", "speed", "first", "last")),
}
FRAME_KINDS, CLIP_KIND = ("colour", "place", "which"), "direction"


class Views(NamedTuple):
    """The training views of one kind: frames (n, T, 48, 48, 3) in uint8 and their scenes."""

    frames: NDArray[np.uint8]
    scenes: list[Scene]


def load_views(work: Path, kind: str, seed: int) -> Views:
    """The training views of a kind, from disk after the first call."""
    count, _ = KINDS[kind]
    path = work / f"views_{kind}_{count}_{seed}.npy"
    scenes = [draw_scene(np.random.default_rng((seed, i)), kind, "train") for i in range(count)]
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = np.empty((count, len(CLIP_FRAMES) if kind == CLIP_KIND else 1, SIZE, SIZE, 3), np.uint8)
        progress = Progress(f"views of {kind}", count)
        for i, scene in enumerate(scenes):
            frames[i] = show(np.random.default_rng((seed, i, 1)), kind, scene)
            progress.advance()
        partial = path.with_suffix(".partial.npy")
        np.save(partial, frames)
        partial.replace(path)
    return Views(np.load(path, mmap_mode="r"), scenes)
