"""The length of summaries as MLPerf counts it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from metrics.base import Run
from metrics.mlperf.accuracy.generation_length import GenerationLength
from metrics.quality.rouge import Rouge
from tests.conftest import record

MakeRun = Callable[..., Run]


def test_rouge_and_length_of_summaries_as_mlperf_counts_them(make_text_run: MakeRun) -> None:
    metas = [{"scored_by": "rouge", "answer": "a b c"}] * 3 + [{"scored_by": "gpqa", "answer": "A"}]
    records = [record(0, text=" One.  Two. "), record(1, text="a b"), record(2, status="failed", text="lost"), record(3, text="A")]
    run = make_text_run(records, metas)
    length = GenerationLength().compute(run)["generation_length"]
    assert (length.value, length.unit, length.n) == (len("One.\nTwo.") + len("a b"), "characters", 3)
    # F of `a b` against `a b c`: 2 x 1 x 2/3 / (1 + 2/3) = 0.8; the other two share nothing
    assert Rouge().compute(run)["rouge_1"].value == pytest.approx(0.8 / 3)
