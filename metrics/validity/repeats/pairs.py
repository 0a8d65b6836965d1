"""Whether two answers to one query are the same.

Two videos are the same where their peak signal-to-noise ratio is MIN_PSNR or more. Measured with the embedded model: the same weights in
batches of 1 and of 4 reach 93 dB and more in float32, 55 in bfloat16; 4 steps in place of 8 reach 18 to 29; another seed 13 to 19.
Texts that differ by rounding alone diverge late: of 1,000 equal requests to a served Qwen3-235B at temperature 0 none differed within the
first 102 tokens (He et al., Defeating Nondeterminism in LLM Inference, 2025). So texts differ where more than half of those compared
diverge, and do so after fewer than 1 / MAX_RATE words on average.
One text that ends where the other goes on for long is cut short: where more than half of the pairs are, they differ, however long they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metrics.base import Run
from metrics.similarity.video import psnr
from pipelines.launcher.messages import Answer
from workloads.records import Record

MIN_PSNR = {True: 40.0, False: 30.0}  # dB; by whether all weights are float32
MAX_RATE = 0.05  # of words at which two texts diverge
MIN_REST, FEW_WORDS = 1.25, 3  # a text goes on for long: so many times as many words as the other, and so many more


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one query, and how similar they are.

    label: whose answers they are. ranks: which gave them. psnr: of videos, in dB. num_agreed: words before the first that differs.
    is_cut: one text ends where the other goes on for long. failed: there is no second answer to compare.
    """

    label: str
    same: bool
    ranks: tuple[int, int]
    psnr: float | None = None
    num_agreed: int = 0
    is_cut: bool = False
    failed: bool = False

    @property
    def crossed(self) -> bool:
        return self.ranks[0] != self.ranks[1]


def pair_of(run: Run, record: Record, other: Answer | Record, video: Callable[[], NDArray[np.uint8]], label: str) -> Pair:
    """video: reads the other answer's."""
    ranks, text = (record.rank, other.rank), record.text or ""
    if other.digest == record.digest:
        return Pair(label, True, ranks, math.inf, len(text.split()) + 1)
    if record.media is None:
        one, two = text.split(), (other.text or "").split()
        num_agreed = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
        short, long = sorted((len(one), len(two)))
        is_cut = num_agreed == short and long >= max(MIN_REST * short, short + FEW_WORDS)
        return Pair(label, False, ranks, None, num_agreed, is_cut)
    try:
        first, second = run.video(record), video()
    except ValueError as error:
        return Pair(f"{label}: {error}", False, ranks, failed=True)
    ratio = psnr(first, second) if first.shape == second.shape else 0.0
    return Pair(label, ratio >= MIN_PSNR[_all_float32(run)], ranks, ratio)


def _all_float32(run: Run) -> bool:
    seen = [rank.get("found") or {} for outcome in run.outcome.values() for rank in outcome.get("ranks", ())]
    return not any({"bfloat16", "float16"} & set(counted) for found in seen for counted in found.get("weights", {}).values())


def are_different(pairs: Sequence[Pair]) -> bool:
    """Whether the pairs show different work: one pair of videos is enough; for texts see the module's docstring."""
    unlike = [p for p in pairs if not p.same]
    if any(p.failed or p.psnr is not None for p in unlike):
        return True
    if sum(p.is_cut for p in unlike) > len(pairs) / 2:
        return True
    num_words = sum(p.num_agreed for p in pairs) + len(unlike)
    return len(unlike) > len(pairs) / 2 and len(unlike) > MAX_RATE * num_words


def summary_of(pairs: Sequence[Pair], what: str) -> str:
    unlike = [p for p in pairs if not p.same]
    text = f"{len(pairs) - len(unlike)} of {len(pairs)} answers {what} are the same"
    ratios = [p.psnr for p in pairs if p.psnr is not None and math.isfinite(p.psnr)]
    text += f" ({min(ratios):.1f} dB and more)" if ratios and not unlike else ""
    if unlike:
        first = unlike[0]
        how = (
            f", {first.psnr:.1f} dB"
            if first.psnr is not None
            else ""
            if first.failed
            else f", {'cut' if first.is_cut else 'different'} after {first.num_agreed} words"
        )
        text += f"; first that differs: {first.label}{how}"
    return text
