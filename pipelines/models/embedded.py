"""The folders of the trained models that come with the suite."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_FOLDER = Path(__file__).parents[1] / "embedded"

LANGUAGE: Mapping[str, Path] = {"embedded": _FOLDER / "llm_dense", "embedded-moe": _FOLDER / "llm_moe"}
VISION = _FOLDER / "vlm"
VIDEO = _FOLDER / "t2v"
VIDEO_TWO_STEPS = _FOLDER / "t2v_two_steps"  # LoRA adapters of VIDEO


def models_of(workload: str) -> Mapping[str, Path]:
    """The embedded models for a built-in workload, by the value of option `model`; none for a plugin's workload."""
    by_workload = {"llm": LANGUAGE, "vlm": {"embedded": VISION}, "t2v": {"embedded": VIDEO}, "i2v": {"embedded": VIDEO}}
    return by_workload.get(workload, {})
