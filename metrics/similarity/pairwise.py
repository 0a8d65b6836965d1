"""How close a candidate's answers are to the reference's, pair by pair. Different is not worse, so there is no verdict.

Videos: video.py, vmaf.py and lpips.py. Texts: text.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from metrics.base import Run
from metrics.similarity.lpips import load_lpips
from metrics.similarity.text import edit_similarities, token_agreement
from metrics.similarity.video import Video, psnr, ssim
from metrics.similarity.vmaf import find_ffmpeg, vmaf
from workloads.records import Record

PERCENTILES = {"p10": 10, "median": 50, "p90": 90}
LOWER = ("lpips",)  # a distance; for all others, higher is closer
MAX_THREADS = 4


@dataclass
class Results:
    """Measures of the pairs so far. values: by measure and sample. failed: why a pair, or a measure of it, is missing, by sample."""

    values: dict[str, dict[int, float]] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    not_made: dict[str, str] = field(default_factory=dict)  # measures that cannot be computed here, and what to install
    made_with: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, values: dict[int, float]) -> None:
        self.values.setdefault(name, {}).update(values)


def closeness(a: Run, b: Run) -> dict[str, Any]:
    """The entry `closeness` of audit.json.

    num_pairs: prompts of both runs; a pair in which one answer failed is among `failed`. equal_share: of the pairs with two answers, those
    with the same digest. measures: p10, median, p90 and n of each. pairs: the measures of each pair, by sample.
    """
    other = {r.sample_index: r for r in b.judged}
    found, twins = Results(), {}
    for one in a.judged:
        two = other[one.sample_index]
        missing = [side for side, r in (("reference", one), ("candidate", two)) if r.status != "done"]
        if missing:
            found.failed[one.sample_index] = f"the {' and the '.join(missing)} gave no answer"
        else:
            twins[one.sample_index] = (one, two)
    equal = {i: x.digest == y.digest for i, (x, y) in twins.items()}
    _texts({i: (x.text, y.text) for i, (x, y) in twins.items() if x.text is not None and y.text is not None}, found)
    _videos(a, b, {i: pair for i, pair in twins.items() if pair[0].media and pair[1].media}, found)
    for i, (x, y) in twins.items():
        if (x.media is None or y.media is None) and (x.text is None or y.text is None):
            found.failed[i] = "the two answers have neither videos nor texts to compare"
    return {
        "num_pairs": len(other),
        "equal_share": float(np.mean(list(equal.values()))) if equal else None,
        "first_token": _first_tokens(list(twins.values())),
        "measures": {name: _spread(name, list(values.values())) for name, values in found.values.items() if values},
        "failed": [{"sample_index": i, "why": why} for i, why in sorted(found.failed.items())],
        "not_made": found.not_made,
        "made_with": found.made_with,
        "pairs": [
            {"sample_index": i, "equal": same, **{name: values[i] for name, values in found.values.items() if i in values}}
            for i, same in equal.items()
        ],
    }


def _spread(name: str, values: Sequence[float]) -> dict[str, Any]:
    numbers = {label: float(np.percentile(values, q)) for label, q in PERCENTILES.items()}
    return {**numbers, "n": len(values), "closer": "lower" if name in LOWER else "higher"}


def _first_tokens(twins: Sequence[tuple[Record, Record]]) -> dict[str, Any] | None:
    """Share of pairs that begin with the same token, where the engine reported its id."""
    same = [x.first_token_id == y.first_token_id for x, y in twins if x.first_token_id is not None and y.first_token_id is not None]
    return {"equal_share": float(np.mean(same)), "n": len(same)} if same else None


def _texts(twins: dict[int, tuple[str, str]], found: Results) -> None:
    if not twins:
        return
    found.add("token_agreement", {i: token_agreement(*pair) for i, pair in twins.items()})
    ones, twos = zip(*twins.values(), strict=True)
    found.add("edit_similarity", dict(zip(twins, edit_similarities(ones, twos), strict=True)))


def _videos(a: Run, b: Run, twins: dict[int, tuple[Record, Record]], found: Results) -> None:
    if not twins:
        return
    measures: dict[str, Callable[[Video, Video], float]] = {"psnr_db": psnr, "ssim": ssim}
    lpips, why = load_lpips()
    if lpips:
        measures["lpips"] = lpips
        found.made_with["lpips"] = f"AlexNet, {lpips.device}"
    else:
        found.not_made["lpips"] = why

    def measured(i: int) -> tuple[tuple[int, ...] | None, dict[str, float], list[str]]:
        """Shape (None where the pair cannot be compared), measures, and what went wrong."""
        try:
            one, two = a.video(twins[i][0]), b.video(twins[i][1])
        except ValueError as error:
            return None, {}, [str(error)]
        if one.shape != two.shape:
            return None, {}, [f"the videos' shapes differ: {one.shape} and {two.shape}"]
        values, wrong = {}, []
        for name, measure in measures.items():
            try:
                values[name] = measure(one, two)
            except ValueError as error:
                wrong.append(f"{name}: {error}")
        return one.shape, values, wrong

    shapes: dict[int, tuple[int, ...]] = {}
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        for i, (shape, values, wrong) in zip(twins, pool.map(measured, twins), strict=True):
            if shape:
                shapes[i] = shape
            if wrong:
                found.failed[i] = "; ".join(wrong)
            for name, value in values.items():
                found.add(name, {i: value})
    _vmaf(a, b, {i: twins[i] for i in shapes}, shapes, found)


def _vmaf(a: Run, b: Run, twins: dict[int, tuple[Record, Record]], shapes: dict[int, tuple[int, ...]], found: Results) -> None:
    ffmpeg, why = find_ffmpeg()
    if ffmpeg is None:
        found.not_made["vmaf"] = why
        return
    files = {i: (a.folder / str(x.media), b.folder / str(y.media)) for i, (x, y) in twins.items()}
    scored = vmaf(ffmpeg, files, shapes)
    found.add("vmaf", scored.values)
    for i, wrong in scored.failed.items():
        found.failed[i] = "; ".join(filter(None, (found.failed.get(i), f"vmaf: {wrong}")))
    if scored.made_with:
        found.made_with["vmaf"] = scored.made_with
