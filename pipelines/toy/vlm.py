"""A weightless vision-language pipeline: answers by measuring the pixels. For tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from configs.registry import register
from pipelines.base import Pipeline, Response
from workloads.records import Query, Sample
from workloads.world.checker import FAST_FROM, STILL_BELOW, GroupReading, read_background, read_clip
from workloads.world.scenes import COLOURS, DIRECTIONS, SHAPES, Group
from workloads.world.vision import CLIP_FRAMES, COUNTS, QUESTIONS, catalogue_entry, centre, place_of

if TYPE_CHECKING:
    import torch


@register("toy_vlm")
@dataclass
class ToyVLM(Pipeline):
    """Reads the picture by program. A question that is not of the embedded world, or an unreadable image, fails.
    batch_size: queries answered together.
    """

    batch_size: int = 8

    workloads: ClassVar[tuple[str, ...]] = ("vlm",)

    def load(self, device: torch.device) -> None:
        """There is nothing to load."""

    def generate(self, samples: Sequence[Sample], queries: Sequence[Query]) -> Sequence[Response]:
        return [self._answer(sample) for sample in samples]

    def _answer(self, sample: Sample) -> Response:
        from PIL import Image

        try:
            frames_THWC = np.stack([np.asarray(Image.open(BytesIO(image)).convert("RGB")) for image in sample.images])
            text = answer(sample.prompt, frames_THWC)
        except (OSError, ValueError, StopIteration, IndexError) as error:
            return Response(error=f"the toy cannot answer {sample.prompt!r}: {error or type(error).__name__}")
        num_input = len(sample.prompt.split()) + len(sample.images)
        words = text.split()
        ids = [*map(len, words), 0]
        return Response(
            text=text, num_units=len(ids), num_input_tokens=num_input, first_token_id=ids[0], token_ids=ids, finish_reason="stop"
        )


def answer(prompt: str, frames_THWC: NDArray[np.uint8]) -> str:
    """The answer, measured on the frames. Raises StopIteration for a question that is not of the embedded world."""
    words = [word.strip("?.") for word in prompt.split()]
    feature = next((word for word in words if word in (*COLOURS, *SHAPES)), None)
    if feature is not None:
        reading = next(r for r in read_clip(_as_clip(frames_THWC)) if feature in (r.colour, r.shape))
        return str(reading.shape if feature == reading.colour else reading.colour)
    task = next(name for name, phrasings in QUESTIONS.items() if prompt in phrasings)
    if task in ("direction", "speed"):
        moved = centre(frames_THWC[-1]) - centre(frames_THWC[0])
        return _motion(moved / (CLIP_FRAMES[-1] - CLIP_FRAMES[0]))[task]
    if task == "place":
        return str(place_of(frames_THWC[0]))
    reading = read_clip(_as_clip(frames_THWC))[0]
    readings: dict[str, Any] = {
        "colour": reading.colour,
        "shape": reading.shape,
        "count": COUNTS[reading.count],
        "catalogue": catalogue_entry(_group(reading), read_background(_as_clip(frames_THWC))),
    }
    return str(readings[task])


def _motion(velocity: NDArray[np.float64]) -> dict[str, str]:
    """velocity: pixels a frame, (x, y)."""
    pace = float(np.hypot(*velocity))
    if pace < STILL_BELOW:
        return {"direction": "still", "speed": "still"}
    direction = max(DIRECTIONS, key=lambda name: float(velocity @ np.array(DIRECTIONS[name])))
    return {"direction": direction, "speed": "fast" if pace >= FAST_FROM else "slow"}


def _as_clip(frames_THWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The first frame four times: read_clip needs at least four."""
    return np.repeat(frames_THWC[:1], 4, axis=0)


def _group(reading: GroupReading) -> Group:
    return Group(reading.colour, reading.shape or SHAPES[0], "still", "still", reading.count)
