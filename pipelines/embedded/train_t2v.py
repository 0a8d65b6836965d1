"""Train the embedded text-to-video model from nothing: `python -m pipelines.embedded.train_t2v`.

Stages, each kept under --work and resumed where it was left (Ctrl-C loses at most a minute):
  clips      draw the training clips
  vae        train the autoencoder, check its round trip, encode the clips
  grammar    teach the text encoder to read captions
  denoiser   train one denoiser, and the text encoder with it, on all noise levels
  experts    train the high-noise and the low-noise copies, side by side
  export     write the diffusers folder
Scores for the model card: `python -m pipelines.embedded.score_t2v`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import typer

from pipelines.diffusers_t2v import EMBEDDED
from pipelines.embedded.score_t2v import round_trip
from pipelines.embedded.t2v_clips import load_clips
from pipelines.embedded.t2v_denoiser import BOUNDARY, FLOW_SHIFT, Latents, build_transformer, train_base, train_expert
from pipelines.embedded.t2v_text import build_text_encoder, build_tokenizer, teach_grammar, tokenize
from pipelines.embedded.t2v_vae import build_vae, encode_clips, train_vae

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan

NUM_CLIPS = 16_384


def main(
    work: Annotated[Path, typer.Option(help="Where states and clips are kept.")] = Path("build/t2v"),
    output: Annotated[Path, typer.Option(help="The diffusers folder to write.")] = EMBEDDED,
    seed: Annotated[int, typer.Option(help="Decides clips, weights and batches.")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads; the experts get half each.")] = 2,
    expert: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Train the embedded text-to-video model; see this module's docstring for the stages."""
    torch.set_num_threads(threads)
    clips, captions = load_clips(work, NUM_CLIPS, seed)
    vae = train_vae(work, clips, seed)
    if expert is None and not (work / "latents.pt").exists():
        print("round trip through the autoencoder:", json.dumps(round_trip(vae)), flush=True)
    mean, std = encode_clips(vae, clips, work / "latents.pt")
    centre, spread = mean.mean((0, 2, 3, 4)), mean.std((0, 2, 3, 4))
    data = _prepare(mean, std, centre, spread, captions)
    torch.manual_seed(seed + 1)
    text_encoder = build_text_encoder(build_tokenizer())
    if not (work / "denoiser.pt").exists():
        teach_grammar(text_encoder, data.ids, data.mask, captions, seed)
    base = train_base(work, data, text_encoder, seed)
    if expert:
        torch.set_num_threads(max(1, threads // 2))
        train_expert(work, expert, base, data, text_encoder, seed)
        return
    _train_experts_apart(work, seed, threads)
    experts = [train_expert(work, name, base, data, text_encoder, seed) for name in ("high_noise", "low_noise")]
    _export(output, vae, centre, spread, text_encoder, experts)


def _prepare(mean: torch.Tensor, std: torch.Tensor, centre: torch.Tensor, spread: torch.Tensor, captions: list[str]) -> Latents:
    tokenizer = build_tokenizer()
    ids, mask = tokenize(tokenizer, captions)
    empty_ids, empty_mask = torch.zeros_like(ids[0]), torch.zeros_like(mask[0])
    empty_ids[0], empty_mask[0] = 1, 1  # </s>, as the tokenizer gives for ""
    shape = (1, -1, 1, 1, 1)
    return Latents((mean - centre.view(shape)) / spread.view(shape), std / spread.view(shape), ids, mask, empty_ids, empty_mask)


def _train_experts_apart(work: Path, seed: int, threads: int) -> None:
    """Both experts at once, a process each: two single threads do more than one pair."""
    command = [sys.executable, "-m", "pipelines.embedded.train_t2v", "--work", str(work), "--seed", str(seed), "--threads", str(threads)]
    running = [subprocess.Popen([*command, "--expert", name]) for name in ("high_noise", "low_noise")]
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
    """Half-precision safetensors in the layout that WanPipeline.from_pretrained reads."""
    from diffusers import UniPCMultistepScheduler, WanPipeline

    final_vae = build_vae(centre.tolist(), spread.tolist())
    final_vae.load_state_dict(vae.state_dict())
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
