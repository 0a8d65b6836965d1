"""Second stage: the whole model learns to answer, on frames first, then on clips as well with frames as replay.

The readers of the vision stage stay, so that the tower does not forget, and one more predicts the motion at every token that a clip's
object covers, from the second frame on. Each picture has several questions: they follow its tokens side by side, each masked from the
others and each at the position that it would have alone, so the picture is computed once.

Shape letters: N images, B sequences, S tokens, D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from pipelines.embedded.training.common import Ema, Progress, cosine, descend, load_state, save_state, set_rate
from pipelines.embedded.training.vlm.model import IMAGE_ID, TOKENS_PER_IMAGE, patches
from pipelines.embedded.training.vlm.views import CLIP_KIND, FRAME_KINDS, KINDS, Views
from pipelines.embedded.training.vlm.vision import sight_losses, sights
from workloads.world.scenes import DIRECTIONS, SIZE, Scene
from workloads.world.vision import TASKS, ask, draw_item, place_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen3VLForConditionalGeneration

STEPS, VIEWS, RATE = 2000, 32, 1.5e-3
FRAMES_ONLY = 0.15  # the share of the steps before clips join in; then every other step is one
# Questions that only training uses: where a clip's object is at first and at last, from which its direction follows.
TRACES = {"first": ("where is it at first?", 0), "last": ("where is it at last?", -1)}
MOTIONS = [("still", "still"), *((d, v) for d in DIRECTIONS if d != "still" for v in ("slow", "fast"))]


@dataclass(frozen=True)
class Packed:
    """A batch of views with several questions each, ready for the model.

    segments_BS: 0 for the tokens that all questions attend to, then each question's number, -1 for padding.
    mask_B1SS: 0 where a token may attend, else a large negative number. targets: (row, place, token) of the answers; the place is
    the one whose output predicts the token.
    """

    frames_NHWC: torch.Tensor
    ids_BS: torch.Tensor
    segments_BS: torch.Tensor
    positions_3BS: torch.Tensor
    mask_B1SS: torch.Tensor
    targets: torch.Tensor
    num_questions: int
    scenes: list[Scene]  # one a row


def corpus(seed: int) -> list[str]:
    """Questions and answers of every task, on which the tokenizer is trained."""
    rng = np.random.default_rng((seed, 77))
    texts = []
    for task in TASKS:
        for _ in range(200):
            item = draw_item(rng, task, "train")
            texts += [item.prompt, item.answer]
    return texts


def train_language(
    work: Path,
    model: Qwen3VLForConditionalGeneration,
    readers: torch.nn.ModuleDict,
    tokenizer: PreTrainedTokenizerBase,
    views: dict[str, Views],
    seed: int,
    steps: int,
) -> None:
    """Train the whole model on answers, and the readers with it. The model ends with its averaged weights."""
    path = work / "language.pt"
    text: Any = model.config.text_config
    readers["motion"] = torch.nn.Linear(text.hidden_size, len(MOTIONS))
    both = torch.nn.ModuleDict({"model": model, "readers": readers})
    ema = Ema(model, 0.998)
    optimiser = torch.optim.AdamW(both.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    progress = Progress("language", steps, load_state(path, both=both, ema=ema, optimiser=optimiser))
    latest: dict[str, float] = {}
    while progress.step < steps:
        step = progress.step
        rng = np.random.default_rng((seed, 2, step))
        set_rate(optimiser, cosine(step, steps, RATE, warmup=100))
        clips = step >= FRAMES_ONLY * steps and step % 2 == 1
        kind = CLIP_KIND if clips else FRAME_KINDS[(step // 2) % len(FRAME_KINDS)]
        batch = pack(model, tokenizer, views[kind], KINDS[kind][1], rng)
        outputs = answer_loss(model, batch)
        read = read_losses(readers, batch, outputs)
        descend(torch.stack([outputs.loss, *read.values()]).sum(), both.parameters(), optimiser)
        ema.update(model)
        latest |= {kind: outputs.loss.item(), **{name: value.item() for name, value in read.items()}}
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
    count: int = VIEWS,
) -> Packed:
    """`count` random views with a question of every task."""
    index = rng.integers(len(views.scenes), size=count)
    frames = views.frames[np.sort(index)]
    num_images = frames.shape[1]
    start = _ids(tokenizer, "<|im_start|>user\n" + "<|vision_start|><|image_pad|><|vision_end|>" * num_images)
    prefix = [i for token in start for i in [token] * (TOKENS_PER_IMAGE if token == IMAGE_ID else 1)]
    rows, targets, num_questions = [], [], 0
    for row, i in enumerate(np.sort(index)):
        ids, segments, places = list(prefix), [0] * len(prefix), list(range(len(prefix)))
        for segment, task in enumerate(tasks, start=1):
            item = _ask(rng, task, views.scenes[i], frames[row])
            if item is None:
                continue
            question = _ids(tokenizer, item[0] + "<|im_end|>\n<|im_start|>assistant\n")
            answer = _ids(tokenizer, item[1] + "<|im_end|>")
            both = [*question, *answer]
            targets += [(row, len(ids) + len(question) - 1 + k, token) for k, token in enumerate(answer)]
            ids += both
            segments += [segment] * len(both)
            places += range(len(prefix), len(prefix) + len(both))
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


class Outputs(NamedTuple):
    """The model's outputs for a batch: visual tokens (all images in a row), hidden states, and the answers' loss."""

    tokens: torch.Tensor
    hidden_BSD: torch.Tensor
    loss: torch.Tensor


def answer_loss(model: Qwen3VLForConditionalGeneration, batch: Packed, precise: bool = False) -> Outputs:
    """The loss is the mean over questions of the answer's negative log probability. precise: everything in float32."""
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
    return Outputs(torch.cat(seen.pooler_output), hidden_BSD, loss)


def read_losses(readers: torch.nn.ModuleDict, batch: Packed, outputs: Outputs) -> dict[str, torch.Tensor]:
    """The readers' losses: `sight` as in the vision stage and, for clips, `motion` at the tokens that the object covers."""
    num_images = len(batch.frames_NHWC) // len(batch.scenes)
    labels = sights(batch.frames_NHWC.numpy(), [scene for scene in batch.scenes for _ in range(num_images)])
    losses = {"sight": torch.stack(list(sight_losses(readers, outputs.tokens, labels).values())).sum()}
    if num_images > 1:
        is_image = batch.ids_BS == IMAGE_ID
        covered = (labels["colour"] > 0).view(len(batch.scenes), num_images, TOKENS_PER_IMAGE)
        covered[:, 0] = False  # one frame shows no motion
        motions = torch.tensor([MOTIONS.index((s.groups[0].direction, s.groups[0].speed)) for s in batch.scenes])
        hidden = outputs.hidden_BSD[is_image][covered.flatten()].float()
        wanted = motions[:, None, None].expand(covered.shape)[covered]
        losses["motion"] = F.cross_entropy(readers["motion"](hidden), wanted)
    return losses


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _padded(rows: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])
