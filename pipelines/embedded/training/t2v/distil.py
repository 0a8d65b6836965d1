"""Distil the embedded video model into two steps without guidance, as LoRA adapters: `python -m pipelines.embedded.training.t2v.distil`.

The teacher makes clips in 8 steps with guidance, 16 calls of a denoiser. The student makes two Euler steps, one with each expert, without
guidance, from the same noise; its adapters learn to reach the teacher's result. Such regression on pairs of noise and clip is
Luhman and Luhman 2021 ("Knowledge Distillation in Iterative Generative Models"), here over the whole two-step path at once.

Stages, each saved under --work and resumed where it stopped:
  pairs      the teacher's latents from noise
  adapters   both experts' adapters together
  export     one safetensors file for each expert, as WanPipeline.load_lora_weights reads them
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import typer

from pipelines.embedded.training.common import Progress, cosine, descend, load_state, save_state, set_rate
from pipelines.embedded.training.t2v.denoiser import FLOW_SHIFT, plain_attention, training_attention
from pipelines.embedded.training.t2v.text import build_tokenizer, tokenize
from pipelines.models.embedded import VIDEO, VIDEO_TWO_STEPS
from workloads.world.scenes import caption, sample_scene

EXPERTS = {"high_noise": "transformer", "low_noise": "transformer_2"}
CLIP: dict[str, Any] = {"num_frames": 9, "height": 48, "width": 48}
TEACHER: dict[str, Any] = {"num_inference_steps": 8, "guidance_scale": 2.0}
STUDENT: dict[str, Any] = {  # of first order and without its corrector, UniPC is Euler's method; its two steps are far apart
    "num_inference_steps": 2,
    "guidance_scale": 1.0,
    "scheduler": {"name": "UniPCMultistepScheduler", "solver_order": 1, "disable_corrector": [0, 1]},
}
TEXT_PLACES = 64  # a prompt's length in the preset; the rest is zero rows
LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"]
RANK, BATCH, RATE = 32, 32, 1.5e-3
CAPTION_SEED = 40_961  # of training; runs draw their prompts from another


def main(
    work: Annotated[Path, typer.Option(help="Where pairs and states are kept.")] = Path("build/t2v_lora"),
    output: Annotated[Path, typer.Option(help="The folder for the two files.")] = VIDEO_TWO_STEPS,
    pairs: Annotated[int, typer.Option(help="Clips that the teacher makes.")] = 4096,
    steps: Annotated[int, typer.Option(help="Batches of the student's training.")] = 2500,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
) -> None:
    """Distil the embedded video model into two steps; see this module's docstring for the stages."""
    from diffusers import WanPipeline
    from peft import get_peft_model_state_dict

    torch.set_num_threads(threads)
    pipe: Any = WanPipeline.from_pretrained(VIDEO, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    captions = draw_captions(pairs)
    clips = make_pairs(pipe, captions, work / "pairs")
    train_adapters(pipe, captions, clips, work / "adapters.pt", steps)
    output.mkdir(parents=True, exist_ok=True)
    for name, part in EXPERTS.items():
        layers = {key: value.half() for key, value in get_peft_model_state_dict(getattr(pipe, part)).items()}
        WanPipeline.save_lora_weights(str(output), transformer_lora_layers=layers, weight_name=f"{name}.safetensors")
    print(f"wrote {output}: {sum(f.stat().st_size for f in output.glob('*.safetensors')) / 1e6:.1f} MB", flush=True)


def draw_captions(count: int) -> list[str]:
    rng = np.random.default_rng(CAPTION_SEED)
    return [caption(sample_scene(rng, "simple", "train"), rng) for _ in range(count)]


def noise_of(pipe: Any, index: int) -> torch.Tensor:
    """The noise from which clip number `index` is made, (C, T, H, W)."""
    frames = (CLIP["num_frames"] - 1) // pipe.vae_scale_factor_temporal + 1
    sides = [CLIP[side] // pipe.vae_scale_factor_spatial for side in ("height", "width")]
    return torch.randn(pipe.transformer.config.in_channels, frames, *sides, generator=torch.Generator().manual_seed(index))


def make_pairs(pipe: Any, captions: list[str], folder: Path) -> torch.Tensor:
    """The teacher's latents (n, C, T, H, W), a file a batch."""
    folder.mkdir(parents=True, exist_ok=True)
    batches = range(0, len(captions), BATCH)
    progress, done = Progress("pairs", len(batches)), []
    for first in batches:
        file = folder / f"{first}.pt"
        if not file.exists():
            numbers = range(first, min(first + BATCH, len(captions)))
            noise = torch.stack([noise_of(pipe, n) for n in numbers])
            with torch.inference_mode():
                output = pipe(
                    [captions[n] for n in numbers], latents=noise, output_type="latent", max_sequence_length=TEXT_PLACES, **CLIP, **TEACHER
                )
            torch.save(output.frames.clone(), file)
        done.append(torch.load(file, weights_only=True))
        progress.advance()
    return torch.cat(done)


def train_adapters(pipe: Any, captions: list[str], clips: torch.Tensor, state: Path, steps: int) -> None:
    """Add adapters to both experts of the pipeline and train them."""
    from peft import LoraConfig

    ids, mask = tokenize(build_tokenizer(), captions)
    experts = [getattr(pipe, part) for part in EXPERTS.values()]
    pipe.text_encoder.requires_grad_(False)
    torch.manual_seed(0)
    for expert in experts:
        expert.requires_grad_(False)
        expert.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=LAYERS))
        expert.train()
    weighs = [training_attention(expert) for expert in experts]
    adapters = torch.nn.ParameterDict(
        {f"{i}.{name}".replace(".", "_"): p for i, e in enumerate(experts) for name, p in e.named_parameters() if p.requires_grad}
    )
    optimiser = torch.optim.AdamW(adapters.values(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.0)
    progress = Progress("adapters", steps, load_state(state, adapters=adapters, optimiser=optimiser))
    noise = torch.stack([noise_of(pipe, n) for n in range(len(captions))])
    while progress.step < steps:
        set_rate(optimiser, cosine(progress.step, steps, RATE, warmup=50))
        index = torch.randint(len(clips), (BATCH,), generator=torch.Generator().manual_seed(progress.step))
        with torch.no_grad():
            text_BSD = pipe.text_encoder(ids[index], mask[index]).last_hidden_state * mask[index][..., None]
        for weigh in weighs:
            weigh.set(mask[index], torch.full((BATCH,), float(TEXT_PLACES)))
        loss = F.mse_loss(student(experts, noise[index], text_BSD), clips[index])
        descend(loss, adapters.values(), optimiser)
        progress.advance(loss=loss.item())
        if progress.due() or progress.step == steps:
            save_state(state, progress, adapters=adapters, optimiser=optimiser)
    for expert in experts:
        plain_attention(expert.eval())


def student(experts: list[Any], x_BCTHW: torch.Tensor, text_BSD: torch.Tensor) -> torch.Tensor:
    """Two Euler steps from noise to a clip, as STUDENT's scheduler does, one with each expert."""
    sigmas, timesteps = two_steps()
    for expert, timestep, sigma, following in zip(experts, timesteps, sigmas, [*sigmas[1:], 0.0], strict=True):
        with torch.autocast("cpu", torch.bfloat16, enabled=torch.is_grad_enabled()):
            flow = expert(x_BCTHW, torch.full((len(x_BCTHW),), timestep), text_BSD, return_dict=False)[0]
        x_BCTHW = x_BCTHW + (following - sigma) * flow.float()
    return x_BCTHW


def two_steps() -> tuple[list[float], list[int]]:
    """Noise levels and timesteps of the two steps, from the scheduler."""
    from diffusers import UniPCMultistepScheduler

    options = {k: v for k, v in STUDENT["scheduler"].items() if k != "name"}
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=FLOW_SHIFT, **options)
    scheduler.set_timesteps(2)
    return [float(sigma) for sigma in scheduler.sigmas[:2]], [int(t) for t in scheduler.timesteps]


if __name__ == "__main__":
    typer.run(main)
