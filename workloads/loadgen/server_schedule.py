"""The times at which LoadGen's server scenario schedules its queries, computed from its seed.

LoadGen's latencies start at the scheduled time, which it does not pass to the system under test: a query that is issued late has already
waited. To measure the same from the suite's own records, the schedule is drawn again here.

    gap = -ln(1 - u) / target_qps, u from std::mt19937(schedule_rng_seed)
Source: mlcommons/inference, loadgen/loadgen.cc (GenerateQueries) and utils.h (ScheduleDistribution); libstdc++'s
generate_canonical<double, 53>, which takes two draws, low word first, and exponential_distribution.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def server_schedule(seed: int, target_qps: float, count: int) -> NDArray[np.float64]:
    """Seconds from the test's start at which each of the first `count` queries is scheduled, ascending from 0."""
    import numpy as np  # here: the conductor imports this module and draws no schedule

    bits = np.random.MT19937()
    bits._legacy_seeding(seed % 2**32)
    words = bits.random_raw(2 * max(count - 1, 0)).astype(np.float64)
    uniform = (words[0::2] + words[1::2] * 2.0**32) / 2.0**64
    gaps_ns = np.floor(-np.log1p(-uniform) / target_qps * 1e9)
    return np.concatenate([[0.0], np.cumsum(gaps_ns)])[:count] / 1e9
