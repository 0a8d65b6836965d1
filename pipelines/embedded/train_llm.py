"""Train an embedded language model from nothing: `python -m pipelines.embedded.train_llm --kind dense` (or moe).

Items of `workloads.world_language` are drawn as training goes and never held-out ones, so no item is seen twice but by
chance. Every batch mixes all tasks and goes through the model in parts of like length; only the answer's tokens count in the
loss. `repeat` and `backwards` are what teaches copying, and with it finding in the text: every token of theirs is a lesson.
Matrix products in bfloat16, attention unfused: on a CPU the fused kernel's bfloat16 backward pass is several times slower.
The state under --work is saved every minute; Ctrl-C loses no more than that, and the same command goes on.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import typer

from pipelines.embedded.llm_models import BUILDERS, END_ID, MAX_LENGTH, build_tokenizer
from pipelines.embedded.training import Ema, Progress, cosine, load_state, save_state
from workloads.world_language import TASKS, Item, draw_item

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

EMBEDDED = Path(__file__).parent
BATCH_ITEMS = 96  # of all tasks, so that every step is a step for all of them
# How often each task is drawn. Those that ask for one thing in the text are learnt last and are short; the long ones teach copying early.
WEIGHTS = {"colour": 2.0, "motion": 2.0, "find": 2.0, "lines": 0.5, "json": 0.5, "repeat": 0.5}
PART_TOKENS = 2_500  # padding included: as much of a batch as goes through the model at once
STEPS = {"dense": 5_000, "moe": 4_000}
RATE = {"dense": 3e-3, "moe": 3e-3}
IGNORED = -100  # the label of a token that does not count


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
    folder = output or EMBEDDED / f"llm_{kind}"
    if not score_only:
        model, tokenizer = _train(kind, work / f"{kind}.pt", steps or STEPS[kind], seed)
        model.generation_config.update(max_new_tokens=256, do_sample=False)
        model.half().save_pretrained(folder, safe_serialization=True)
        tokenizer.save_pretrained(folder)
        size = sum(f.stat().st_size for f in folder.glob("*.safetensors"))
        print(f"wrote {folder}: {size / 1e6:.2f} MB of weights", flush=True)
    raise SystemExit(subprocess.call([sys.executable, "-m", "pipelines.embedded.score_llm", "--model", str(folder)]))


def tokenizer_of_the_world(seed: int) -> PreTrainedTokenizerFast:
    """The tokenizer, taught on three thousand training items."""
    rng = np.random.default_rng((seed, 1))
    items = [draw_item(rng, TASKS[i % len(TASKS)], "train") for i in range(3000)]
    return build_tokenizer(text for item in items for text in (item.prompt, item.answer))


def _train(kind: str, path: Path, steps: int, seed: int) -> tuple[Any, PreTrainedTokenizerFast]:
    torch.manual_seed(seed)
    tokenizer = tokenizer_of_the_world(seed)
    model: Any = BUILDERS[kind]().train()
    model.set_attn_implementation("eager")
    ema = Ema(model, 0.995)
    optimisers = _optimisers(model)
    states = {f"optimiser_{i}": optimiser for i, optimiser in enumerate(optimisers)}
    progress = Progress(kind, steps, load_state(path, model=model, ema=ema, **states))
    while progress.step < steps:
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = cosine(progress.step, steps, RATE[kind], warmup=100)
            optimiser.zero_grad(set_to_none=True)
        losses = _learn(model, tokenizer, np.random.default_rng((seed, 2, progress.step)))
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
    """Muon for the layers' matrices, AdamW for the rest (experts are stacked three deep, which Muon does not take)."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "layers" in name]
    taken = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in taken]
    return [
        torch.optim.Muon(matrices, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def _learn(model: Any, tokenizer: PreTrainedTokenizerFast, rng: np.random.Generator) -> dict[str, float]:
    """Add one batch's gradients to the model's; the mean loss of an answer's token, by task.

    An answer's tokens together weigh the square root of their number: each alone, long answers would be all that counts.
    """
    weights = np.array([WEIGHTS.get(task, 1.0) for task in TASKS])
    items = [draw_item(rng, str(task), "train") for task in rng.choice(TASKS, BATCH_ITEMS, p=weights / weights.sum())]
    sums: dict[str, list[float]] = {}
    for part in _parts(_encode(tokenizer, items)):
        ids, labels, mask = _stack([row for row, _ in part])
        with torch.autocast("cpu", torch.bfloat16):
            output = model(input_ids=ids, attention_mask=mask, output_router_logits=True)
        each = F.cross_entropy(output.logits[:, :-1].float().transpose(1, 2), labels[:, 1:], ignore_index=IGNORED, reduction="none")
        lengths = (labels != IGNORED).sum(1)
        loss = (each.sum(1) / lengths.sqrt()).sum() / BATCH_ITEMS
        if (balance := getattr(output, "aux_loss", None)) is not None:
            loss = loss + model.router_aux_loss_coef * balance * len(part) / BATCH_ITEMS
        loss.backward()
        for (_, item), value in zip(part, (each.sum(1) / lengths).tolist(), strict=True):
            sums.setdefault(item.task, []).append(value)
    return {task: float(np.mean(sums[task])) for task in TASKS if task in sums}


Row = tuple[list[int], int]  # token ids of prompt and answer, and where the answer begins


def _encode(tokenizer: PreTrainedTokenizerFast, items: list[Item]) -> list[tuple[Row, Item]]:
    chats = [[{"role": "user", "content": item.prompt}] for item in items]
    prompts = tokenizer(tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=False))["input_ids"]
    answers = tokenizer([item.answer for item in items])["input_ids"]
    return [(([*p, *a, END_ID], len(p)), item) for p, a, item in zip(prompts, answers, items, strict=True)]


def _parts(rows: list[tuple[Row, Item]]) -> Iterator[list[tuple[Row, Item]]]:
    """Rows of like length together, each part within PART_TOKENS."""
    part: list[tuple[Row, Item]] = []
    for row in sorted(rows, key=lambda row: len(row[0][0])):
        if part and (len(part) + 1) * len(row[0][0]) > PART_TOKENS:
            yield part
            part = []
        part.append(row)
    yield part


def _stack(rows: list[Row]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, labels and mask, each (sequences, longest)."""
    longest = max(len(ids) for ids, _ in rows)
    assert longest <= MAX_LENGTH
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    for i, (row, start) in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        labels[i, start : len(row)] = torch.tensor(row[start:])
    places = torch.arange(longest)
    mask = (places < torch.tensor([len(row) for row, _ in rows])[:, None]).long()
    return ids, labels, mask


if __name__ == "__main__":
    typer.run(main)
