"""Score an embedded language model task by task: `python -m pipelines.embedded.training.llm.score --model FOLDER`.

Prints a table, and one JSON line last. Greedy answers of `generate` in batches; exact match, and ROUGE-L for summaries.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from workloads.world.language import TASKS, Item, draw_item
from workloads.world.scenes import Split


def main(
    model: Annotated[Path, typer.Option(help="A model folder.")],
    items: Annotated[int, typer.Option(help="Items of each task and split.")] = 60,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
) -> None:
    """Score on items of seen and held-out scenes that training never drew."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    scores: dict[str, dict[str, float]] = {}
    print(f"{'task':10} {'seen':>8} {'held out':>8}")
    for task in TASKS:
        scores[task] = {split: score_task(network, tokenizer, task, split, items) for split in ("train", "held_out")}
        print(f"{task:10} {scores[task]['train']:8.3f} {scores[task]['held_out']:8.3f}", flush=True)
    print(json.dumps({"items": items, "scores": scores}))


def score_task(network: Any, tokenizer: Any, task: str, split: Split, count: int) -> float:
    """The share of right answers; for summaries the mean ROUGE-L F."""
    rng = np.random.default_rng((777, TASKS.index(task), split == "held_out"))
    items = [draw_item(rng, task, split) for _ in range(count)]
    answers = answer(network, tokenizer, items)
    if task == "summary":
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer(["rougeL"], use_stemmer=True)
        return float(np.mean([scorer.score(i.answer, a)["rougeL"].fmeasure for i, a in zip(items, answers, strict=True)]))
    return float(np.mean([i.answer == a.strip() for i, a in zip(items, answers, strict=True)]))


@torch.no_grad()
def answer(network: Any, tokenizer: Any, items: list[Item]) -> list[str]:
    """Greedy answers, in order."""
    chats = [[{"role": "user", "content": item.prompt}] for item in items]
    texts = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
    batch = tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=False)
    longest = max(len(tokenizer(item.answer)["input_ids"]) for item in items)
    ids = network.generate(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=longest + 8, do_sample=False
    )
    return list(tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True))


if __name__ == "__main__":
    typer.run(main)
