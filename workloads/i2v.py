"""Image to video: captions of the embedded world with the first frame of a clip, or prompts and images from a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from configs.errors import ConfigError
from configs.registry import register
from workloads.base import Workload, check_num_prompts
from workloads.readers.image_file import read_image
from workloads.readers.prompt_file import Entry, read_entries
from workloads.records import Sample
from workloads.t2v import draw_captions, meta_of_prompt, meta_of_scene
from workloads.vlm import encode_png
from workloads.world.scenes import Split, render

_DATA_SEED = 20_264  # of the positions of objects in the images; captions are drawn as for t2v
_EXAMPLE = '{"prompt": "the cat turns its head", "image": "cat.png"}'


@register("i2v")
@dataclass(frozen=True)
class ImageToVideo(Workload):
    """Prompts for a video model, each with the first frame of the video.

    prompts: JSON lines, a JSON array or a table, each entry `{"prompt": ..., "image": path}`; paths are relative to the file's folder. By
    default captions are drawn from the embedded world as for t2v (`grade`, `num_prompts`, `split`), and the image is the first frame of a
    clip that the world renders of the scene, so that the pixels show whether the answer follows the caption.
    grade: `simple`, `rich`, or `mixed`. num_prompts: how many to draw, or the most to read. split: `train`, `held_out` or `any`.
    """

    prompts: str | None = None
    grade: Literal["simple", "rich", "mixed"] = "simple"
    num_prompts: int | None = None
    split: Split = "any"

    unit: ClassVar[str] = "frames"
    noun: ClassVar[str] = "videos"
    has_media: ClassVar[bool] = True
    default_pipeline: ClassVar[str] = "diffusers_t2v"
    default_metrics: ClassVar[tuple[str, ...]] = (
        "throughput",
        "latency",
        "stages",
        "peak_memory",
        "energy",
        "world_score",
        "first_frame_psnr",
        "temporal_flickering",
        "motion_smoothness",
        "dynamic_degree",
    )

    def __post_init__(self) -> None:
        check_num_prompts("i2v", self.num_prompts)

    def samples(self) -> Sequence[Sample]:
        if self.prompts is not None:
            return read_prompts_with_images(self.prompts)[: self.num_prompts]
        samples = []
        for i, (scene, text) in enumerate(draw_captions(self.grade, self.num_prompts or 64, self.split, workload="i2v")):
            clip_THWC = render(scene, np.random.default_rng((_DATA_SEED, i)))
            samples.append(Sample(i, text, meta_of_scene(scene), encode_png(clip_THWC[:1])))
        return samples


def read_prompts_with_images(path: str) -> list[Sample]:
    """Samples from a file of prompts with images.

    Raises ConfigError, naming the line, if the file or an image is missing or damaged or a line has another form.
    """
    folder = Path(path).parent
    entries = read_entries(path, ("image",), f"give dataset.prompts lines like {_EXAMPLE}")
    return [_sample(index, entry, folder) for index, entry in enumerate(entries)]


def _sample(index: int, entry: Entry, folder: Path) -> Sample:
    name, where = entry.values.get("image"), entry.where
    if not isinstance(name, str) or not name.strip():
        raise ConfigError(f"{where} has no 'image' path; write lines like {_EXAMPLE}")
    try:
        content = (folder / name).read_bytes()
        read_image(content)
    except FileNotFoundError:
        raise ConfigError(f"{where}: image {name!r} does not exist; paths are relative to the file's folder") from None
    except OSError as error:
        raise ConfigError(f"{where}: image {name!r} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{where}: image {name!r}: {error}; give a PNG or JPEG file") from None
    return Sample(index, entry.prompt, meta_of_prompt(entry.prompt), (content,))
