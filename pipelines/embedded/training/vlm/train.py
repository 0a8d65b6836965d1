"""Train the embedded vision-language model from nothing: `python -m pipelines.embedded.training.vlm.train`.

Stages, each saved under --work and resumed where it stopped (Ctrl-C loses at most a minute):
  views     draw the training pictures and clips: views.py
  vision    the vision tower alone learns to see: vision.py
  language  the whole model learns to answer: language.py
  export    write the checkpoint folder
Trained on everything at once from nothing, such a model learns colours and then stalls; having learnt to see first, it does not.

Scores for the model card: `python -m pipelines.embedded.training.vlm.train --score 400`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from pipelines.embedded.training.vlm import language, vision
from pipelines.embedded.training.vlm.model import build_model, build_tokenizer, save, use_training_attention
from pipelines.embedded.training.vlm.score import print_scores
from pipelines.embedded.training.vlm.views import KINDS, load_views
from pipelines.models.embedded import VISION


def main(
    work: Annotated[Path, typer.Option(help="Where states and pictures are kept.")] = Path("build/vlm"),
    output: Annotated[Path, typer.Option(help="The checkpoint folder to write.")] = VISION,
    seed: Annotated[int, typer.Option(help="Decides pictures, weights and batches.")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    see_steps: Annotated[int, typer.Option(help="Steps of the vision tower alone.")] = vision.STEPS,
    talk_steps: Annotated[int, typer.Option(help="Steps of the whole model; more is better.")] = language.STEPS,
    score: Annotated[int, typer.Option(help="Train nothing; score the folder at --output on this many questions a task and split.")] = 0,
) -> None:
    """Train the embedded vision-language model; see this module's docstring for the stages."""
    torch.set_num_threads(threads)
    if score:
        print_scores(output, score)
        return
    views = {kind: load_views(work, kind, seed) for kind in KINDS}
    tokenizer = build_tokenizer(language.corpus(seed))
    torch.manual_seed(seed)
    model = build_model()
    restore = use_training_attention(model)
    readers = vision.train_vision(work, model, views, seed, see_steps)
    language.train_language(work, model, readers, tokenizer, views, seed, talk_steps)
    restore()
    save(model, tokenizer, output)
    size = sum(f.stat().st_size for f in output.rglob("*.safetensors"))
    print(f"wrote {output}: {size / 1e6:.1f} MB of weights", flush=True)


if __name__ == "__main__":
    typer.run(main)
