"""Train the embedded text-to-video model from nothing: `python -m pipelines.embedded.training.t2v.train`.

Stages, each saved under --work and resumed where it stopped (Ctrl-C loses at most a minute):
  clips      draw the training clips
  vae        train the autoencoder, encode the clips
  decoder    train the decoder alone on the encoded clips, check the round trip
  grammar    train the text encoder alone to read captions
  denoiser   train one denoiser, and the text encoder with it, on all noise levels
  experts    train the high-noise and the low-noise copies, side by side
  export     write the diffusers folder
To continue from the shipped weights: `--start pipelines/embedded/t2v --work build/more --expert-steps 3000`.
Scores for the model card: `python -m pipelines.embedded.training.t2v.score`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import typer

from pipelines.embedded.training.t2v.clips import load_clips
from pipelines.embedded.training.t2v.denoiser import (
    BOUNDARY,
    EXPERT_STEPS,
    FLOW_SHIFT,
    Latents,
    build_transformer,
    train_base,
    train_expert,
)
from pipelines.embedded.training.t2v.score import round_trip
from pipelines.embedded.training.t2v.text import build_text_encoder, build_tokenizer, teach_grammar, tokenize
from pipelines.embedded.training.t2v.vae import build_vae, encode_clips, train_vae, tune_decoder
from pipelines.models.embedded import VIDEO
from workloads.world.scenes import parse_caption

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan

NUM_CLIPS = 16_384
EXPERTS = {"high_noise": "transformer", "low_noise": "transformer_2"}  # and their names in WanPipeline


def main(
    work: Annotated[Path, typer.Option(help="Where states and clips are kept.")] = Path("build/t2v"),
    output: Annotated[Path, typer.Option(help="The diffusers folder to write.")] = VIDEO,
    seed: Annotated[int, typer.Option(help="Decides clips, weights and batches.")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads; the experts get half each.")] = 2,
    start: Annotated[Path | None, typer.Option(help="Continue from this diffusers folder: only its experts are trained further.")] = None,
    expert_steps: Annotated[int | None, typer.Option(help="Steps of each expert; more is better.")] = None,
    grades: Annotated[str, typer.Option(help="Grades of clips for the experts: simple, or both.")] = "both",
    compiled: Annotated[bool, typer.Option("--compile", help="torch.compile the denoiser: a fifth faster, needs a C++ compiler.")] = False,
    expert: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Train the embedded text-to-video model; see this module's docstring for the stages."""
    torch.set_num_threads(threads)
    if grades not in ("simple", "both"):
        raise typer.BadParameter("grades is simple or both")
    clips, captions = load_clips(work, NUM_CLIPS, seed)
    vae = _part(start, "vae") if start else train_vae(work, clips, seed)
    mean, std = encode_clips(vae, clips, work / "latents.pt")
    if not start:
        groups = np.array([parse_caption(text).groups[0].count > 1 for text in captions])
        new = not (work / "decoder.pt").exists()
        tune_decoder(work, vae, (mean, std), clips, groups, seed)
        if new:
            print("round trip through the autoencoder:", json.dumps(round_trip(vae)), flush=True)
    centre, spread = mean.mean((0, 2, 3, 4)), mean.std((0, 2, 3, 4))
    data = _prepare(mean, std, centre, spread, captions)
    torch.manual_seed(seed + 1)
    if start:
        text_encoder = _part(start, "text_encoder")
        bases = {name: _part(start, folder) for name, folder in EXPERTS.items()}
    else:
        text_encoder = build_text_encoder(build_tokenizer())
        if not (work / "denoiser.pt").exists():
            teach_grammar(text_encoder, data.ids, data.mask, captions, seed)
        bases = dict.fromkeys(EXPERTS, train_base(work, data, text_encoder, seed, compiled))
    data = _only_simple(data, captions) if grades == "simple" else data
    if expert:
        torch.set_num_threads(max(1, threads // 2))
        train_expert(work, expert, bases[expert], data, text_encoder, seed, expert_steps or EXPERT_STEPS[expert], compiled)
        return
    arguments: list[object] = ["--work", work, "--seed", seed, "--threads", threads, "--grades", grades]
    arguments += ["--start", start] if start else []
    arguments += ["--compile"] if compiled else []
    arguments += ["--expert-steps", expert_steps] if expert_steps else []
    _train_experts_in_parallel([str(a) for a in arguments])
    experts = [
        train_expert(work, name, bases[name], data, text_encoder, seed, expert_steps or EXPERT_STEPS[name], compiled) for name in EXPERTS
    ]
    _export(output, vae, centre, spread, text_encoder, experts)


def _prepare(mean: torch.Tensor, std: torch.Tensor, centre: torch.Tensor, spread: torch.Tensor, captions: list[str]) -> Latents:
    tokenizer = build_tokenizer()
    ids, mask = tokenize(tokenizer, captions)
    empty_ids, empty_mask = torch.zeros_like(ids[0]), torch.zeros_like(mask[0])
    empty_ids[0], empty_mask[0] = 1, 1  # </s>, as the tokenizer gives for ""
    shape = (1, -1, 1, 1, 1)
    return Latents((mean - centre.view(shape)) / spread.view(shape), std / spread.view(shape), ids, mask, empty_ids, empty_mask)


def _only_simple(data: Latents, captions: list[str]) -> Latents:
    """The clips of the simple grade."""
    simple = torch.tensor([parse_caption(text).background is None for text in captions])
    return data._replace(mean=data.mean[simple], std=data.std[simple], ids=data.ids[simple], mask=data.mask[simple])


def _part(folder: Path, name: str) -> Any:
    """One component of a diffusers folder, in float32."""
    import diffusers
    import transformers

    library, kind = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))[name]
    cls = getattr({"diffusers": diffusers, "transformers": transformers}[library], kind)
    return cls.from_pretrained(folder / name, dtype=torch.float32).eval()


def _train_experts_in_parallel(arguments: list[str]) -> None:
    """Train both experts at once, a process each: two processes of one thread are faster than one of two."""
    command = [sys.executable, "-m", "pipelines.embedded.training.t2v.train", *arguments]
    running = [subprocess.Popen([*command, "--expert", name]) for name in EXPERTS]
    codes = [process.wait() for process in running]
    if any(codes):
        raise SystemExit(f"an expert's training ended with exit codes {codes}; run the same command again to resume")


def _export(
    folder: Path,
    vae: AutoencoderKLWan,
    centre: torch.Tensor,
    spread: torch.Tensor,
    text_encoder: torch.nn.Module,
    experts: list[torch.nn.Module],
) -> None:
    """Write half-precision safetensors in the layout that WanPipeline.from_pretrained reads."""
    from diffusers import UniPCMultistepScheduler, WanPipeline

    final_vae = build_vae(centre.tolist(), spread.tolist())
    final_vae.load_state_dict(vae.state_dict())  # with the statistics of the latents just measured
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=FLOW_SHIFT)
    transformers = []
    for expert in experts:
        plain = build_transformer()
        plain.load_state_dict(expert.state_dict())
        transformers.append(plain.half())
    pipe = WanPipeline(
        tokenizer=build_tokenizer(),
        text_encoder=text_encoder,
        vae=final_vae.half(),
        scheduler=scheduler,
        transformer=transformers[0],
        transformer_2=transformers[1],
        boundary_ratio=BOUNDARY,
    )
    pipe.save_pretrained(folder, safe_serialization=True)
    size = sum(f.stat().st_size for f in folder.rglob("*.safetensors"))
    print(f"wrote {folder}: {size / 1e6:.1f} MB of weights", flush=True)


if __name__ == "__main__":
    typer.run(main)
