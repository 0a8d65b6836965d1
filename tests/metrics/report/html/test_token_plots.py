from __future__ import annotations

import numpy as np
import pytest

from metrics.performance.token_times import token_times_or_spread
from metrics.report.html.plots import latency_svg, stages_svg
from metrics.report.html.token_plots import _in_service, occupancy_svg, search_svg, waits_svg
from tests.conftest import record


def test_tokens_are_placed_by_their_gaps_or_spread_evenly() -> None:
    known = record(0, first_token_s=1.0, completed_s=4.0, num_units=3, token_gap_s=[0.5, 2.5])
    assert token_times_or_spread([known]).tolist() == [1.0, 1.5, 4.0]
    spread = record(0, first_token_s=1.0, completed_s=3.0, num_units=3)
    assert token_times_or_spread([spread]).tolist() == [1.0, 2.0, 3.0]
    at_once = record(0, started_s=2.0, completed_s=6.0, num_units=2)
    assert token_times_or_spread([at_once]).tolist() == [4.0, 6.0]
    assert token_times_or_spread([record(0)]).tolist() == []


def test_occupancy_is_the_mean_over_each_stretch() -> None:
    records = [record(0, started_s=0.0, completed_s=2.0), record(1, started_s=1.0, completed_s=1.5)]
    assert _in_service(records, np.array([0.0, 1.0, 2.0, 3.0])).tolist() == pytest.approx([1.0, 1.5, 0.0])


def test_a_limit_is_drawn_with_the_share_that_meets_it() -> None:
    drawn = waits_svg({"ttft": [0.1, 0.2, 0.3, 0.9], "tpot": [0.1]}, {"ttft": 0.5}, 0.9)
    assert "limit 0.5 s for 90% of queries: 75.0% meet it" in drawn
    assert drawn.count("meet it") == 1


def test_many_ranks_are_drawn_as_one_sum() -> None:
    records = [record(i, rank=i, started_s=0.0) for i in range(9)]
    assert "rank 8" not in occupancy_svg(records)
    assert "rank 7" in occupancy_svg(records[:8])


def test_a_search_without_measurements_can_be_drawn() -> None:
    probe = {"target_qps": 4.0, "verdict": "INVALID", "ttft_s": None}
    assert "limit" in search_svg([probe], {"ttft": 1.0}, None)


def test_every_plot_has_the_notice() -> None:
    """A plot may be copied out of the page that has the notice."""
    for drawn in (latency_svg([0.1, 0.2], "latency"), waits_svg({"ttft": [0.1, 0.2]}, {}, 0.9), stages_svg({"draw": 1.0})):
        assert drawn.count("Result not verified by MLCommons Association.") == 1
