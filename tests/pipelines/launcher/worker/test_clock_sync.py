from __future__ import annotations

import numpy as np
import pytest

from pipelines.launcher.worker.clock_sync import DRIFT, ConductorClock

AHEAD_S = 1234.5  # the conductor's clock before ours


def test_the_offset_is_known_within_half_the_shortest_round_trip() -> None:
    rng, clock = np.random.default_rng(0), ConductorClock()
    for i in range(20):
        out_s, back_s = rng.exponential(0.004, 2)
        clock.add_round_trip(float(i), i + out_s + AHEAD_S, i + out_s + back_s)
    brought = clock.of(30.0)
    assert brought is not None
    assert abs(brought - 30.0 - AHEAD_S) <= clock.error_s(20.0)
    assert clock.error_s(20.0) < 0.004


def test_nothing_is_known_before_the_first_round_trip() -> None:
    assert ConductorClock().of(1.0) is None


def test_an_old_round_trip_loses_to_a_new_one_in_time() -> None:
    clock = ConductorClock()
    clock.add_round_trip(0.0, 0.001, 0.002)
    clock.add_round_trip(1.0, 1.015, 1.030)  # worse
    assert clock.offset_s == 0.0
    assert clock.error_s(1000.002) == pytest.approx(0.001 + 1000 * DRIFT)
    clock.add_round_trip(2000.0, 2000.0, 2000.010)  # after so long the better one
    assert clock.offset_s == pytest.approx(-0.005)
