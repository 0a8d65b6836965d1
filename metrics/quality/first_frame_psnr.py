"""PSNR of a video's first frame, compared with the given image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from configs.registry import register
from metrics.base import Run, SampleMetric
from metrics.similarity.video import psnr
from workloads.readers.image_file import fit_to_frame, read_image
from workloads.records import Record, Sample


@register("first_frame_psnr")
@dataclass(frozen=True)
class FirstFramePsnr(SampleMetric):
    """Peak signal-to-noise ratio of the saved video's first frame to the given image, in dB. Higher is better; 100 where they are equal.

    PSNR = 10 log10(255^2 / mean squared difference)
    The image is resized as pipelines do it (workloads/readers/image_file.py). A failed or unreadable answer scores 0.
    The figure does not depend on later frames.
    """

    name: ClassVar[str] = "first_frame_psnr"
    unit: ClassVar[str] = "dB"
    headings: ClassVar[Mapping[str, tuple[str, ...]]] = {"Quality": ("first_frame_",)}
    headline: ClassVar[tuple[str, ...]] = ("first_frame_psnr",)

    def applies(self, sample: Sample) -> bool:
        return bool(sample.images and sample.images[0])

    def score(self, run: Run, sample: Sample, record: Record) -> Mapping[str, float]:
        if record.media is None:
            return {}
        first_HWC = run.video(record)[0]
        return {self.name: psnr(first_HWC, fit_to_frame(read_image(sample.images[0]), *first_HWC.shape[:2]))}
