"""The first frame of a video from an image file, and how it is fitted to the frame: one rule for pipelines and metrics.

The image is scaled to cover the frame, with Lanczos filtering and its aspect ratio kept, and cropped evenly at two sides. An image of the
frame's size stays unchanged.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from configs.errors import first_line


def read_image(content: bytes) -> NDArray[np.uint8]:
    """image_HWC, RGB, rotated by its EXIF orientation. Raises ValueError if the content is not an image, or damaged."""
    from PIL import Image, ImageOps

    if not content:
        raise ValueError("the image is missing")
    try:
        with Image.open(io.BytesIO(content)) as opened:
            return np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # what Pillow raises on bad bytes
        reason = first_line(error)
        raise ValueError(f"the file is not an image, or damaged ({reason.partition(' <')[0]})") from None


def fit_to_frame(image_HWC: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    from PIL import Image, ImageOps

    if image_HWC.shape[:2] == (height, width):
        return image_HWC
    return np.asarray(ImageOps.fit(Image.fromarray(image_HWC), (width, height), Image.Resampling.LANCZOS))
