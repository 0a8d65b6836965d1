"""A decode of Wan's VAE that takes several latent frames at once and copies less, for AutoencoderKLWan of diffusers 0.42.

The library decodes one latent frame after the other. Before each causal convolution it clones what the next frame will need, concatenates
it with this frame, and pads the result, which copies the picture twice more; around each upsampling it converts to float32 and back. Here
the padding in height and width is the convolution's own, what precedes a chunk is kept as two frames, and the upsampling, which only
repeats values, stays in the dtype. The first latent frame is one picture and a chunk of its own, the others are four pictures each.

With `compiled`, what lies between the convolutions (norm, activation, concatenation) is one kernel, of torch.compile.

Shape letters: B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

PAST = 2  # frames before a chunk that a causal convolution over three frames needs
PIXEL_FRAMES = 4  # of a latent frame but the first
# Bytes at once for each pixel and channel of the widest layer: the tensor, what it is made from, and its float32 copy in a norm.
BYTES_A_VALUE = 12
SHARE = 0.1  # of the device's memory that a chunk may take


class WanDecoder:
    """Takes the place of a VAE's `_decode`, which `decode` calls for a whole batch or a clip of it.

    num_frames: latent frames at once, at most. num_decoded: clips so far.
    """

    def __init__(self, vae: Any, num_frames: int, compiled: bool) -> None:
        self._vae, self.num_frames = vae, num_frames
        self._enter = enter_compiled if compiled else enter
        self._library = vae._decode
        self._past: Iterator[int] = iter(())
        self._kept: dict[int, torch.Tensor] = {}
        self.num_decoded = 0
        vae._decode = self.decode

    def restore(self) -> None:
        """Let the VAE decode as the library does."""
        self._vae._decode = self._library

    def decode(self, z: torch.Tensor, return_dict: bool = True) -> Any:
        """z: latents (B, C, T, H, W). Returns frames from -1 to 1, as the library does."""
        from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
        from diffusers.models.autoencoders.vae import DecoderOutput

        x_BCTHW = self._vae.post_quant_conv(z)
        self._kept = {}
        size = chunk_size(x_BCTHW.shape[2] - 1, self.num_frames)
        chunks = [x_BCTHW[:, :, :1], *(x_BCTHW[:, :, 1:].split(size, dim=2) if x_BCTHW.shape[2] > 1 else ())]
        parts = [self._chunk(chunk, first=number == 0) for number, chunk in enumerate(chunks)]
        self._kept = {}
        frames_BCTHW = torch.cat(parts, dim=2)
        if self._vae.config.patch_size is not None:
            frames_BCTHW = unpatchify(frames_BCTHW, patch_size=self._vae.config.patch_size)
        frames_BCTHW = frames_BCTHW.clamp_(-1.0, 1.0)
        self.num_decoded += len(z)
        return DecoderOutput(sample=frames_BCTHW) if return_dict else (frames_BCTHW,)

    def _chunk(self, x: torch.Tensor, first: bool) -> torch.Tensor:
        decoder = self._vae.decoder
        x = self._convolve(decoder.conv_in, x)
        x = self._residual(decoder.mid_block.resnets[0], x)
        for attention, block in zip(decoder.mid_block.attentions, decoder.mid_block.resnets[1:], strict=True):
            x = self._residual(block, x if attention is None else attention(x))
        for up in decoder.up_blocks:
            before = x
            for block in up.resnets:
                x = self._residual(block, x)
            resample = up.upsampler if hasattr(up, "upsampler") else up.upsamplers[0] if up.upsamplers is not None else None
            if resample is not None:
                x = self._upsample(resample, x, first)
            if getattr(up, "avg_shortcut", None) is not None:  # Wan 2.2 5B
                x = x + up.avg_shortcut(before, first_chunk=first)
        return self._convolve(decoder.conv_out, x, decoder.norm_out, decoder.nonlinearity)

    def _residual(self, block: Any, x: torch.Tensor) -> torch.Tensor:
        shortcut = self._convolve(block.conv_shortcut, x) if isinstance(block.conv_shortcut, torch.nn.Conv3d) else x
        x = self._convolve(block.conv1, x, block.norm1, block.nonlinearity)
        return self._convolve(block.conv2, x, block.norm2, block.nonlinearity) + shortcut

    def _convolve(self, layer: Any, x: torch.Tensor, norm: Any = None, activation: Any = None) -> torch.Tensor:
        """A causal convolution, of the norm and activation of x where they are given."""
        across, _, down, _, past, _ = layer._padding
        before = self._before(layer, x, past) if past else None
        x = self._enter(x, before, norm, activation)
        if past:
            self._kept[id(layer)] = x[:, :, -past:].clone()  # a view would keep the chunk
        return F.conv3d(x, layer.weight, layer.bias, layer.stride, (0, down, across))

    def _before(self, layer: Any, x: torch.Tensor, past: int) -> torch.Tensor:
        """The frames before this chunk at this layer: zeros before the first."""
        if (kept := self._kept.get(id(layer))) is not None:
            return kept
        return x.new_zeros((*x.shape[:2], past, *x.shape[3:])).contiguous(memory_format=layout(x))

    def _upsample(self, resample: Any, x: torch.Tensor, first: bool) -> torch.Tensor:
        """Twice the height and width and, except in the first chunk, twice the frames."""
        batch, channels, _, height, width = x.shape
        if resample.mode == "upsample3d" and not first:
            x = self._convolve(resample.time_conv, x)  # twice the channels: those of the first frame and of the second
            x_BTHWC = x.unflatten(1, (2, channels)).permute(0, 3, 1, 4, 5, 2)
            pictures = x_BTHWC.reshape(-1, height, width, channels).permute(0, 3, 1, 2)
        else:
            pictures = x.permute(0, 2, 1, 3, 4).reshape(-1, channels, height, width)
        up, convolution = resample.resample
        pictures = convolution(F.interpolate(pictures, scale_factor=up.scale_factor, mode=up.mode))
        frames_BCTHW: torch.Tensor = pictures.unflatten(0, (batch, -1)).permute(0, 2, 1, 3, 4)
        return frames_BCTHW


def enter(x: torch.Tensor, before: torch.Tensor | None, norm: Any, activation: Any) -> torch.Tensor:
    """What goes into a convolution: x normalised and activated, behind the frames before it."""
    if norm is not None:
        x = activation(norm(x))
    return x if before is None else torch.cat([before, x], dim=2)


def enter_compiled(x: torch.Tensor, before: torch.Tensor | None, norm: Any, activation: Any) -> torch.Tensor:
    """The same with channels last and by one kernel, where the norm has no bias and the activation is SiLU, as in Wan's own models."""
    if before is None or norm is None or not isinstance(activation, torch.nn.SiLU) or isinstance(norm.bias, torch.Tensor):
        return enter(x, before, norm, activation)
    past, (batch, channels, num, height, width) = before.shape[2], x.shape
    x_BTHWC = x.permute(0, 2, 3, 4, 1).contiguous()  # no copy where channels are last already
    out_BTHWC = x.new_empty((batch, past + num, height, width, channels))
    out_BTHWC[:, :past] = before.permute(0, 2, 3, 4, 1)
    weight_C = norm.gamma.float().flatten() * norm.scale
    for clip, into in zip(x_BTHWC, out_BTHWC[:, past:], strict=True):
        _kernel()(clip.view(-1, channels), into.view(-1, channels), weight_C)
    return out_BTHWC.permute(0, 4, 1, 2, 3)


@functools.cache
def _kernel() -> Callable[..., None]:
    """Compiled once a process, for any size. Its arguments are tables: one with five dimensions is compiled for each order of strides."""

    def normalised(x_NC: torch.Tensor, into_NC: torch.Tensor, weight_C: torch.Tensor) -> None:
        into_NC.copy_(F.silu(F.normalize(x_NC.float(), dim=1) * weight_C))

    return torch.compile(normalised, dynamic=True)


def chunk_size(num_frames: int, most: int) -> int:
    """The largest number of frames at once, up to `most`, that divides them all, so that every chunk has one shape. At least 1."""
    return next((size for size in range(min(most, num_frames), 0, -1) if num_frames % size == 0), 1)


def frames_at_once(vae: Any, num_clips: int, height: int, width: int, memory_bytes: int) -> int:
    """Latent frames whose decoding takes about SHARE of the memory, from 1 up. height, width: in pixels."""
    widest = max(block.resnets[0].conv1.in_channels for block in vae.decoder.up_blocks[-2:])
    patch = vae.config.patch_size or 1
    each = num_clips * PIXEL_FRAMES * (height // patch) * (width // patch) * widest * BYTES_A_VALUE
    return max(1, int(SHARE * memory_bytes / each))


def layout(x: torch.Tensor) -> torch.memory_format:
    """Whether the channels of x (B, C, T, H, W) are its innermost dimension."""
    last = x.is_contiguous(memory_format=torch.channels_last_3d) and not x.is_contiguous()
    return torch.channels_last_3d if last else torch.contiguous_format
