"""Shopify's product catalogue: samples from rows.

product_title, product_description, potential_product_categories (a list), product_image, ground_truth_category, ground_truth_brand,
ground_truth_is_secondhand. The model gets the image as it is in the file: MLPerf forbids resizing it.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from workloads.readers.table_file import Row
from workloads.records import Sample

# MLPerf's prompt, word for word (mlcommons/inference, multimodal/qwen3-vl, task.py): a result depends on every word, the misspelt ones too.
# MLPerf sends the first part as the system message; here both parts are one prompt.
_SYSTEM = """Please analyze the product from the user prompt
and provide the following fields in a valid JSON object:
- category
- brand
- is_secondhand

You must choose only one, which is the most appropriate, correct, and specifc
category out of the list of possible product categories.

The description of the product sometimes contains various types of source code
(e.g., JavaScript, CSS, HTML, etc.), where useful product information is embedded
somewhere inside the source code. For this task, you should extract the useful
product information from the source code and leverage it, and discard the
programmatic parts of the source code.

Your response should only contain a valid JSON object and nothing more, e.g.,
you should not fence the JSON object inside a ```json code block.
The JSON object should match the followng JSON schema:
```json
{schema}
```
"""
_USER = """The title of the product is the following:
```text
{title}
```

The description of the product is the following:
```text
{description}
```

The following are the possible product categories:
```json
{categories}
```
"""
_SCHEMA = {
    "additionalProperties": False,
    "description": "Json format for the expected responses from the VLM.",
    "properties": {
        "category": {
            "description": 'The complete category of the product, e.g.,\n"Clothing & Accessories > Clothing > Shirts > Polo Shirts".\n'
            'Each categorical level is separated by " > ".',
            "title": "Category",
            "type": "string",
        },
        "brand": {"description": 'The brand of the product, e.g., "giorgio armani".', "title": "Brand", "type": "string"},
        "is_secondhand": {
            "description": "True if the product is second-hand, False otherwise.",
            "title": "Is Secondhand",
            "type": "boolean",
        },
    },
    "required": ["category", "brand", "is_secondhand"],
    "title": "ProductMetadata",
    "type": "object",
}


def shopify(rows: Iterable[Row]) -> Iterator[Sample]:
    """Products to classify by category, brand and condition."""
    schema = json.dumps(_SCHEMA, indent=2)
    for index, row in enumerate(rows):
        categories = _categories(row)
        user = _USER.format(
            title=row.text("product_title", empty=True), description=row.text("product_description", empty=True), categories=categories
        )
        expected = {
            "category": row.text("ground_truth_category"),
            "brand": row.text("ground_truth_brand", empty=True),
            "is_secondhand": _flag(row, "ground_truth_is_secondhand"),
        }
        meta = {"answer": json.dumps(expected, ensure_ascii=False), "scored_by": "hierarchical_f1", "subset": "shopify"}
        yield Sample(index, _SYSTEM.replace("{schema}", schema) + user, meta, (_image(row),))


def with_picture(values: Mapping[str, Any]) -> dict[str, Any]:
    """The row with a picture of its `drawn` shape: [colour, shape], 48 x 48."""
    import cv2
    import numpy as np

    colour, shape = values["drawn"]
    paint = {"red": (40, 40, 210), "green": (60, 160, 60), "blue": (200, 90, 40), "black": (20, 20, 20)}[colour]  # BGR, as OpenCV has it
    image_HWC = np.full((48, 48, 3), 235, np.uint8)
    if shape == "disc":
        cv2.circle(image_HWC, (24, 24), 15, paint, -1)
    elif shape == "square":
        cv2.rectangle(image_HWC, (10, 10), (38, 38), paint, -1)
    else:
        cv2.fillPoly(image_HWC, [np.array([[24, 8], [40, 40], [8, 40]], np.int32)], paint)
    written, png = cv2.imencode(".png", image_HWC)
    assert written, "OpenCV writes PNG"
    return {k: v for k, v in values.items() if k != "drawn"} | {"product_image": {"bytes": png.tobytes(), "path": None}}


def _categories(row: Row) -> str:
    field = row.named("potential_product_categories")
    categories = row.values[field]
    if isinstance(categories, str):
        try:
            categories = json.loads(categories)
        except (ValueError, RecursionError):
            raise row.wrong(field, "must be a list, or a list in JSON") from None
    if not isinstance(categories, list) or not categories or not all(isinstance(c, str) for c in categories):
        raise row.wrong(field, "must be a list of category paths")
    return str(categories)  # the format of MLPerf's f-string


def _flag(row: Row, field: str) -> bool:
    value = row.values[row.named(field)]
    if value in ("true", "false"):
        return bool(value == "true")
    if not isinstance(value, bool):
        raise row.wrong(field, "must be true or false")
    return value


def _image(row: Row) -> bytes:
    """The file's bytes, from {"bytes": ...} as `datasets` stores images, or from base64."""
    field = row.named("product_image", "product_image_base64")
    value = row.values[field]
    content = value.get("bytes") if isinstance(value, Mapping) else value
    if isinstance(content, str):
        try:
            content = base64.b64decode(content, validate=True)
        except (binascii.Error, ValueError):
            raise row.wrong(field, "is not base64") from None
    if not isinstance(content, bytes) or not content:
        raise row.wrong(field, "has no image")
    return content
