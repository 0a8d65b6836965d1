"""Where the trained models that come with the suite lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_FOLDER = Path(__file__).parents[1] / "embedded"

LANGUAGE: Mapping[str, Path] = {"embedded": _FOLDER / "llm_dense", "embedded-moe": _FOLDER / "llm_moe"}
VISION = _FOLDER / "vlm"
VIDEO = _FOLDER / "t2v"
VIDEO_TWO_STEPS = _FOLDER / "t2v_two_steps"  # adapters of VIDEO


def models_of(workload: str) -> Mapping[str, Path]:
    """The embedded models that answer a built-in workload, by the name that option `model` takes; none for a plugin's workload."""
    by_workload = {"llm": LANGUAGE, "vlm": {"embedded": VISION}, "t2v": {"embedded": VIDEO}, "i2v": {"embedded": VIDEO}}
    return by_workload.get(workload, {})
