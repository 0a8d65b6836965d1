"""Train the embedded vision-language model from nothing: `python -m pipelines.embedded.train_vlm`.

Stages, each kept under --work and resumed where it was left (Ctrl-C loses at most a minute):
  views   draw the training pictures and clips, with nothing held out in them
  see     teach the vision tower alone: at every token, what covers it, how many there are, where, on which ground
  talk    the whole model on questions and answers: frames first, then clips as well with frames as replay; a linear
          reader helps: it is to find the motion at every token of a clip that its object covers, from the second frame on
  export  write the checkpoint folder
Asked everything at once from nothing, such a model learns colours and then stalls; having learnt to see first, it does not.

In `talk` one picture is asked several questions: they follow its tokens side by side, each blind to the others and
each at the position it would have alone, so that the picture is paid for once.

Scores for the model card: `python -m pipelines.embedded.train_vlm --score 400`.

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

from pipelines.embedded.training import Ema, Progress, cosine, load_state, save_state
from pipelines.embedded.vlm_model import IMAGE_ID, TOKENS_PER_IMAGE, build_model, build_tokenizer, patches, save, use_training_attention
from pipelines.transformers_vlm import EMBEDDED, TransformersVLM
from workloads.records import Query, Sample
from workloads.vlm import encode_png
from workloads.world import BACKGROUNDS, COLOURS, DIRECTIONS, SHAPES, SIZE, Scene
from workloads.world_vision import CLIP_FRAMES, TASKS, ask, colour_mask, draw_item, draw_scene, place_of, show

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
    motions: torch.Tensor  # (row, place, index into MOTIONS) of a clip's tokens that its object covers
    num_questions: int


def main(
    work: Annotated[Path, typer.Option(help="Where states and pictures are kept.")] = Path("build/vlm"),
    output: Annotated[Path, typer.Option(help="The checkpoint folder to write.")] = EMBEDDED,
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
    teach_to_see(work, model, views, seed, see_steps)
    teach_to_talk(work, model, tokenizer, views, seed, talk_steps)
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


def teach_to_see(work: Path, model: Qwen3VLForConditionalGeneration, views: dict[str, Views], seed: int, steps: int) -> None:
    """Train the vision tower so that a linear reader finds at every token what is there and what the picture holds."""
    tower = model.model.visual
    heads = torch.nn.ModuleDict({name: torch.nn.Linear(tower.config.out_hidden_size, n) for name, n in _SIGHTS.items()})
    both = torch.nn.ModuleDict({"tower": tower, "heads": heads})
    path = work / "see.pt"
    optimiser = torch.optim.AdamW(both.parameters(), lr=SEE_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    progress = Progress("see", steps, load_state(path, both=both, optimiser=optimiser))
    while progress.step < steps:
        rng = np.random.default_rng((seed, 1, progress.step))
        _set_rate(optimiser, cosine(progress.step, steps, SEE_RATE, warmup=100))
        frames, labels = _sights(views, rng)
        pixels, grid = patches(frames)
        with torch.autocast("cpu", torch.bfloat16):
            tokens = tower(pixels, grid_thw=grid, return_dict=True).pooler_output
        tokens = tokens.float().view(len(frames), TOKENS_PER_IMAGE, -1)
        losses = {name: _sight_loss(heads[name](tokens), labels[name]) for name in _SIGHTS}
        _descend(torch.stack(list(losses.values())).sum(), both, optimiser)
        progress.advance(**{name: value.item() for name, value in losses.items()})
        if progress.due():
            save_state(path, progress, both=both, optimiser=optimiser)
    save_state(path, progress, both=both, optimiser=optimiser)


def _sights(views: dict[str, Views], rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Frames (N, 48, 48, 3) of all kinds and what each holds: per token colour and shape, per frame the rest."""
    frames, labels = [], {name: list[Any]() for name in _SIGHTS}
    for _ in range(SEE_FRAMES):
        kind = str(rng.choice(list(KINDS)))
        i = int(rng.integers(len(views[kind].scenes)))
        scene, clip = views[kind].scenes[i], views[kind].frames[i]
        frame = clip[int(rng.integers(len(clip)))]
        masks = np.stack([colour_mask(frame, g.colour) for g in scene.groups])
        share = _shares(masks)
        first = share.argmax(0)
        covered = share.max(0) > COVERED
        colours = np.array([1 + list(COLOURS).index(g.colour) for g in scene.groups])
        shapes = np.array([1 + SHAPES.index(g.shape) for g in scene.groups])
        middles = [[int(axis.mean() / SIZE * COORDINATES) for axis in np.nonzero(mask)] for mask in masks]
        told = covered & np.array([g.count == 1 for g in scene.groups])[first]
        frames.append(frame)
        labels["colour"].append(np.where(covered, colours[first], 0))
        labels["shape"].append(np.where(covered, shapes[first], 0))
        labels["count"].append(sum(g.count for g in scene.groups) - 1)
        labels["ground"].append(BACKGROUNDS.index(scene.background or "plain"))
        for axis, name in enumerate(("row", "column")):
            labels[name].append(np.where(told, np.array(middles)[first, axis], NOT_TOLD))
    return torch.from_numpy(np.stack(frames)), {name: torch.tensor(np.array(values)) for name, values in labels.items()}


def _shares(masks_NHW: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How much of each token's part of the picture each mask covers, (N, tokens of an image)."""
    cells = int(TOKENS_PER_IMAGE**0.5)
    parts = masks_NHW.reshape(len(masks_NHW), cells, SIZE // cells, cells, SIZE // cells)
    return np.asarray(parts.mean((2, 4)).reshape(len(masks_NHW), -1), np.float64)


def _sight_loss(read: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    if wanted.ndim == 1:
        wanted = wanted[:, None].expand(read.shape[:2])
    return F.cross_entropy(read.flatten(0, 1), wanted.flatten(), ignore_index=NOT_TOLD)


# --- talk ---


def teach_to_talk(
    work: Path, model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, views: dict[str, Views], seed: int, steps: int
) -> None:
    """Train the whole model on answers. It comes back as its averaged weights."""
    path = work / "talk.pt"
    text: Any = model.config.text_config
    reader = torch.nn.Linear(text.hidden_size, len(MOTIONS))
    both = torch.nn.ModuleDict({"model": model, "reader": reader})
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
        said, moved = talk_loss(model, batch, reader)
        _descend(said + moved, both, optimiser)
        ema.update(model)
        latest |= {kind: said.item(), **({"motion": moved.item()} if clips else {})}
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
        torch.tensor(_motions([views.scenes[i] for i in np.sort(index)], frames, prefix)).view(-1, 3),
        num_questions,
    )


def _ask(rng: np.random.Generator, task: str, scene: Scene, frames_THWC: NDArray[np.uint8]) -> tuple[str, str] | None:
    if task not in TRACES:
        return ask(rng, task, scene, frames_THWC)
    question, moment = TRACES[task]
    place = place_of(frames_THWC[moment])
    return None if place is None else (question, place)


def _motions(scenes: Sequence[Scene], frames_BTHWC: NDArray[np.uint8], prefix: Sequence[int]) -> list[tuple[int, int, int]]:
    """(row, place, motion) of every token from the second frame on that the object covers."""
    places = [place for place, token in enumerate(prefix) if token == IMAGE_ID]
    found = []
    for row, (scene, frames) in enumerate(zip(scenes, frames_BTHWC, strict=True)):
        group = scene.groups[0]
        motion = MOTIONS.index((group.direction, group.speed))
        for moment in range(1, len(frames)):
            covered = _shares(colour_mask(frames[moment], group.colour)[None])[0] > COVERED
            found += [(row, places[TOKENS_PER_IMAGE * moment + int(i)], motion) for i in np.flatnonzero(covered)]
    return found


def talk_loss(
    model: Qwen3VLForConditionalGeneration, batch: Packed, reader: torch.nn.Module | None = None, precise: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean over questions of the answer's negative log probability, and the motion reader's loss (0 without clips).

    precise: all in float32.
    """
    pixels, grid = patches(batch.frames_NHWC)
    with torch.autocast("cpu", torch.bfloat16, enabled=not precise):
        hidden_BSD = model.model(
            input_ids=batch.ids_BS,
            pixel_values=pixels,
            image_grid_thw=grid,
            attention_mask=batch.mask_B1SS,
            position_ids=batch.positions_3BS,
            use_cache=False,
        ).last_hidden_state
        rows, places, tokens = batch.targets.unbind(1)
        logits_V = model.lm_head(hidden_BSD[rows, places])
    said = F.cross_entropy(logits_V.float(), tokens, reduction="sum") / batch.num_questions
    if reader is None or not len(batch.motions):
        return said, torch.zeros(())
    rows, places, motions = batch.motions.unbind(1)
    return said, F.cross_entropy(reader(hidden_BSD[rows, places].float()), motions)


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
