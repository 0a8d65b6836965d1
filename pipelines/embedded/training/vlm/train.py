"""Train the embedded vision-language model from nothing: `python -m pipelines.embedded.training.vlm.train`.

Stages, each kept under --work and resumed where it was left (Ctrl-C loses at most a minute):
  views   draw the training pictures and clips, with nothing held out in them
  see     teach the vision tower alone: at every token, what covers it, how many there are, where, on which ground
  talk    the whole model on questions and answers: frames first, then clips as well with frames as replay. The readers of
          `see` stay, lest the tower forget, and one more is to find the motion at every token that a clip's object covers,
          from the second frame on
  export  write the checkpoint folder
Asked everything at once from nothing, such a model learns colours and then stalls; having learnt to see first, it does not.

In `talk` one picture is asked several questions: they follow its tokens side by side, each blind to the others and
each at the position it would have alone, so that the picture is paid for once.

Scores for the model card: `python -m pipelines.embedded.training.vlm.train --score 400`.

Shape letters: N images, B sequences, S tokens, V vocabulary.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import typer
from numpy.typing import NDArray

from pipelines.embedded.training.common import Ema, Progress, cosine, load_state, save_state
from pipelines.embedded.training.vlm.model import (
    IMAGE_ID,
    TOKENS_PER_IMAGE,
    build_model,
    build_tokenizer,
    patches,
    save,
    use_training_attention,
)
from pipelines.models.embedded import VISION
from pipelines.transformers.vlm import TransformersVLM
from workloads.records import Query, Sample
from workloads.vlm import encode_png
from workloads.world.scenes import BACKGROUNDS, COLOURS, DIRECTIONS, SHAPES, SIZE, Scene
from workloads.world.vision import CLIP_FRAMES, TASKS, ask, colour_mask, draw_item, draw_scene, place_of, show

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen3VLForConditionalGeneration

# What is drawn: a kind of view is named after a task that shows it. Then how many, and what each is asked.
KINDS: dict[str, tuple[int, tuple[str, ...]]] = {
    "colour": (12_000, ("colour", "shape", "count", "catalogue")),
    "place": (6_000, ("colour", "shape", "place", "catalogue")),
    "which": (8_000, ("which", "which", "which")),
    "direction": (10_000, ("direction", "speed", "first", "last")),
}
# Questions of training alone: where a clip's object is at first and at last, which is half of knowing where it goes.
TRACES = {"first": ("where is it at first?", 0), "last": ("where is it at last?", -1)}
FRAME_KINDS, CLIP_KIND = ("colour", "place", "which"), "direction"

SEE_STEPS, SEE_FRAMES, SEE_RATE = 800, 64, 2e-3
TALK_STEPS, TALK_VIEWS, TALK_RATE = 2000, 32, 1.5e-3
FRAMES_ONLY = 0.15  # the share of the talk steps before clips join in; then every other step is one

MOTIONS = [("still", "still"), *((d, v) for d in DIRECTIONS if d != "still" for v in ("slow", "fast"))]


class Views(NamedTuple):
    """The training pictures of one kind: frames (n, T, 48, 48, 3) in uint8 and their scenes."""

    frames: NDArray[np.uint8]
    scenes: list[Scene]


@dataclass(frozen=True)
class Packed:
    """A batch of views with several questions each, ready for the model.

    segments_BS: 0 for the tokens that all questions see, then each question's number, -1 for padding.
    mask_B1SS: 0 where a token may look, else a large negative number. targets: (row, place, token) of what is to be said;
    the place is the one that says it.
    """

    frames_NHWC: torch.Tensor
    ids_BS: torch.Tensor
    segments_BS: torch.Tensor
    positions_3BS: torch.Tensor
    mask_B1SS: torch.Tensor
    targets: torch.Tensor
    num_questions: int
    scenes: list[Scene]  # one a row


def main(
    work: Annotated[Path, typer.Option(help="Where states and pictures are kept.")] = Path("build/vlm"),
    output: Annotated[Path, typer.Option(help="The checkpoint folder to write.")] = VISION,
    seed: Annotated[int, typer.Option(help="Decides pictures, weights and batches.")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    see_steps: Annotated[int, typer.Option(help="Steps of the vision tower alone.")] = SEE_STEPS,
    talk_steps: Annotated[int, typer.Option(help="Steps of the whole model; more is better.")] = TALK_STEPS,
    score: Annotated[int, typer.Option(help="Train nothing: ask the folder at --output this many questions a task and split.")] = 0,
) -> None:
    """Train the embedded vision-language model; see this module's docstring for the stages."""
    torch.set_num_threads(threads)
    if score:
        print_scores(output, score)
        return
    views = {kind: load_views(work, kind, seed) for kind in KINDS}
    tokenizer = build_tokenizer(corpus(seed))
    torch.manual_seed(seed)
    model = build_model()
    restore = use_training_attention(model)
    readers = teach_to_see(work, model, views, seed, see_steps)
    teach_to_talk(work, model, readers, tokenizer, views, seed, talk_steps)
    restore()
    save(model, tokenizer, output)
    size = sum(f.stat().st_size for f in output.rglob("*.safetensors"))
    print(f"wrote {output}: {size / 1e6:.1f} MB of weights", flush=True)


def corpus(seed: int) -> list[str]:
    """Questions and answers of every task, for the tokenizer to learn its pieces from."""
    rng = np.random.default_rng((seed, 77))
    texts = []
    for task in TASKS:
        for _ in range(200):
            item = draw_item(rng, task, "train")
            texts += [item.prompt, item.answer]
    return texts


def load_views(work: Path, kind: str, seed: int) -> Views:
    """The kind's training pictures, from disk after the first call."""
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


# --- see ---

COORDINATES = 24  # into so many steps a picture's width is divided where an object's middle is told, at the tokens it covers
COVERED = 0.1  # the share of a token's part of the picture from which on an object covers it
NOT_TOLD = -100  # a label that is not judged: nothing is there, or several objects are
_SIGHTS = {
    "colour": 1 + len(COLOURS),
    "shape": 1 + len(SHAPES),
    "count": 3,
    "ground": len(BACKGROUNDS),
    "column": COORDINATES,
    "row": COORDINATES,
}


def teach_to_see(work: Path, model: Qwen3VLForConditionalGeneration, views: dict[str, Views], seed: int, steps: int) -> torch.nn.ModuleDict:
    """Train the vision tower so that linear readers find at every token what is there and what the picture holds.

    The readers come back, for `talk` to go on with.
    """
    tower = model.model.visual
    readers = torch.nn.ModuleDict({name: torch.nn.Linear(tower.config.out_hidden_size, n) for name, n in _SIGHTS.items()})
    both = torch.nn.ModuleDict({"tower": tower, "heads": readers})
    path = work / "see.pt"
    optimiser = torch.optim.AdamW(both.parameters(), lr=SEE_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    progress = Progress("see", steps, load_state(path, both=both, optimiser=optimiser))
    while progress.step < steps:
        rng = np.random.default_rng((seed, 1, progress.step))
        _set_rate(optimiser, cosine(progress.step, steps, SEE_RATE, warmup=100))
        frames, scenes = _random_frames(views, rng)
        pixels, grid = patches(torch.from_numpy(frames))
        with torch.autocast("cpu", torch.bfloat16):
            tokens = tower(pixels, grid_thw=grid, return_dict=True).pooler_output
        losses = sight_losses(readers, tokens, sights(frames, scenes))
        _descend(torch.stack(list(losses.values())).sum(), both, optimiser)
        progress.advance(**{name: value.item() for name, value in losses.items()})
        if progress.due():
            save_state(path, progress, both=both, optimiser=optimiser)
    save_state(path, progress, both=both, optimiser=optimiser)
    return readers


def _random_frames(views: dict[str, Views], rng: np.random.Generator) -> tuple[NDArray[np.uint8], list[Scene]]:
    """Frames (N, 48, 48, 3) of all kinds of view, and their scenes."""
    frames, scenes = [], []
    for _ in range(SEE_FRAMES):
        kind = str(rng.choice(list(KINDS)))
        i = int(rng.integers(len(views[kind].scenes)))
        clip = views[kind].frames[i]
        frames.append(clip[int(rng.integers(len(clip)))])
        scenes.append(views[kind].scenes[i])
    return np.stack(frames), scenes


def sights(frames_NHWC: NDArray[np.uint8], scenes: Sequence[Scene]) -> dict[str, torch.Tensor]:
    """What there is to see: per token (N, tokens) colour, shape and its object's middle, per frame (N,) the rest."""
    labels: dict[str, list[Any]] = {name: [] for name in _SIGHTS}
    for frame, scene in zip(frames_NHWC, scenes, strict=True):
        masks = np.stack([colour_mask(frame, g.colour) for g in scene.groups])
        share = _shares(masks)
        first = share.argmax(0)
        covered = share.max(0) > COVERED
        colours = np.array([1 + list(COLOURS).index(g.colour) for g in scene.groups])
        shapes = np.array([1 + SHAPES.index(g.shape) for g in scene.groups])
        middles = np.array([[int(axis.mean() / SIZE * COORDINATES) if len(axis) else 0 for axis in np.nonzero(mask)] for mask in masks])
        told = covered & np.array([g.count == 1 for g in scene.groups])[first]
        labels["colour"].append(np.where(covered, colours[first], 0))
        labels["shape"].append(np.where(covered, shapes[first], 0))
        labels["count"].append(sum(g.count for g in scene.groups) - 1)
        labels["ground"].append(BACKGROUNDS.index(scene.background or "plain"))
        for axis, name in enumerate(("row", "column")):
            labels[name].append(np.where(told, middles[first, axis], NOT_TOLD))
    return {name: torch.tensor(np.array(values)) for name, values in labels.items()}


def sight_losses(readers: torch.nn.ModuleDict, tokens: torch.Tensor, labels: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The readers' cross-entropies; tokens: the vision tower's output, of all frames in a row."""
    losses = {}
    for name, wanted in labels.items():
        each = wanted if wanted.ndim == 2 else wanted[:, None].expand(-1, TOKENS_PER_IMAGE)
        losses[name] = F.cross_entropy(readers[name](tokens.float()), each.flatten(), ignore_index=NOT_TOLD)
    return losses


def _shares(masks_NHW: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How much of each token's part of the picture each mask covers, (N, tokens of an image)."""
    cells = int(TOKENS_PER_IMAGE**0.5)
    parts = masks_NHW.reshape(len(masks_NHW), cells, SIZE // cells, cells, SIZE // cells)
    return np.asarray(parts.mean((2, 4)).reshape(len(masks_NHW), -1), np.float64)


# --- talk ---


def teach_to_talk(
    work: Path,
    model: Qwen3VLForConditionalGeneration,
    readers: torch.nn.ModuleDict,
    tokenizer: PreTrainedTokenizerBase,
    views: dict[str, Views],
    seed: int,
    steps: int,
) -> None:
    """Train the whole model on answers, and its readers with it. It comes back as its averaged weights."""
    path = work / "talk.pt"
    text: Any = model.config.text_config
    readers["motion"] = torch.nn.Linear(text.hidden_size, len(MOTIONS))
    both = torch.nn.ModuleDict({"model": model, "readers": readers})
    ema = Ema(model, 0.998)
    optimiser = torch.optim.AdamW(both.parameters(), lr=TALK_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    progress = Progress("talk", steps, load_state(path, both=both, ema=ema, optimiser=optimiser))
    latest: dict[str, float] = {}
    while progress.step < steps:
        step = progress.step
        rng = np.random.default_rng((seed, 2, step))
        _set_rate(optimiser, cosine(step, steps, TALK_RATE, warmup=100))
        clips = step >= FRAMES_ONLY * steps and step % 2 == 1
        kind = CLIP_KIND if clips else FRAME_KINDS[(step // 2) % len(FRAME_KINDS)]
        batch = pack(model, tokenizer, views[kind], KINDS[kind][1], rng)
        said = talk_loss(model, batch)
        read = read_losses(readers, batch, said)
        _descend(torch.stack([said.loss, *read.values()]).sum(), both, optimiser)
        ema.update(model)
        latest |= {kind: said.loss.item(), **{name: value.item() for name, value in read.items()}}
        progress.advance(**latest)
        if progress.due():
            save_state(path, progress, both=both, ema=ema, optimiser=optimiser)
    save_state(path, progress, both=both, ema=ema, optimiser=optimiser)
    ema.copy_to(model)


def pack(
    model: Qwen3VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    views: Views,
    tasks: Sequence[str],
    rng: np.random.Generator,
    count: int = TALK_VIEWS,
) -> Packed:
    """`count` random views, each asked every task."""
    index = rng.integers(len(views.scenes), size=count)
    frames = views.frames[np.sort(index)]
    num_images = frames.shape[1]
    start = _ids(tokenizer, "<|im_start|>user\n" + "<|vision_start|><|image_pad|><|vision_end|>" * num_images)
    prefix = [i for token in start for i in [token] * (TOKENS_PER_IMAGE if token == IMAGE_ID else 1)]
    rows, targets, num_questions = [], [], 0
    for row, i in enumerate(np.sort(index)):
        ids, segments, places = list(prefix), [0] * len(prefix), list(range(len(prefix)))
        for segment, task in enumerate(tasks, start=1):
            asked = _ask(rng, task, views.scenes[i], frames[row])
            if asked is None:
                continue
            question = _ids(tokenizer, asked[0] + "<|im_end|>\n<|im_start|>assistant\n")
            answer = _ids(tokenizer, asked[1] + "<|im_end|>")
            said = [*question, *answer]
            targets += [(row, len(ids) + len(question) - 1 + k, token) for k, token in enumerate(answer)]
            ids += said
            segments += [segment] * len(said)
            places += range(len(prefix), len(prefix) + len(said))
            num_questions += 1
        rows.append((ids, segments, places))
    ids_BS, segments_BS, places_BS = (_padded([row[part] for row in rows], fill) for part, fill in enumerate((0, -1, 0)))
    earlier = torch.ones(ids_BS.shape[1], ids_BS.shape[1], dtype=torch.bool).tril()
    same = (segments_BS[:, None] == segments_BS[:, :, None]) | (segments_BS[:, None] == 0)
    mask = torch.zeros(same.shape).masked_fill(~(same & earlier), -1e9)[:, None]
    grid = patches(torch.from_numpy(frames[:1].reshape(-1, SIZE, SIZE, 3)))[1]
    plain = torch.tensor([prefix + [0] * (ids_BS.shape[1] - len(prefix))])
    alone = model.model.get_rope_index(plain, (plain == IMAGE_ID).int(), image_grid_thw=grid)[0][:, 0]
    return Packed(
        torch.from_numpy(frames.reshape(-1, SIZE, SIZE, 3)),
        ids_BS,
        segments_BS,
        alone[:, places_BS],
        mask,
        torch.tensor(targets),
        num_questions,
        [views.scenes[i] for i in np.sort(index)],
    )


def _ask(rng: np.random.Generator, task: str, scene: Scene, frames_THWC: NDArray[np.uint8]) -> tuple[str, str] | None:
    if task not in TRACES:
        return ask(rng, task, scene, frames_THWC)
    question, moment = TRACES[task]
    place = place_of(frames_THWC[moment])
    return None if place is None else (question, place)


class Said(NamedTuple):
    """What the model made of a batch: its visual tokens (all images in a row), hidden states, and the answers' loss."""

    tokens: torch.Tensor
    hidden_BSD: torch.Tensor
    loss: torch.Tensor


def talk_loss(model: Qwen3VLForConditionalGeneration, batch: Packed, precise: bool = False) -> Said:
    """The loss is the mean over questions of the answer's negative log probability. precise: all in float32."""
    pixels, grid = patches(batch.frames_NHWC)
    with torch.autocast("cpu", torch.bfloat16, enabled=not precise):
        seen = model.model.get_image_features(pixels, grid, return_dict=True)
        hidden_BSD = model.model(
            input_ids=batch.ids_BS,
            mm_encoder_outputs={"image": seen},
            image_grid_thw=grid,
            attention_mask=batch.mask_B1SS,
            position_ids=batch.positions_3BS,
            use_cache=False,
        ).last_hidden_state
        rows, places, tokens = batch.targets.unbind(1)
        logits_V = model.lm_head(hidden_BSD[rows, places])
    loss = F.cross_entropy(logits_V.float(), tokens, reduction="sum") / batch.num_questions
    return Said(torch.cat(seen.pooler_output), hidden_BSD, loss)


def read_losses(readers: torch.nn.ModuleDict, batch: Packed, said: Said) -> dict[str, torch.Tensor]:
    """What the readers lose: `sight` as in `see`, and for clips `motion`, at the tokens that the object covers."""
    num_images = len(batch.frames_NHWC) // len(batch.scenes)
    labels = sights(batch.frames_NHWC.numpy(), [scene for scene in batch.scenes for _ in range(num_images)])
    losses = {"sight": torch.stack(list(sight_losses(readers, said.tokens, labels).values())).sum()}
    if num_images > 1:
        is_image = batch.ids_BS == IMAGE_ID
        covered = (labels["colour"] > 0).view(len(batch.scenes), num_images, TOKENS_PER_IMAGE)
        covered[:, 0] = False  # one frame shows no motion
        motions = torch.tensor([MOTIONS.index((s.groups[0].direction, s.groups[0].speed)) for s in batch.scenes])
        hidden = said.hidden_BSD[is_image][covered.flatten()].float()
        wanted = motions[:, None, None].expand(covered.shape)[covered]
        losses["motion"] = F.cross_entropy(readers["motion"](hidden), wanted)
    return losses


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


def _padded(rows: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])


def _set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate


def _descend(loss: torch.Tensor, module: torch.nn.Module, optimiser: torch.optim.Optimizer) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimiser.step()


# --- scores ---


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


if __name__ == "__main__":
    typer.run(main)
