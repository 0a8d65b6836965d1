"""Train an embedded language model from nothing: `python -m pipelines.embedded.training.llm.train --kind dense` (or moe).

Items of `workloads.world.language` are drawn during training, never held-out ones, so an item is seen twice only by chance. Every batch
mixes all tasks and passes through the model in parts of similar length; only the answer's tokens count in the loss. The tasks `repeat` and
`backwards` teach copying with every token. Answers about one of several objects stay no better than a guess after thousands of steps
unless there is a second loss: half-way up the network, at every token of a described object, linear readers predict what the text has
stated of that object so far. Then attention to a single token is enough to answer a question.
Matrix products are in bfloat16 and attention is unfused: on a CPU the fused kernel's bfloat16 backward pass is several times slower.
The state under --work is saved every minute. Ctrl-C loses at most that, and the same command resumes.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import typer

from pipelines.embedded.training.common import Ema, Progress, cosine, load_state, save_state, set_rate
from pipelines.embedded.training.llm.models import BUILDERS, END_ID, MAX_LENGTH, build_tokenizer
from pipelines.models.embedded import LANGUAGE
from workloads.world.language import TASKS, Item, draw_item
from workloads.world.scenes import COLOURS, DIRECTIONS, SHAPES, SPEEDS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BATCH_ITEMS = 128  # of all tasks, so that every step trains each of them
# How often each task is drawn. Short questions about one thing in the text are learnt last; the long tasks teach copying early.
WEIGHTS = {"colour": 3, "motion": 2, "find": 6, "count": 1.5, "summary": 1.5} | dict.fromkeys(("lines", "json", "repeat", "backwards"), 0.4)
# Scenes of two objects at first: the right one of two is learnt within a few hundred steps, that of five is not.
EASY_SHARE, EASY_UNTIL, EASY_GONE = 0.8, 0.5, 0.75  # share of the items; until which share of the steps; none from this share on
EASY_OBJECTS = 2
PART_TOKENS = 2_500  # of one part, padding included
STEPS = {"dense": 3_500, "moe": 3_500}
RATE = {"dense": 3e-3, "moe": 3e-3}
READER_WEIGHT = 0.3
FACTS = {"colour": tuple(COLOURS), "shape": SHAPES, "direction": tuple(DIRECTIONS), "speed": tuple(SPEEDS)}
IGNORED = -100  # the label of a token that does not count in the loss


def main(
    kind: Annotated[str, typer.Option(help="dense: a Llama; moe: a gpt-oss mixture of experts.")] = "dense",
    work: Annotated[Path, typer.Option(help="Where the training state is kept.")] = Path("build/llm"),
    output: Annotated[Path | None, typer.Option(help="The folder to write; the shipped model's where not given.")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps; more is better.")] = None,
    seed: Annotated[int, typer.Option(help="Decides weights and items.")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    score_only: Annotated[bool, typer.Option("--score", help="Train nothing; score what is in the output folder.")] = False,
) -> None:
    """Train an embedded language model, write it, and score it on seen and held-out scenes."""
    if kind not in BUILDERS:
        raise typer.BadParameter(f"unknown kind {kind!r}; known: {', '.join(BUILDERS)}")
    torch.set_num_threads(threads)
    folder = output or LANGUAGE["embedded" if kind == "dense" else "embedded-moe"]
    if not score_only:
        model, tokenizer = _train(kind, work / f"{kind}.pt", steps or STEPS[kind], seed)
        model.generation_config.update(max_new_tokens=256, do_sample=False)
        model.half().save_pretrained(folder, safe_serialization=True)
        tokenizer.save_pretrained(folder)
        size = sum(f.stat().st_size for f in folder.glob("*.safetensors"))
        print(f"wrote {folder}: {size / 1e6:.2f} MB of weights", flush=True)
    raise SystemExit(subprocess.call([sys.executable, "-m", "pipelines.embedded.training.llm.score", "--model", str(folder)]))


def world_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """The tokenizer, trained on three thousand training items."""
    rng = np.random.default_rng((seed, 1))
    items = [draw_item(rng, TASKS[i % len(TASKS)], "train") for i in range(3000)]
    return build_tokenizer(text for item in items for text in (item.prompt, item.answer))


def _kept_tokenizer(folder: Path, seed: int) -> PreTrainedTokenizerFast:
    """The tokenizer with which training began. One trained on other items would not fit the saved weights."""
    from transformers import PreTrainedTokenizerFast

    if not folder.exists():
        world_tokenizer(seed).save_pretrained(folder)
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    return tokenizer


def _train(kind: str, path: Path, steps: int, seed: int) -> tuple[Any, PreTrainedTokenizerFast]:
    torch.manual_seed(seed)
    tokenizer = _kept_tokenizer(path.with_name(f"{kind}_tokenizer"), seed)
    model: Any = BUILDERS[kind]().train()
    model.set_attn_implementation("eager")
    readers = torch.nn.ModuleDict({name: torch.nn.Linear(model.config.hidden_size, len(values)) for name, values in FACTS.items()})
    ema = Ema(model, 0.995)
    optimisers = [*_optimisers(model), torch.optim.AdamW(readers.parameters(), betas=(0.9, 0.98))]
    states = {f"optimiser_{i}": optimiser for i, optimiser in enumerate(optimisers)} | {"readers": readers}
    progress = Progress(kind, steps, load_state(path, model=model, ema=ema, **states))
    while progress.step < steps:
        for optimiser in optimisers:
            set_rate(optimiser, cosine(progress.step, steps, RATE[kind], warmup=100))
            optimiser.zero_grad(set_to_none=True)
        losses = _learn(model, readers, tokenizer, np.random.default_rng((seed, 2, progress.step)), _easy_share(progress.step / steps))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
        ema.update(model)
        progress.advance(**losses)
        if progress.due():
            save_state(path, progress, model=model, ema=ema, **states)
    if not progress.was_finished:
        save_state(path, progress, model=model, ema=ema, **states)
    print(f"trained for {progress.seconds / 60:.0f} minutes", flush=True)
    ema.copy_to(model)
    return model.eval().requires_grad_(False), tokenizer


def _optimisers(model: torch.nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for the rest; experts are stacked in three dimensions, which Muon does not accept."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "layers" in name]
    taken = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in taken]
    return [
        torch.optim.Muon(matrices, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def _easy_share(done: float) -> float:
    return EASY_SHARE * min(1.0, max(0.0, (EASY_GONE - done) / (EASY_GONE - EASY_UNTIL)))


def _draw(rng: np.random.Generator, task: str, easy: bool) -> Item:
    while True:
        item = draw_item(rng, task, "train")
        if not easy or len(item.groups) <= EASY_OBJECTS:
            return item


def _learn(
    model: Any, readers: torch.nn.ModuleDict, tokenizer: PreTrainedTokenizerFast, rng: np.random.Generator, easy_share: float
) -> dict[str, float]:
    """Add one batch's gradients to the model's. Returns the mean loss of an answer's token by task, and that of the readers.

    easy_share: the share of items whose scene has at most EASY_OBJECTS. The weight of an answer is the square root of its number of
    tokens; with their plain sum, long answers would dominate.
    """
    weights = np.array([WEIGHTS.get(task, 1.0) for task in TASKS])
    tasks = rng.choice(TASKS, BATCH_ITEMS, p=weights / weights.sum())
    items = [_draw(rng, str(task), rng.random() < easy_share) for task in tasks]
    sums: dict[str, list[float]] = {}
    for part in _parts(_encode(tokenizer, items)):
        ids, labels, mask = _stack([row for row, _ in part])
        with torch.autocast("cpu", torch.bfloat16):
            output = model(input_ids=ids, attention_mask=mask, output_router_logits=True, output_hidden_states=True)
        each = F.cross_entropy(output.logits[:, :-1].float().transpose(1, 2), labels[:, 1:], ignore_index=IGNORED, reduction="none")
        lengths = (labels != IGNORED).sum(1)
        loss = (each.sum(1) / lengths.sqrt()).sum() / BATCH_ITEMS
        if (balance := getattr(output, "aux_loss", None)) is not None:
            loss = loss + model.router_aux_loss_coef * balance * len(part) / BATCH_ITEMS
        half_way = output.hidden_states[len(output.hidden_states) // 2].float()
        if (read := _reader_loss(readers, half_way, [row for row, _ in part])) is not None:
            loss = loss + READER_WEIGHT * read * len(part) / BATCH_ITEMS
            sums.setdefault("read", []).append(read.item())
        loss.backward()
        for (_, item), value in zip(part, (each.sum(1) / lengths).tolist(), strict=True):
            sums.setdefault(item.task, []).append(value)
    return {name: float(np.mean(sums[name])) for name in (*TASKS, "read") if name in sums}


def _reader_loss(readers: torch.nn.ModuleDict, hidden_BSD: torch.Tensor, rows: list[Row]) -> torch.Tensor | None:
    """The readers' mean cross-entropy; None where the part describes no object."""
    facts = torch.tensor([(i, *labels) for i, row in enumerate(rows) for labels in row.facts])
    if not len(facts):
        return None
    hidden, labels = hidden_BSD[facts[:, 0], facts[:, 1]], facts[:, 2:]
    losses = [F.cross_entropy(readers[name](hidden), labels[:, k], ignore_index=IGNORED, reduction="sum") for k, name in enumerate(FACTS)]
    return torch.stack(losses).sum() / (labels != IGNORED).sum()


class Row(NamedTuple):
    """An item in tokens. start: where the answer begins. facts: (token, then for each of FACTS the stated value's index, or IGNORED)."""

    ids: list[int]
    start: int
    facts: list[tuple[int, ...]]


def _encode(tokenizer: PreTrainedTokenizerFast, items: list[Item]) -> list[tuple[Row, Item]]:
    chats = [[{"role": "user", "content": item.prompt}] for item in items]
    texts = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
    prompts = tokenizer(texts, return_offsets_mapping=True)
    answers = tokenizer([item.answer for item in items])["input_ids"]
    rows = []
    for text, item, ids, spans, answer in zip(texts, items, prompts["input_ids"], prompts["offset_mapping"], answers, strict=True):
        rows.append((Row([*ids, *answer, END_ID], len(ids), _stated_facts(text, item, spans)), item))
    return rows


def _stated_facts(text: str, item: Item, spans: list[tuple[int, int]]) -> list[tuple[int, ...]]:
    """At every token of a described object, from its colour on, what the text has stated of it: motion only after its sentence."""
    facts, end = [], text.index(item.prompt)
    for group in item.groups:
        coloured = text.index(f" {group.colour} " if end else group.colour, end) + 1
        end = text.index(".", coloured)
        values = [list(known).index(getattr(group, name)) for name, known in FACTS.items()]
        for token, (first, last) in enumerate(spans):
            if coloured <= first + 1 and last <= end + 1 and last > coloured:
                stated = 4 if last == end + 1 else 2 if first > coloured else 1
                facts.append((token, *values[:stated], *[IGNORED] * (4 - stated)))
    return facts


def _parts(rows: list[tuple[Row, Item]]) -> Iterator[list[tuple[Row, Item]]]:
    """Rows in parts of similar length, each of at most PART_TOKENS."""
    part: list[tuple[Row, Item]] = []
    for row in sorted(rows, key=lambda row: len(row[0].ids)):
        if part and (len(part) + 1) * len(row[0].ids) > PART_TOKENS:
            yield part
            part = []
        part.append(row)
    yield part


def _stack(rows: list[Row]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, labels and mask, each (sequences, longest)."""
    longest = max(len(row.ids) for row in rows)
    assert longest <= MAX_LENGTH
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        labels[i, row.start : len(row.ids)] = torch.tensor(row.ids[row.start :])
    places = torch.arange(longest)
    mask = (places < torch.tensor([len(row.ids) for row in rows])[:, None]).long()
    return ids, labels, mask


if __name__ == "__main__":
    typer.run(main)
