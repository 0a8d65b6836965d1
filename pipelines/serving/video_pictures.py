"""Pictures of a video, for lists of videos: its first frame, or several frames side by side."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from workloads.run_folder.media import read_mp4

PICTURES = ("thumbnail", "spritesheet")
TYPE = "image/webp"
NUM_TILES = 8  # of a spritesheet


def picture_of(file: Path, variant: str) -> bytes:
    """A WebP picture. variant: one of PICTURES."""
    from PIL import Image

    video_THWC, _ = read_mp4(file.read_bytes())
    places = np.linspace(0, len(video_THWC) - 1, min(NUM_TILES, len(video_THWC))).round().astype(int)
    picture_HWC = video_THWC[0] if variant == "thumbnail" else np.concatenate([video_THWC[i] for i in places], axis=1)
    content = io.BytesIO()
    Image.fromarray(picture_HWC).save(content, "WEBP", quality=90)
    return content.getvalue()
