"""The image that a video is to begin with, and how it is made to fit the frame: one rule for pipelines and metrics alike.

It is scaled, its proportions kept, until it covers the frame, by Lanczos filtering, and what stands out at two sides is cut off evenly.
An image of the frame's size stays as it is.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from configs.errors import first_line


def read_image(content: bytes) -> NDArray[np.uint8]:
    """image_HWC, RGB, turned as its EXIF data say. Raises ValueError where it is no image, or a damaged one."""
    from PIL import Image, ImageOps

    if not content:
        raise ValueError("the image is missing")
    try:
        with Image.open(io.BytesIO(content)) as opened:
            return np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # what Pillow raises on bad bytes
        reason = first_line(error)
        raise ValueError(f"the image is no picture, or damaged ({reason.partition(' <')[0]})") from None


def fitted(image_HWC: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    from PIL import Image, ImageOps

    if image_HWC.shape[:2] == (height, width):
        return image_HWC
    return np.asarray(ImageOps.fit(Image.fromarray(image_HWC), (width, height), Image.Resampling.LANCZOS))
