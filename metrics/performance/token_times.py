"""When tokens came, of many answers at once: a million answers of 25 tokens take seconds, one after another they take minutes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from workloads.records import Record

CHUNK = 4096  # answers: their times are sums from the first of them on, and lose no digits in so short a sum


def token_gaps(records: Sequence[Record]) -> NDArray[np.float64]:
    """All seconds between one token of an answer and the next."""
    num_gaps = sum(len(r.token_gap_s) for r in records)
    return np.fromiter(chain.from_iterable(r.token_gap_s for r in records), float, num_gaps)


def token_times(records: Sequence[Record]) -> NDArray[np.float64]:
    """Times of all tokens of answers that have a first token and all gaps; answer by answer."""
    times = np.empty(sum(len(r.token_gap_s) + 1 for r in records))
    filled = 0
    for at in range(0, len(records), CHUNK):
        part = _times(records[at : at + CHUNK])
        times[filled : filled + len(part)] = part
        filled += len(part)
    return times


def token_times_or_spread(records: Sequence[Record]) -> NDArray[np.float64]:
    """Times of all tokens of finished answers; evenly spread where only the first, or only the end, is known. In no order."""
    done = [r for r in records if r.status == "done" and r.num_units]
    exact = [r.first_token_s is not None and len(r.token_gap_s) == r.num_units - 1 for r in done]
    known = token_times([r for r, known in zip(done, exact, strict=True) if known])
    return np.concatenate([known, *(_spread(r) for r, known in zip(done, exact, strict=True) if not known)])


def _times(records: Sequence[Record]) -> NDArray[np.float64]:
    counts = np.array([len(r.token_gap_s) + 1 for r in records])
    starts = np.cumsum(counts) - counts
    steps = np.fromiter(chain.from_iterable((r.first_token_s or 0.0, *r.token_gap_s) for r in records), float, int(counts.sum()))
    sums = np.cumsum(steps)
    return np.asarray(sums - np.repeat(sums[starts] - steps[starts], counts))


def _spread(record: Record) -> NDArray[np.float64]:
    if record.first_token_s is None:
        start = record.issued_s if record.started_s is None else record.started_s
        return np.linspace(start, record.completed_s, record.num_units + 1)[1:]
    return np.linspace(record.first_token_s, record.completed_s, record.num_units)
