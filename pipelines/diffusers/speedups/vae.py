"""How a video VAE decodes: in tiles, in slices of the batch, several latent frames at once, or split over the ranks of a replica.

vae_decode is for the VAEs of Wan 2.1 and 2.2 (../wan_decoder.py):
  library   diffusers' own, one latent frame after the other
  chunks    several latent frames at once, with fewer copies
  compiled  the same, with one kernel of torch.compile for what lies between the convolutions. Needs Triton on a GPU
vae_channels_last stores the weights of its convolutions, and with them the pictures, with channels innermost: the layout of a GPU's tensor
cores. Where they are not given, a GPU gets `compiled` (without Triton, `chunks`) and channels last; both must first decode a small clip to
nearly the library's frames. A CPU gets the library's.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch

from configs.errors import ConfigError, first_line
from pipelines.diffusers.speedups.base import DiffusersOptions, Loaded, SpeedUp, Target, name_of
from pipelines.diffusers.split_decode import SplitDecode
from pipelines.diffusers.trials.timing import agreed, chooses, difference
from pipelines.diffusers.wan_decoder import WanDecoder, frames_at_once

CLOSE = 0.03  # of a small clip's frames to the library's: in bfloat16 two orders of a convolution's sums differ by 0.005 to 0.01
TRIED = (3, 8, 8)  # latent frames, height and width of that clip
CPU_BYTES = 8 * 10**9  # taken for the memory where the device is a CPU


class VaeTiling(SpeedUp):
    """Decodes a clip tile by tile: less memory."""

    option = "vae_tiling"
    entry = "vae_tiling"

    def apply(self, loaded: Loaded) -> None:
        _enable(loaded.pipe.vae, "enable_tiling", self)

    def effective(self, loaded: Loaded) -> None:
        return None

    def fallbacks(self, loaded: Loaded) -> list[str]:
        return [] if getattr(loaded.pipe.vae, "use_tiling", False) else ["the VAE does not tile"]


class VaeSlicing(SpeedUp):
    """Decodes the clips of a batch one after the other: less memory."""

    option = "vae_slicing"
    entry = "vae_slicing"

    def apply(self, loaded: Loaded) -> None:
        _enable(loaded.pipe.vae, "enable_slicing", self)

    def effective(self, loaded: Loaded) -> None:
        return None

    def fallbacks(self, loaded: Loaded) -> list[str]:
        return [] if getattr(loaded.pipe.vae, "use_slicing", False) else ["the VAE does not slice"]


class VaeSplit(SpeedUp):
    """Splits the decoding over the ranks of a replica."""

    option = "vae_split"
    entry = "vae"

    def __init__(self, options: DiffusersOptions) -> None:
        super().__init__(options)
        self._decode: SplitDecode | None = None
        if options.vae_overlap < 0:
            raise ConfigError(f"pipeline 'diffusers_t2v': vae_overlap must be at least 0, got {options.vae_overlap}.")

    def check(self, target: Target) -> None:
        if self.options.replica.size == 1:
            raise ConfigError(
                "pipeline 'diffusers_t2v': option 'vae_split' needs replicas of several ranks (parallel.cfg or .context). Leave it out."
            )

    def apply(self, loaded: Loaded) -> None:
        self._decode = SplitDecode(loaded.pipe.vae, self.options.replica, self.options.vae_overlap)

    def effective(self, loaded: Loaded) -> str | None:
        return f"split over {self.options.replica.size} ranks" if self._decode and self._decode.num_split else None

    def fallbacks(self, loaded: Loaded) -> list[str]:
        return [] if self.effective(loaded) else ["option vae_split: no clip was decoded by several ranks"]


class VaeChannelsLast(SpeedUp):
    """Stores convolutions with channels innermost. None: on a GPU, where a small clip stays nearly the same."""

    option = "vae_channels_last"
    entry = "vae_layout"

    def __init__(self, options: DiffusersOptions) -> None:
        super().__init__(options)
        self._choice: str | None = None

    @property
    def requested(self) -> bool:
        return self.value is not False

    def apply(self, loaded: Loaded) -> None:
        vae = loaded.pipe.vae
        if self.value is None and (not chooses(loaded.device) or not _convolutions(vae) or offloads_layers(self.options)):
            return
        if not _convolutions(vae):
            raise ConfigError(f"model {self.options.model!r} has a VAE without 3D convolutions. Leave out option 'vae_channels_last'.")
        if offloads_layers(self.options):
            raise ConfigError("option 'vae_channels_last' cannot be combined with offload 'sequential' or 'group'. Leave one out.")
        if self.value:
            lay_out(vae, True)
            return
        try:
            expected = decode_small(vae, loaded.device)
            lay_out(vae, True)
            found, why = difference(expected, decode_small(vae, loaded.device)), ""
        except Exception as error:  # a VAE that takes more than latents, or a layout that a kernel does not take
            found, why = float("inf"), f": {first_line(error)}"
        found = agreed([found], loaded.device)[0]
        self._choice = f"channels last; a small clip differs by {found:.2g}"
        if found > CLOSE:
            lay_out(vae, False)
            self._choice = f"as loaded: with channels last a small clip differs by {found:.2g}{why}"

    def effective(self, loaded: Loaded) -> str | None:
        """Read from the strides of the weights."""
        layers = _convolutions(loaded.pipe.vae)
        last = sum(_is_last(layer.weight) for layer in layers)
        return f"channels last in {last} of {len(layers)} convolutions" if last else None

    def notes(self, loaded: Loaded) -> Mapping[str, str]:
        return {} if self._choice is None else {"vae_layout_choice": self._choice}

    def fallbacks(self, loaded: Loaded) -> list[str]:
        layers = _convolutions(loaded.pipe.vae)
        plain = [layer for layer in layers if not _is_last(layer.weight) and _could_be_last(layer.weight)]
        return [f"option vae_channels_last: {len(plain)} of {len(layers)} convolutions are not"] if self.value and plain else []


class VaeDecode(SpeedUp):
    """Decodes several latent frames at once, with fewer copies. None: on a GPU, where a small clip stays nearly the same."""

    option = "vae_decode"
    unset = (None, "library")
    entry = "vae_decode"

    def __init__(self, options: DiffusersOptions) -> None:
        super().__init__(options)
        self._decoder: WanDecoder | None = None
        self._how, self._num_tried = "", 0
        self._choice: str | None = None

    @property
    def requested(self) -> bool:
        return bool(self.value != "library")

    def apply(self, loaded: Loaded) -> None:
        vae, device, what = loaded.pipe.vae, loaded.device, f"option 'vae_decode' {self.value!r}"
        if self.value is None and not chooses(device):
            return
        why_not = {
            f"the VAE is a {type(vae).__name__}, not an AutoencoderKLWan": type(vae).__name__ != "AutoencoderKLWan",
            "option 'vae_tiling' is on": self.options.vae_tiling,
            "offload 'sequential' and 'group' need the library's": offloads_layers(self.options),
        }
        if why := next((text for text, holds in why_not.items() if holds), None):
            if self.value is None:
                self._choice = f"library: {why}"
                return
            raise ConfigError(f"{what} is not possible: {why}. Leave it out.")
        has_triton = importlib.util.find_spec("triton") is not None
        if self.value == "compiled" and device.type == "cuda" and not has_triton:
            raise ConfigError(f"{what} needs Triton on a GPU: pip install triton, or use 'chunks'.")
        self._how = self.value or ("compiled" if has_triton else "chunks")
        height, width = (loaded.family.value(name) or least for name, least in (("height", 480), ("width", 832)))
        memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else CPU_BYTES
        size = frames_at_once(vae, 1 if vae.use_slicing else self.options.batch_size, height, width, memory)
        expected = decode_small(vae, device)
        self._decoder = WanDecoder(vae, size, self._how == "compiled")
        try:
            found, why = difference(expected, decode_small(vae, device)), ""
        except Exception as error:  # such as a compiler that is missing
            found, why = float("inf"), f": {first_line(error)}"
        found = agreed([found], device)[0]
        if found > CLOSE:
            self._decoder.restore()
            self._decoder, text = None, f"with {self._how!r} a small clip differs by {found:.2g}{why}"
            if self.value is not None:
                raise ConfigError(f"{what} does not decode as diffusers does: {text}. Leave it out.")
            self._choice = f"library: {text}"
        elif self.value is None:
            self._choice = f"{self._how}; a small clip differs by {found:.2g}"
        self._num_tried = self._decoder.num_decoded if self._decoder else 0

    def effective(self, loaded: Loaded) -> str | None:
        if self._decoder is None:
            return None
        return f"{self._how}, up to {self._decoder.num_frames} latent frames at once"

    def notes(self, loaded: Loaded) -> Mapping[str, str]:
        return {} if self._choice is None else {"vae_decode_choice": self._choice}

    def fallbacks(self, loaded: Loaded) -> list[str]:
        used = self._decoder is not None and self._decoder.num_decoded > self._num_tried
        return [] if used or self.value is None else ["option vae_decode: no clip was decoded that way"]


def offloads_layers(options: DiffusersOptions) -> bool:
    """Whether a layer's weights are on the device only while that layer is called."""
    return name_of(options.offload) in ("sequential", "group")


def decode_small(vae: Any, device: torch.device) -> torch.Tensor:
    """The frames of a small clip of noise."""
    shape = (1, vae.config.z_dim if "z_dim" in vae.config else vae.config.latent_channels, *TRIED)
    z = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(0)).to(device, vae.dtype)
    with torch.inference_mode():
        frames: torch.Tensor = vae.decode(z, return_dict=False)[0]
    return frames


def _convolutions(vae: Any) -> list[Any]:
    return [layer for layer in vae.modules() if isinstance(layer, torch.nn.Conv3d)]


def lay_out(vae: Any, last: bool) -> None:
    """Store the weights of all convolutions with channels last, or as they are loaded."""
    for layer in vae.modules():
        if isinstance(layer, torch.nn.Conv3d | torch.nn.Conv2d):
            formats = (torch.channels_last_3d if layer.weight.ndim == 5 else torch.channels_last, torch.contiguous_format)
            layer.weight.data = layer.weight.data.contiguous(memory_format=formats[0] if last else formats[1])


def _is_last(weight: torch.Tensor) -> bool:
    return bool(weight.is_contiguous(memory_format=torch.channels_last_3d)) and _could_be_last(weight)


def _could_be_last(weight: torch.Tensor) -> bool:
    """Whether its two layouts differ: with one channel, or one value a channel, they are the same."""
    return weight.shape[1] > 1 and weight[0, 0].numel() > 1


def _enable(vae: Any, method: str, speed_up: SpeedUp) -> None:
    if not hasattr(vae, method):
        raise ConfigError(f"model {speed_up.options.model!r} has a VAE that does not support option {speed_up.option!r}. Leave it out.")
    getattr(vae, method)()
