"""The embedded video autoencoder: diffusers' AutoencoderKLWan at 48 x 48, trained from scratch on a CPU.

Pixels are folded 4 x 4 into channels before the first convolution (`patch_size` 4) and the convolutions halve the grid
once more and time once, so 9 x 48 x 48 x 3 becomes 24 x 5 x 6 x 6. Three stages: single frames first, where a causal
network has no past and a step is cheap; then whole clips; then the decoder alone on the stored latents, with more weight
on the surroundings of objects, so that small rings keep their holes and small crosses the gaps between their arms. Its
last steps get latents with a small error, and a tenth of the earlier weights is mixed back in.

Shape letters: B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.embedded.training.common import Ema, Progress, cosine, descend, load_state, save_state, set_rate

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan

Z_DIM = 24
FRAME_STEPS, FRAME_BATCH, FRAME_RATE = 2000, 32, 2e-3
CLIP_STEPS, CLIP_BATCH, CLIP_RATE = 900, 8, 1.5e-3
KL_WEIGHT = 1e-4
DECODER_STEPS, DECODER_BATCH, DECODER_RATE = 1200, 8, 8e-4
NOISY_FROM, MOST_NOISE = 900, 0.35  # from this step on, latents have errors of up to this share of their spread, as a denoiser's have
TUNED_SHARE = 0.9  # of the tuned weights in the final ones; with all of it, a denoiser's errors become sharper too
SURROUNDING_WEIGHT = 12.0  # in the last stage: of pixels of an object and within SURROUNDING of it
SURROUNDING = 2
OBJECT_WEIGHT = 6.0  # extra weight of a saturated pixel: objects cover a tenth of a frame


def build_vae(mean: list[float] | None = None, std: list[float] | None = None) -> AutoencoderKLWan:
    """A fresh autoencoder of the embedded shape; `mean` and `std` are the measured statistics of its latents."""
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(
        base_dim=64,
        decoder_base_dim=64,
        z_dim=Z_DIM,
        dim_mult=[1, 1],
        num_res_blocks=1,
        attn_scales=[],
        temperal_downsample=[True],
        patch_size=4,
        in_channels=48,
        out_channels=48,
        scale_factor_temporal=2,
        scale_factor_spatial=8,
        latents_mean=mean or [0.0] * Z_DIM,
        latents_std=std or [1.0] * Z_DIM,
    )


def train_vae(folder: Path, clips: NDArray[np.uint8], seed: int) -> AutoencoderKLWan:
    """Train, resuming from `folder/vae.pt` where it exists; returns the averaged weights, in eval mode."""
    torch.manual_seed(seed)
    vae = build_vae()
    _start_causal(vae)
    ema = Ema(vae, 0.99)
    optimiser = torch.optim.AdamW(vae.parameters(), lr=FRAME_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    state = load_state(folder / "vae.pt", vae=vae, ema=ema, optimiser=optimiser)
    total = FRAME_STEPS + CLIP_STEPS
    progress = Progress("vae", total, state)
    while progress.step < total:
        step, on_frames = progress.step, progress.step < FRAME_STEPS
        done, steps = (step, FRAME_STEPS) if on_frames else (step - FRAME_STEPS, CLIP_STEPS)
        set_rate(optimiser, cosine(done, steps, FRAME_RATE if on_frames else CLIP_RATE, warmup=50))
        x_BCTHW = _batch(clips, np.random.default_rng((seed, step)), on_frames)
        loss, error = _loss(vae, x_BCTHW)
        descend(loss, vae.parameters(), optimiser)
        ema.update(vae)
        progress.advance(loss=loss.item(), psnr=-10 * torch.log10(error / 4).item())
        if progress.due():
            save_state(folder / "vae.pt", progress, vae=vae, ema=ema, optimiser=optimiser)
    if not progress.was_finished:
        save_state(folder / "vae.pt", progress, vae=vae, ema=ema, optimiser=optimiser)
    ema.copy_to(vae)
    return vae.eval().requires_grad_(False)


def tune_decoder(
    folder: Path,
    vae: AutoencoderKLWan,
    latents: tuple[torch.Tensor, torch.Tensor],
    clips: NDArray[np.uint8],
    groups: NDArray[np.bool_],
    seed: int,
) -> None:
    """Train the decoder alone, in place, resuming from `folder/decoder.pt`; the encoder and its latents do not change.

    groups: which clips contain a group of small objects; they are half of each batch.
    """
    torch.manual_seed(seed)
    decoder = torch.nn.ModuleList([vae.post_quant_conv, vae.decoder]).requires_grad_(True).train()
    before = {name: value.detach().clone() for name, value in decoder.named_parameters()}
    ema = Ema(decoder, 0.99)
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=DECODER_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    progress = Progress("decoder", DECODER_STEPS, load_state(folder / "decoder.pt", decoder=decoder, ema=ema, optimiser=optimiser))
    small, (mean, std) = np.flatnonzero(groups), latents
    spread = mean.std((0, 2, 3, 4)).view(1, -1, 1, 1, 1)
    while progress.step < DECODER_STEPS:
        set_rate(optimiser, cosine(progress.step, DECODER_STEPS, DECODER_RATE, warmup=50))
        rng = np.random.default_rng((seed, 3, progress.step))
        half = DECODER_BATCH // 2
        index = np.sort(np.concatenate([rng.choice(small, half), rng.integers(0, len(clips), DECODER_BATCH - half)]))
        x_BCTHW = to_model(clips[index])
        noise, error = torch.from_numpy(rng.standard_normal((2, *mean[index].shape), dtype=np.float32))
        scale = spread * torch.from_numpy(rng.uniform(0, MOST_NOISE, (len(index), 1, 1, 1, 1)).astype(np.float32))
        latents_BCTHW = mean[index] + std[index] * noise + (scale * error if progress.step >= NOISY_FROM else 0.0)
        difference = vae.decode(latents_BCTHW).sample - x_BCTHW
        loss = (_surroundings(x_BCTHW) * (difference.abs() + difference.square())).mean()
        descend(loss, decoder.parameters(), optimiser)
        ema.update(decoder)
        progress.advance(loss=loss.item())
        if progress.due():
            save_state(folder / "decoder.pt", progress, decoder=decoder, ema=ema, optimiser=optimiser)
    if not progress.was_finished:
        save_state(folder / "decoder.pt", progress, decoder=decoder, ema=ema, optimiser=optimiser)
    ema.copy_to(decoder)
    with torch.no_grad():
        for name, value in decoder.named_parameters():
            value.lerp_(before[name], 1 - TUNED_SHARE)
    decoder.eval().requires_grad_(False)


def _surroundings(x_BCTHW: torch.Tensor) -> torch.Tensor:
    """Weights (B, 1, T, H, W): 1 for the ground, more on objects and beside them."""
    near = torch.nn.functional.max_pool3d(
        (_chroma(x_BCTHW) > 0.2).float(), (1, 2 * SURROUNDING + 1, 2 * SURROUNDING + 1), 1, (0, SURROUNDING, SURROUNDING)
    )
    return 1 + SURROUNDING_WEIGHT * near


def _chroma(x_BCTHW: torch.Tensor) -> torch.Tensor:
    return x_BCTHW.amax(1, keepdim=True) - x_BCTHW.amin(1, keepdim=True)


@torch.no_grad()
def encode_clips(vae: AutoencoderKLWan, clips: NDArray[np.uint8], path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Posterior means and standard deviations of all clips, each (n, 24, 5, 6, 6); kept in `path`."""
    if not path.exists():
        started, means, stds = time.monotonic(), [], []
        for i in range(0, len(clips), 32):
            posterior = vae.encode(to_model(clips[i : i + 32])).latent_dist
            means.append(posterior.mean)
            stds.append(posterior.std)
        torch.save((torch.cat(means), torch.cat(stds)), path)
        print(f"encoded {len(clips)} clips in {time.monotonic() - started:.0f} s", flush=True)
    mean, std = torch.load(path, weights_only=True)
    return mean, std


def to_model(clips_BTHWC: NDArray[np.uint8]) -> torch.Tensor:
    """uint8 clips to the autoencoder's float x_BCTHW in -1 to 1."""
    x = torch.from_numpy(np.array(clips_BTHWC)).permute(0, 4, 1, 2, 3)
    return x.float() / 127.5 - 1


def to_clips(x_BCTHW: torch.Tensor) -> NDArray[np.uint8]:
    """The reverse of `to_model`."""
    pixels = ((x_BCTHW.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 4, 1).numpy()


def _start_causal(vae: AutoencoderKLWan) -> None:
    """Initialise every convolution to use only the current frame, and the time resamplers to pass frames through."""
    with torch.no_grad():
        for name, module in vae.named_modules():
            if not isinstance(module, torch.nn.Conv3d) or module.kernel_size[0] == 1:
                continue
            if "time_conv" in name:
                module.weight.zero_()
                torch.nn.init.zeros_(module.bias)  # type: ignore[arg-type]
                out, width = module.weight.shape[:2]
                tap = 2 if out == width else 1  # the upsampler pads on both sides
                for part in module.weight.split(width):
                    part[:, :, tap, 0, 0] = torch.eye(width)
            else:
                module.weight[:, :, :-1] = 0


def _batch(clips: NDArray[np.uint8], rng: np.random.Generator, on_frames: bool) -> torch.Tensor:
    index = np.sort(rng.integers(0, len(clips), FRAME_BATCH if on_frames else CLIP_BATCH))
    if not on_frames:
        return to_model(clips[index])
    return to_model(clips[index, rng.integers(0, clips.shape[1], len(index))][:, None])


def _loss(vae: AutoencoderKLWan, x_BCTHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    posterior = vae.encode(x_BCTHW).latent_dist
    difference = vae.decode(posterior.sample()).sample - x_BCTHW
    weight = 1 + OBJECT_WEIGHT * (_chroma(x_BCTHW) > 0.2)
    error = difference.square()
    kl = posterior.kl().sum() / posterior.mean.numel()
    return (weight * (difference.abs() + error)).mean() + KL_WEIGHT * kl, error.mean().detach()
