from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from metrics.base import Run
from metrics.performance.goodput import Goodput
from tests.conftest import record
from tests.metrics.conftest import TOKEN_LIMITS
from workloads.records import Record

MakeRun = Callable[..., Run]


def answer(query_id: int, ttft_s: float = 0.5, tpot_s: float = 0.05, **fields: Any) -> Record:
    values = {"first_token_s": ttft_s, "completed_s": ttft_s + 10 * tpot_s, "num_units": 11}
    return record(query_id, **values | fields)


def test_only_answers_within_every_limit_count(make_text_run: MakeRun) -> None:
    # of 6 queries over 4 s: two are good; one begins late, one is slow, one failed though in time, one is slow
    records = [answer(0), answer(1, completed_s=0.6), answer(2, ttft_s=1.5), answer(3, tpot_s=0.2), answer(4, status="failed")]
    records.append(answer(5, ttft_s=1.0, tpot_s=0.3))
    figures = Goodput().compute(make_text_run(records, scenario="server", **TOKEN_LIMITS))
    assert figures["goodput_per_s"].value == pytest.approx(2 / 4)
    assert figures["goodput_share"].value == pytest.approx(2 / 6)
    assert figures["goodput_share"].n == 6
    assert figures["goodput_share"].ci95 == pytest.approx((0.0968, 0.7000), abs=1e-3)
    assert figures["goodput_share"].note == "within ttft 1 s, tpot 0.1 s"


def test_interactive_has_its_own_limits(make_text_run: MakeRun) -> None:
    load = {**TOKEN_LIMITS["load"], "interactive": {"target_ttft_s": 0.4}}
    figures = Goodput().compute(make_text_run([answer(0), answer(1, ttft_s=0.4)], scenario="interactive", load=load))
    assert figures["goodput_share"].value == 0.5


def test_the_whole_latency_is_judged_where_no_token_is(make_text_run: MakeRun) -> None:
    records = [record(0, completed_s=1.0), record(1, completed_s=3.0)]
    figures = Goodput().compute(make_text_run(records, scenario="server", load={"target_latency_s": 2.0}))
    assert figures["goodput_share"].value == 0.5


def test_an_answer_of_one_token_meets_the_tpot_limit_and_an_unmeasured_one_does_not(make_text_run: MakeRun) -> None:
    short, silent = answer(0, num_units=1, completed_s=0.5), record(1, completed_s=0.5, num_units=11)
    figures = Goodput().compute(make_text_run([short, silent], scenario="server", **TOKEN_LIMITS))
    assert figures["goodput_share"].value == 0.5


@pytest.mark.parametrize("scenario", ["offline", "single_stream", "multi_stream"])
def test_runs_without_random_arrivals_have_no_goodput(make_text_run: MakeRun, scenario: str) -> None:
    assert Goodput().compute(make_text_run([answer(0)], scenario=scenario, **TOKEN_LIMITS)) == {}
