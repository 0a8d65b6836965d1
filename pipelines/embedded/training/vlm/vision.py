"""First stage: the vision tower alone learns to see.

At every token, linear readers predict from its output what covers the token, how many objects there are, where, and on which ground.

Shape letters: N images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from pipelines.embedded.training.common import Progress, cosine, descend, load_state, save_state, set_rate
from pipelines.embedded.training.vlm.model import TOKENS_PER_IMAGE, patches
from pipelines.embedded.training.vlm.views import KINDS, Views
from workloads.world.scenes import BACKGROUNDS, COLOURS, SHAPES, SIZE, Scene
from workloads.world.vision import colour_mask

if TYPE_CHECKING:
    from transformers import Qwen3VLForConditionalGeneration

STEPS, FRAMES, RATE = 800, 64, 2e-3
COORDINATES = 24  # steps of a picture's width for the position of an object's centre, at the tokens that it covers
COVERED = 0.1  # a token counts as covered from this share of its part of the picture on
NO_LABEL = -100  # not counted in the loss: nothing is there, or several objects are
_SIGHTS = {
    "colour": 1 + len(COLOURS),
    "shape": 1 + len(SHAPES),
    "count": 3,
    "ground": len(BACKGROUNDS),
    "column": COORDINATES,
    "row": COORDINATES,
}


def train_vision(work: Path, model: Qwen3VLForConditionalGeneration, views: dict[str, Views], seed: int, steps: int) -> torch.nn.ModuleDict:
    """Train the vision tower so that linear readers predict at every token what is there and what the picture contains.

    Returns the readers, which the language stage trains further.
    """
    tower = model.model.visual
    readers = torch.nn.ModuleDict({name: torch.nn.Linear(tower.config.out_hidden_size, n) for name, n in _SIGHTS.items()})
    both = torch.nn.ModuleDict({"tower": tower, "heads": readers})
    path = work / "vision.pt"
    optimiser = torch.optim.AdamW(both.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    progress = Progress("vision", steps, load_state(path, both=both, optimiser=optimiser))
    while progress.step < steps:
        rng = np.random.default_rng((seed, 1, progress.step))
        set_rate(optimiser, cosine(progress.step, steps, RATE, warmup=100))
        frames, scenes = _random_frames(views, rng)
        pixels, grid = patches(torch.from_numpy(frames))
        with torch.autocast("cpu", torch.bfloat16):
            tokens = tower(pixels, grid_thw=grid, return_dict=True).pooler_output
        losses = sight_losses(readers, tokens, sights(frames, scenes))
        descend(torch.stack(list(losses.values())).sum(), both.parameters(), optimiser)
        progress.advance(**{name: value.item() for name, value in losses.items()})
        if progress.due():
            save_state(path, progress, both=both, optimiser=optimiser)
    save_state(path, progress, both=both, optimiser=optimiser)
    return readers


def _random_frames(views: dict[str, Views], rng: np.random.Generator) -> tuple[NDArray[np.uint8], list[Scene]]:
    """Frames (N, 48, 48, 3) of all kinds of view, and their scenes."""
    frames, scenes = [], []
    for _ in range(FRAMES):
        kind = str(rng.choice(list(KINDS)))
        i = int(rng.integers(len(views[kind].scenes)))
        clip = views[kind].frames[i]
        frames.append(clip[int(rng.integers(len(clip)))])
        scenes.append(views[kind].scenes[i])
    return np.stack(frames), scenes


def sights(frames_NHWC: NDArray[np.uint8], scenes: Sequence[Scene]) -> dict[str, torch.Tensor]:
    """The readers' labels: per token (N, tokens) colour, shape and the object's centre, per frame (N,) the rest."""
    labels: dict[str, list[Any]] = {name: [] for name in _SIGHTS}
    for frame, scene in zip(frames_NHWC, scenes, strict=True):
        masks = np.stack([colour_mask(frame, g.colour) for g in scene.groups])
        share = _shares(masks)
        first = share.argmax(0)
        covered = share.max(0) > COVERED
        colours = np.array([1 + list(COLOURS).index(g.colour) for g in scene.groups])
        shapes = np.array([1 + SHAPES.index(g.shape) for g in scene.groups])
        middles = np.array([[int(axis.mean() / SIZE * COORDINATES) if len(axis) else 0 for axis in np.nonzero(mask)] for mask in masks])
        is_single = covered & np.array([g.count == 1 for g in scene.groups])[first]
        labels["colour"].append(np.where(covered, colours[first], 0))
        labels["shape"].append(np.where(covered, shapes[first], 0))
        labels["count"].append(sum(g.count for g in scene.groups) - 1)
        labels["ground"].append(BACKGROUNDS.index(scene.background or "plain"))
        for axis, name in enumerate(("row", "column")):
            labels[name].append(np.where(is_single, middles[first, axis], NO_LABEL))
    return {name: torch.tensor(np.array(values)) for name, values in labels.items()}


def sight_losses(readers: torch.nn.ModuleDict, tokens: torch.Tensor, labels: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The readers' cross-entropies; tokens: the vision tower's output, of all frames in a row."""
    losses = {}
    for name, wanted in labels.items():
        each = wanted if wanted.ndim == 2 else wanted[:, None].expand(-1, TOKENS_PER_IMAGE)
        losses[name] = F.cross_entropy(readers[name](tokens.float()), each.flatten(), ignore_index=NO_LABEL)
    return losses


def _shares(masks_NHW: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The share of each token's part of the picture that each mask covers, (N, tokens of an image)."""
    cells = int(TOKENS_PER_IMAGE**0.5)
    parts = masks_NHW.reshape(len(masks_NHW), cells, SIZE // cells, cells, SIZE // cells)
    return np.asarray(parts.mean((2, 4)).reshape(len(masks_NHW), -1), np.float64)
