from __future__ import annotations

import cv2
import numpy as np
import pytest

from workloads.mlperf.shopify import with_picture


@pytest.mark.parametrize(("shape", "least", "most"), [("disc", 650, 760), ("square", 841, 841), ("triangle", 500, 580)])
def test_a_product_that_is_drawn_has_its_shape_in_its_colour(shape: str, least: int, most: int) -> None:
    """least, most: painted pixels of 48 x 48; a disc of radius 15 has 707, a square of 29 has 841, a triangle 32 wide and high 512."""
    row = with_picture({"product_title": "plate", "drawn": ["red", shape]})
    assert list(row) == ["product_title", "product_image"]
    image_BGR = cv2.imdecode(np.frombuffer(row["product_image"]["bytes"], np.uint8), cv2.IMREAD_COLOR)
    assert image_BGR is not None
    painted = (image_BGR == (40, 40, 210)).all(-1)
    assert least <= painted.sum() <= most
    assert (image_BGR[~painted] == 235).all()
