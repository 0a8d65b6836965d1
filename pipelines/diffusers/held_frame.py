"""A text-to-video Wan that answers image to video without having been trained to: its first latent frame is held at the image's.

Three things together, none of which is enough alone:
still     the clip starts not from noise, but from the image as a still clip with noise over it, 90 % of the way to noise (SDEdit: Meng
          et al., 2022), so that the model finds things where the image has them
held      before each pass of the denoiser the first latent frame is the image's own at that level of noise, and at the end without any
          (as RePaint holds what is known: Lugmayr et al., 2022)
rounds    while more than half of a clip is noise, each level is gone through three times: what the denoiser made of it is brought back
          to that level with fresh noise, so that the other frames take up what is held (RePaint's resampling)

Sampling is Euler's, over the levels of the checkpoint's shift. A step more than its number costs a pass more: 8 steps are 18.
Of the embedded model's first 48 captions (seed 42, guidance 3) 0.38 come out right with the frame held alone, 0.58 with still and held,
0.56 with held and rounds, 0.88 with all three; the first frame is at 32 dB of the image, which is what the VAE makes of it.

Shape letters: B batch, C channels, T latent frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

START = 0.9  # of the way to noise
ROUNDS, ROUNDS_ABOVE = 3, 0.5


class HeldFrameScheduler(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """Steps over `rounds` of each level, and puts the held frame into what it gives. `begin` comes before each call of the pipeline."""

    sigmas: Any

    def begin(self, image_BCTHW: torch.Tensor, still_BCTHW: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """The latents that the call is to start from. image: the held frame, T 1."""
        self._image, self._generators = image_BCTHW, list(generators)
        latents_BCTHW = (1 - START) * still_BCTHW + START * self._noise(still_BCTHW)
        return self._held(latents_BCTHW, START)

    def set_timesteps(self, num_inference_steps: int | None = None, device: Any = None, **kwargs: Any) -> None:
        super().set_timesteps(num_inference_steps, device=device, **kwargs)
        levels = [float(level) * START for level in self.sigmas]
        rounds = [level for level in levels[:-1] for _ in range(ROUNDS if level >= ROUNDS_ABOVE else 1)]
        self._levels = [*rounds, levels[-1]]
        self.sigmas = torch.tensor(self._levels)
        self.timesteps = torch.tensor(rounds, device=device) * self.config.num_train_timesteps
        self.num_inference_steps = len(rounds)
        self._at = 0

    def step(self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor]:
        level, following = self._levels[self._at], self._levels[self._at + 1]
        self._at += 1
        if following == level:  # another round: what is made of it, with fresh noise
            made_BCTHW = self._held(sample - level * model_output, 0.0)
            sample = (1 - level) * made_BCTHW + level * self._noise(made_BCTHW)
        else:
            sample = sample + (following - level) * model_output
        return (self._held(sample, following),)

    def _held(self, latents_BCTHW: torch.Tensor, level: float) -> torch.Tensor:
        first_BCTHW = (1 - level) * self._image + (level * self._noise(self._image) if level else 0)
        return torch.cat([first_BCTHW.to(latents_BCTHW.dtype), latents_BCTHW[:, :, 1:]], dim=2)

    def _noise(self, like_BCTHW: torch.Tensor) -> torch.Tensor:
        """From each clip's own generator, so that it is the same alone and in a batch."""
        drawn = [torch.randn((1, *like_BCTHW.shape[1:]), generator=g) for g in self._generators]
        return torch.cat(drawn).to(like_BCTHW)


class HeldFrame:
    """Puts a HeldFrameScheduler into a WanPipeline, and makes what each call starts from."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        old = pipe.scheduler.config
        shift = old.get("flow_shift") or old.get("shift") or 1.0
        pipe.scheduler = HeldFrameScheduler(num_train_timesteps=old.num_train_timesteps, shift=shift)

    def latents(self, images_BCHW: torch.Tensor, num_frames: int, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """images: 0 to 1, of the clip's size."""
        vae, device = self._pipe.vae, self._pipe._execution_device
        shape = (1, vae.config.z_dim, 1, 1, 1)
        mean, std = (torch.tensor(vae.config[f"latents_{n}"], device=device).view(shape) for n in ("mean", "std"))

        def encoded(num: int) -> torch.Tensor:
            clip_BCTHW = (images_BCHW * 2 - 1).unsqueeze(2).repeat(1, 1, num, 1, 1).to(device, vae.dtype)
            each = [vae.encode(one[None]).latent_dist.mode().float() for one in clip_BCTHW]
            return (torch.cat(each) - mean) / std

        made: torch.Tensor = self._pipe.scheduler.begin(encoded(1), encoded(num_frames), generators)
        return made
