"""The goals of the GPU benchmark, judged by stored figures."""

from __future__ import annotations

import json

from benchmarks.gpu.goals import GOALS, judge
from benchmarks.outcome import RESULTS


def test_goals_are_judged_by_the_stored_figures() -> None:
    document = json.loads((RESULTS / "gpu-nvidia-h100-80gb-hbm3.json").read_text(encoding="utf-8"))
    figures = {name: part["figures"] for name, part in document["parts"].items()}
    held = {g["goal"]: g["holds"] for g in judge(document["device"]["name"], figures)}
    assert len(held) == len(GOALS)
    assert held["Wan 1.3B denoiser: MFU"] is False
    assert held["Llama 8B decoding, batch 1: tokens/s"] is None  # not measured by that commit
    assert judge("AMD Instinct MI355X", figures) == []
    good = {"seconds": 1, "ran": True, "speed_up": 1.3, "finite": True}
    compiled = {"compiled": {"denoiser": {"compiled, torchao float8, dynamic": good}}}
    goal = next(g for g in GOALS if g.name.startswith("float8"))
    assert goal.read(compiled) == 1.3
    good["finite"] = False
    assert goal.read(compiled) == 0
