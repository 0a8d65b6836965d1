"""Train an embedded language model from nothing: `python -m pipelines.embedded.train_llm --kind dense` (or moe).

Items of `workloads.world_language` are drawn as training goes and never held-out ones, so no item is seen twice but by
chance. Batches hold items of like length, about BATCH_TOKENS tokens; only the answer's tokens count in the loss.
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
import typer

from pipelines.embedded.llm_models import BUILDERS, END_ID, MAX_LENGTH, build_tokenizer
from pipelines.embedded.training import Ema, Progress, cosine, load_state, save_state
from workloads.world_language import TASKS, Item, draw_item

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

EMBEDDED = Path(__file__).parent
BATCH_TOKENS = 6_000
STEPS = {"dense": 1_600, "moe": 1_600}
RATE = {"dense": 2e-3, "moe": 2e-3}
BLOCK = 1_024  # items drawn and sorted by length at a time
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
    return build_tokenizer(f"{item.prompt} {item.answer}" for item in items)


def _train(kind: str, path: Path, steps: int, seed: int) -> tuple[Any, PreTrainedTokenizerFast]:
    torch.manual_seed(seed)
    tokenizer = tokenizer_of_the_world(seed)
    model: Any = BUILDERS[kind]().train()
    model.set_attn_implementation("eager")
    ema = Ema(model, 0.99)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE[kind], betas=(0.9, 0.98), weight_decay=0.01)
    progress = Progress(kind, steps, load_state(path, model=model, ema=ema, optimiser=optimiser))
    for ids, labels, mask in _batches(tokenizer, seed, progress.step):
        if progress.step >= steps:
            break
        for group in optimiser.param_groups:
            group["lr"] = cosine(progress.step, steps, RATE[kind], warmup=100)
        with torch.autocast("cpu", torch.bfloat16):
            extra = {"output_router_logits": True} if kind == "moe" else {}
            loss = model(input_ids=ids, attention_mask=mask, labels=labels, **extra).loss
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        ema.update(model)
        progress.advance(loss=loss.item())
        if progress.due():
            save_state(path, progress, model=model, ema=ema, optimiser=optimiser)
    if not progress.was_finished:
        save_state(path, progress, model=model, ema=ema, optimiser=optimiser)
    print(f"trained for {progress.seconds / 60:.0f} minutes", flush=True)
    ema.copy_to(model)
    return model.eval().requires_grad_(False), tokenizer


def _batches(tokenizer: PreTrainedTokenizerFast, seed: int, first: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Ids, labels and mask, each (sequences, longest), without end; from batch number `first`, the same every time."""
    number, block = 0, 0
    while True:
        rng = np.random.default_rng((seed, 2, block))
        items = [draw_item(rng, str(rng.choice(TASKS)), "train") for _ in range(BLOCK)]
        rows = sorted(_encode(tokenizer, items), key=lambda row: len(row[0]))
        parts, part = [], list[tuple[list[int], int]]()
        for row in rows:
            if part and (len(part) + 1) * len(row[0]) > BATCH_TOKENS:
                parts.append(part)
                part = []
            part.append(row)
        parts.append(part)
        for i in rng.permutation(len(parts)):
            if number >= first:
                yield _stack(parts[i])
            number += 1
        block += 1


def _encode(tokenizer: PreTrainedTokenizerFast, items: list[Item]) -> list[tuple[list[int], int]]:
    """For each item the token ids of prompt and answer, and where the answer begins."""
    chats = [[{"role": "user", "content": item.prompt}] for item in items]
    prompts = tokenizer(tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=False))["input_ids"]
    answers = tokenizer([item.answer for item in items])["input_ids"]
    return [([*prompt, *answer, END_ID], len(prompt)) for prompt, answer in zip(prompts, answers, strict=True)]


def _stack(rows: list[tuple[list[int], int]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
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
