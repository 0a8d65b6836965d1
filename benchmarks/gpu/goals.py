"""The speeds that one H100 or H200 is to reach, and whether a document of the GPU benchmark shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

DEVICES = ("H100", "H200")
Figures = Mapping[str, Any]


class Goal(NamedTuple):
    """A figure that is to be `at_least` or `at_most`. read: from the figures by part; None where it was not measured."""

    name: str
    read: Callable[[Figures], float | None]
    at_least: float | None = None
    at_most: float | None = None


def at(*path: str) -> Callable[[Figures], float | None]:
    """Reads one figure by its path, which begins with the part."""

    def read(figures: Figures) -> float | None:
        value: Any = figures
        for name in path:
            value = value.get(name, {}) if isinstance(value, Mapping) else {}
        return float(value) if isinstance(value, int | float) else None

    return read


def ratio(over: Callable[[Figures], float | None], under: Callable[[Figures], float | None]) -> Callable[[Figures], float | None]:
    def read(figures: Figures) -> float | None:
        a, b = over(figures), under(figures)
        return None if a is None or not b else a / b

    return read


def rows_that_ran(part: str, table: str, expected: int) -> Callable[[Figures], float | None]:
    """The share of a table's rows that were measured and are finite."""

    def read(figures: Figures) -> float | None:
        rows = figures.get(part, {}).get(table)
        return None if not rows else sum(bool(r.get("ran")) and r.get("finite", True) for r in rows.values()) / expected

    return read


def _denoiser(name: str) -> Callable[[Figures], float | None]:
    """The speed-up of a compiled row; 0 where its frames are not finite."""

    def read(figures: Figures) -> float | None:
        row = figures.get("compiled", {}).get("denoiser", {}).get(name, {})
        return None if not row.get("ran") else float(row["speed_up"]) * bool(row["finite"])

    return read


_ENGINE = ("engines", "engines")
_CONTINUOUS, _STATIC = (at(*_ENGINE, name, "tokens_per_s") for name in ("continuous", "static"))
_ANSWERS, _ON_CPU = (at("panels", "runs", name, "headline", "answers_per_s") for name in ("llm/embedded", "llm/embedded, CPU"))
GOALS = (
    *(
        Goal(f"Llama 8B decoding, batch {batch}: tokens/s", at("llama", "decode_graph", f"batch {batch}", "tokens_per_s"), at_least=least)
        for batch, least in ((1, 120), (8, 900), (64, 5000))
    ),
    Goal("Llama 8B decoding, batch 1: share of bandwidth", at("llama", "decode_graph", "batch 1", "bandwidth_use"), at_least=0.6),
    Goal("transformers_llm, continuous, 64 prompts of 1,024 tokens: tokens/s", _CONTINUOUS, at_least=4000),
    Goal("continuous / static batching", ratio(_CONTINUOUS, _STATIC), at_least=1.0),
    Goal("embedded llm: answers/s of the GPU / of the CPU", ratio(_ANSWERS, _ON_CPU), at_least=10),
    Goal("Wan 1.3B denoiser: MFU", at("wan", "stages", "denoiser", "mfu"), at_least=0.75),
    Goal("Wan 1.3B VAE decode: MFU", at("wan", "stages", "vae", "mfu"), at_least=0.45),
    Goal("Wan 1.3B, a clip's other time: s", at("wan", "other_s"), at_most=0.05),
    Goal("int8 dynamic, compiled: speed-up", _denoiser("compiled, torchao int8, dynamic"), at_least=1.2),
    Goal("float8 dynamic, compiled: speed-up, finite", _denoiser("compiled, torchao float8, dynamic"), at_least=1.2),
    Goal("compiled: share of rows measured", rows_that_ran("compiled", "denoiser", 4), at_least=1.0),
)


def judge(device: str, figures: Figures) -> list[dict[str, Any]]:
    """Each goal with its value and whether it holds (None: not measured); none for a device that they are not about."""
    if not any(name in device for name in DEVICES):
        return []
    results = []
    for goal in GOALS:
        value = goal.read(figures)
        low, high = goal.at_least, goal.at_most
        holds = None if value is None else (low is None or value >= low) and (high is None or value <= high)
        results.append({"goal": goal.name, "value": value, "at_least": low, "at_most": high, "holds": holds})
    return results
