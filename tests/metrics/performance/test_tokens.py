from __future__ import annotations

from collections.abc import Callable

import pytest

from metrics.base import Run
from metrics.performance.tokens import Tokens
from tests.conftest import record

MakeRun = Callable[..., Run]


def test_tokens_are_counted_over_judged_and_timed_queries(make_text_run: MakeRun) -> None:
    # over 4 s: (10 + 5) + (30 + 7) tokens of the two that were answered
    records = [
        record(0, text="yes", num_units=5, num_input_tokens=10, finish_reason="stop", completed_s=4.0),
        record(1, text="no", num_units=7, num_input_tokens=30, finish_reason="length"),
        record(2, status="failed", num_input_tokens=20),
    ]
    figures = Tokens().compute(make_text_run(records))
    assert figures["total_tokens_per_s"].value == pytest.approx(52 / 4)
    assert figures["tokens_per_sample"].value == pytest.approx(12 / 3)
    assert figures["prompt_tokens_mean"].value == pytest.approx(20)
    assert figures["end_token_share"].value == pytest.approx(1 / 3)
    assert figures["empty_share"].value == 0.0
    assert figures["empty_share"].n == 3
    assert "tokens_per_s" not in figures  # that is throughput's


def test_an_answer_of_an_end_token_alone_is_empty(make_text_run: MakeRun) -> None:
    records = [
        record(0, text="", num_units=1, finish_reason="stop"),
        record(1, text="<end>", num_units=1, finish_reason="stop"),
        record(2, text=" \n", num_units=3, finish_reason="stop"),
        record(3, text="a", num_units=1, finish_reason="length"),
    ]
    assert Tokens().compute(make_text_run(records))["empty_share"].value == 0.75


def test_occupancy_is_weighted_by_time_and_ranks(make_text_run: MakeRun) -> None:
    # rank 0: 2 + 4 query-seconds within 4 s; rank 1: 2 query-seconds within 2 s
    records = [
        record(0, started_s=0.0, completed_s=2.0),
        record(1, started_s=0.0, completed_s=4.0),
        record(2, started_s=1.0, completed_s=3.0, rank=1),
    ]
    assert Tokens().compute(make_text_run(records))["batch_occupancy"].value == pytest.approx(8 / 6)


def test_videos_have_no_tokens(make_run: MakeRun) -> None:
    assert Tokens().compute(make_run(records=[record(0, num_units=9)])) == {}
