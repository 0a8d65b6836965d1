from __future__ import annotations

from collections.abc import Callable

import pytest

from metrics.base import Run
from metrics.performance.client_lag import ClientLag
from metrics.validity.client_lag import checks
from tests.conftest import record


@pytest.mark.parametrize(
    ("lag_s", "ttft_s", "result"),
    [(0.0024, 0.05, "holds"), (0.0026, 0.05, "differs"), (0.00019, 0.001, "holds"), (0.0003, 0.001, "differs")],
)
def test_a_client_that_is_late_by_more_than_a_twentieth_of_the_ttft_is_the_bottleneck(
    make_run: Callable[..., Run], lag_s: float, ttft_s: float, result: str
) -> None:
    records = [record(i, issued_s=0.0, first_token_s=ttft_s, completed_s=1.0, num_units=9, client_lag_s=lag_s) for i in range(20)]
    run = make_run(records=records, scenario="server")
    (check,) = checks(run)
    assert check.result == result
    assert ("the client was the bottleneck" in check.message) == (result == "differs")
    assert ClientLag().compute(run)["client_lag_p50"].value == lag_s
    allowed = make_run(records=records, scenario="server", allow_fallback=["client_lag"])
    assert checks(allowed)[0].result in ("holds", "allowed")


def test_few_late_moments_count_where_the_report_gives_their_percentile(make_run: Callable[..., Run]) -> None:
    records = [
        record(i, issued_s=0.0, first_token_s=0.05, completed_s=1.0, num_units=9, client_lag_s=0.25 if i % 50 == 0 else 0.0001)
        for i in range(1000)
    ]
    (check,) = checks(make_run(records=records, scenario="server"))
    assert "p99 250 ms of a time to first token of 50 ms" in check.message


def test_an_engine_in_this_process_has_no_such_check(make_run: Callable[..., Run]) -> None:
    run = make_run(records=[record(0)])
    assert (checks(run), ClientLag().compute(run)) == ([], {})
