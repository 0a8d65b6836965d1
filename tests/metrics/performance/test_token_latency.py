from __future__ import annotations

from collections.abc import Callable

import pytest

from metrics.base import Run
from metrics.performance.token_latency import TokenLatency
from tests.conftest import record

MakeRun = Callable[..., Run]


def answer(query_id: int, **fields: object) -> object:
    """Issued at 0 s, begun at 1 s, first token at 2 s, done at 6 s with five tokens."""
    values = {"started_s": 1.0, "first_token_s": 2.0, "completed_s": 6.0, "num_units": 5, "token_gap_s": [0.5, 0.5, 1.0, 2.0]}
    return record(query_id, **values | fields)


def test_waits_are_counted_from_the_scheduled_issue(make_text_run: MakeRun) -> None:
    figures = TokenLatency().compute(make_text_run([answer(0), answer(1, issued_s=-2.0)], scenario="server"))
    assert figures["ttft_mean"].value == pytest.approx(3.0)  # 2 and 4
    assert figures["tpot_mean"].value == pytest.approx(1.0)  # 4 s for 4 tokens after the first
    assert figures["queue_mean"].value == pytest.approx(2.0)  # 1 and 3
    assert figures["itl_mean"].value == pytest.approx(1.0)
    assert (figures["ttft_mean"].n, figures["itl_mean"].n) == (2, 8)


def test_percentiles_have_bounds_where_values_are_independent(make_text_run: MakeRun) -> None:
    records = [answer(i, first_token_s=float(i + 1), completed_s=200.0) for i in range(100)]
    figures = TokenLatency().compute(make_text_run(records, scenario="interactive", load={"interactive": {"target_ttft_s": 1.0}}))
    assert figures["ttft_p90"].value == 91
    assert figures["ttft_p90_bound"].value == 98
    assert figures["ttft_p99"].note == "n too small: p99 needs 662"
    assert figures["itl_p90"].value == 2.0
    assert not any(name.startswith(("itl", "queue")) and name.endswith("bound") for name in figures)


def test_offline_has_no_ttft_but_the_first_token_in_service(make_text_run: MakeRun) -> None:
    figures = TokenLatency().compute(make_text_run([answer(0), answer(1, started_s=50.0, first_token_s=53.0, completed_s=57.0)]))
    assert figures["first_token_in_service_mean"].value == pytest.approx(2.0)  # 1 and 3
    assert "not TTFT" in figures["first_token_in_service_mean"].note
    assert not any(name.startswith(("ttft", "queue")) for name in figures)


def test_a_failed_query_waited_until_it_was_abandoned(make_text_run: MakeRun) -> None:
    failed = record(1, status="failed", completed_s=60.0)
    figures = TokenLatency().compute(make_text_run([answer(0), failed], scenario="server"))
    assert figures["ttft_mean"].value == pytest.approx(31.0)
    assert figures["tpot_mean"].n == 1


def test_an_answer_whose_first_token_was_never_announced_waited_until_its_end(make_text_run: MakeRun) -> None:
    """Else a pipeline could leave its slow queries out of TTFT."""
    figures = TokenLatency().compute(make_text_run([answer(0), answer(1, first_token_s=None, completed_s=60.0)], scenario="server"))
    assert figures["ttft_mean"].value == pytest.approx(31.0)
    assert figures["ttft_mean"].n == 2


def test_an_answer_of_one_token_has_no_tpot(make_text_run: MakeRun) -> None:
    figures = TokenLatency().compute(make_text_run([answer(0, num_units=1, token_gap_s=[])], scenario="server"))
    assert "ttft_mean" in figures
    assert "tpot_mean" not in figures


def test_a_pipeline_that_does_not_stream_has_no_token_latencies(make_text_run: MakeRun) -> None:
    assert TokenLatency().compute(make_text_run([record(0, num_units=5)], scenario="server")) == {}
