"""Training clips of the embedded world, drawn once by two processes and kept as one array file.

Only scenes of the `train` split are drawn: no clip here holds a held-out combination.
"""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from workloads.world.scenes import NUM_FRAMES, SIZE, Grade, caption, render, sample_scene

SIMPLE_SHARE = 0.4  # of the clips; the others are rich


def load_clips(folder: Path, count: int, seed: int) -> tuple[NDArray[np.uint8], list[str]]:
    """`count` clips (count, 9, 48, 48, 3) as a read-only memory map, and their captions. Drawn on the first call."""
    path, words = folder / f"clips_{count}_{seed}.npy", folder / f"captions_{count}_{seed}.txt"
    if not words.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        clips = np.lib.format.open_memmap(partial, "w+", np.uint8, (count, NUM_FRAMES, SIZE, SIZE, 3))
        captions = []
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            for i, (clip, text) in enumerate(pool.imap(_draw, ((seed, i) for i in range(count)), chunksize=64)):
                clips[i] = clip
                captions.append(text)
        clips.flush()
        partial.rename(path)
        words.write_text("\n".join(captions) + "\n", encoding="utf-8")
    return np.load(path, mmap_mode="r"), words.read_text(encoding="utf-8").splitlines()


def _draw(key: tuple[int, int]) -> tuple[NDArray[np.uint8], str]:
    rng = np.random.default_rng(key)
    grade: Grade = "simple" if rng.random() < SIMPLE_SHARE else "rich"
    scene = sample_scene(rng, grade, "train")
    return render(scene, rng), caption(scene, rng)
