"""The images of image to video: read, fitted to the clip's size, and passed in the form that the family takes."""

from __future__ import annotations

import importlib
import types
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from configs.errors import ConfigError
from pipelines.diffusers.families import VideoFamily
from workloads.readers.image_file import fit_to_frame, read_image
from workloads.records import Sample
from workloads.vlm import encode_png
from workloads.world.scenes import parse_caption, render

if TYPE_CHECKING:
    import torch


class ImageInput:
    """Makes arguments for one loaded pipeline. first_frame: `trained` or `held`, as the option. Raises ConfigError."""

    def __init__(self, family: VideoFamily, first_frame: str) -> None:
        self._family, self._cleaning = family, ""
        sizes = {name: family.value(name) for name in ("height", "width", "num_frames")}
        if missing := [name for name, size in sizes.items() if size is None]:
            raise ConfigError(f"pipeline 'diffusers_t2v': workload 'i2v' needs option {missing[0]!r}: {family.name} has no default for it.")
        self._size: tuple[int, int] = (sizes["height"], sizes["width"])
        self._num_frames: int = sizes["num_frames"]
        self._held: Any = None
        if first_frame == "held":
            from pipelines.diffusers.held_frame import HeldFrame

            self._held = HeldFrame(family.pipe)
        elif family.name.startswith("Wan"):
            self._cleaning = _replace_missing_ftfy(type(family.pipe).__module__)

    def arguments(self, samples: Sequence[Sample], generators: Sequence[torch.Generator]) -> dict[str, Any]:
        """Arguments of the call for these samples. Raises ValueError, naming the sample, where an image cannot be read."""
        images = []
        for sample in samples:
            try:
                images.append(fit_to_frame(read_image(sample.images[0] if sample.images else b""), *self._size))
            except ValueError as error:
                raise ValueError(f"sample {sample.index}: {error}") from None
        if self._held is not None:
            import torch

            images_BCHW = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
            with torch.inference_mode():
                return {"latents": self._held.latents(images_BCHW, self._num_frames, generators)}
        from PIL import Image

        pictures = [Image.fromarray(image) for image in images]
        if len(pictures) == 1:
            return {"image": pictures[0], "generator": generators[0]}  # LTX-Video's noise for decoding takes no list (diffusers 0.42)
        return {"image": pictures}

    def for_calibration(self, generators: Sequence[torch.Generator]) -> dict[str, Any]:
        """Arguments for clips that calibrate a speed-up, with an image of the embedded world."""
        scene = parse_caption("a red disc moves slowly to the right")
        sample = Sample(0, "", {}, encode_png(render(scene, np.random.default_rng(0))[:1]))
        return self.arguments([sample] * len(generators), generators)

    def effective(self) -> Mapping[str, str]:
        """Entries of Pipeline.effective."""
        height, width = self._size
        entries = {"first_frame": "held" if self._held is not None else "trained", "image": f"fitted to {width} x {height}"}
        return entries | ({"prompt_cleaning": self._cleaning} if self._cleaning else {})


def _replace_missing_ftfy(module_name: str) -> str:
    """Wan's image pipeline calls ftfy even where it is not installed (diffusers 0.42): prompts then stay unchanged, as in text to video."""
    module = importlib.import_module(module_name)
    if hasattr(module, "ftfy"):
        return getattr(module.ftfy, "cleaning", "ftfy")
    cleaning = "none: ftfy is not installed"
    module.ftfy = types.SimpleNamespace(fix_text=lambda text: text, cleaning=cleaning)  # type: ignore[attr-defined]
    return cleaning
