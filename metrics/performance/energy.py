"""Energy per valid token or video, and mean power of the devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

from configs.registry import register
from metrics.base import Figure, Metric, Run
from workloads.run_folder.power_log import PowerSample, read_power

MIN_SAMPLES = 10  # within the timed test, of each device
MAX_GAP_S = 1.0  # between two samples of a counter, which counts all the time
MAX_GAP_INTEGRATED_S = 0.5  # between two samples of power, which is integrated
OVER_LIMIT, OVER_MEDIAN = 2.0, 10.0  # times the power limit, or the median power: a counter that rises faster has jumped
RISE_S = 1.0  # the least time between two compared values: counters are updated every 20 to 100 ms, samples fall in between
MIN_RISES = 3  # that a median needs, where the device's power limit is not known
DISAGREE = 0.25  # relative, between a counter and the power readings
CLOCK_SHARE = 0.01  # of the test's duration: the largest clock error of a rank

NAMES = ("energy_valid", "energy_per_token", "energy_per_video")


class Spent(NamedTuple):
    """energy_j: of all devices in the timed test. how: by which kind of reading."""

    energy_j: float
    num_devices: int
    how: str


@register("energy")
@dataclass(frozen=True)
class Energy(Metric):
    """Energy of the run's devices between the first issue and the last completion of the timed test. Lower is better.

    energy_per_token = energy / tokens of finished answers; energy_per_video = energy / finished videos; mean_power = energy / time
    Energy is the difference of each device's counter at the two ends, interpolated between the samples around them; where a device has no
    counter, its power is integrated, and the note names that. Failed queries count in the energy and not in the answers.
    energy_valid is 1 where every device was measured throughout. Else it is 0 and no other figure is given; its note names the sample,
    device or counter at fault. Nothing is estimated. Hosts, fans and losses before the device are not counted.
    """

    def compute(self, run: Run) -> Mapping[str, Figure]:
        outcome = run.outcome.get("performance", {})
        meters = outcome.get("power", [])
        if all(meter["off"] for meter in meters):
            return {}
        records = run.of_mode("performance")
        done = [r for r in records if r.status == "done"]
        by_token = run.workload.unit == "tokens"
        count = sum(r.num_units for r in done) if by_token else len(done)
        name, unit = ("energy_per_token", "J/token") if by_token else ("energy_per_video", "J/video")
        try:
            if outcome.get("aborted"):
                raise ValueError("the timed test was aborted")
            if not count:
                raise ValueError("no query was answered")
            begin_s, end_s = min(r.issued_s for r in records), max(r.completed_s for r in records)
            _check_clocks(outcome["ranks"], end_s - begin_s)
            spent = energy_of(meters, outcome["num_ranks"], read_power(run.folder, "performance"), begin_s, end_s)
        except ValueError as why:
            missing = {n: Figure(None, u, "lower", 0, note=str(why)) for n, u in ((name, unit), ("mean_power", "W"))}
            return {"energy_valid": Figure(0.0, "", "higher", 0, note=str(why)), **missing}
        n, power_w = spent.num_devices, spent.energy_j / (end_s - begin_s)
        return {
            "energy_valid": Figure(1.0, "", "higher", n, note=spent.how),
            name: Figure(spent.energy_j / count, unit, "lower", count, note=spent.how),
            "mean_power": Figure(power_w, "W", "lower", n, note=spent.how),
        }


def withheld(figures: Mapping[str, Figure]) -> dict[str, Figure]:
    """The figures of an INVALID run, without energy: none of its answers is valid, so there is no energy per valid answer."""
    why = "withheld: the run is INVALID, so none of its answers counts"
    changed = {n: replace(f, value=None, note=why) for n, f in figures.items() if n in NAMES and f.value is not None}
    if "energy_valid" in changed:
        changed["energy_valid"] = replace(changed["energy_valid"], value=0.0)
    return {**figures, **changed}


def energy_of(
    meters: Sequence[Mapping[str, Any]], num_ranks: int, samples: Mapping[int, Sequence[PowerSample]], begin_s: float, end_s: float
) -> Spent:
    """Energy of all devices from begin_s to end_s. Raises ValueError where one of them was not measured throughout."""
    by_rank = {meter["rank"]: meter for meter in meters}
    if silent := sorted(set(range(num_ranks)) - by_rank.keys()):
        raise ValueError(f"rank {silent[0]} did not report how its device is measured; {len(silent)} of {num_ranks} ranks did not")
    if failed := next((m for _, m in sorted(by_rank.items()) if m["error"] or m["off"]), None):
        raise ValueError(f"the device of rank {failed['rank']} is not measured: {failed['error'] or 'its sampling is off'}")
    devices: dict[str, int] = {}
    for rank in sorted(by_rank):
        devices.setdefault(by_rank[rank]["device"], rank)  # ranks that share a counter: the first one's samples, once
    total, ways = 0.0, set()
    for device, rank in devices.items():
        try:
            energy_j, way = _of_device(samples.get(rank, ()), by_rank[rank]["limit_w"], begin_s, end_s)
        except ValueError as why:
            raise ValueError(f"device {device} (rank {rank}): {why}") from None
        total += energy_j
        ways.add(f"{by_rank[rank]['source']}'s {way}")
    num = len(devices)
    return Spent(total, num, f"{num} device{'s' * (num > 1)}, by {' and '.join(sorted(ways))}; hosts are not counted")


def _check_clocks(ranks: Sequence[Mapping[str, Any]], test_s: float) -> None:
    for rank in ranks:
        error_s = rank["clock_error_s"]
        if error_s is None or error_s > CLOCK_SHARE * test_s:
            known = "not known" if error_s is None else f"only known to {error_s:.3g} s"
            raise ValueError(f"the clock offset of rank {rank['rank']} is {known}, in a test of {test_s:.3g} s")


def _of_device(samples: Sequence[PowerSample], limit_w: float | None, begin_s: float, end_s: float) -> tuple[float, str]:
    if broken := next((s for s in samples if s.error and begin_s <= s.at_s <= end_s), None):
        raise ValueError(f"reading it failed {broken.at_s:.1f} s into the test: {broken.error}")
    counted = [(s.at_s, s.energy_j) for s in samples if s.energy_j is not None]
    drawn = [(s.at_s, s.power_w) for s in samples if s.power_w is not None]
    if not counted:
        around = _around(drawn, begin_s, end_s, MAX_GAP_INTEGRATED_S)
        return _integral(around, begin_s, end_s), "power readings, integrated"
    around = _around(counted, begin_s, end_s, MAX_GAP_S)
    _check_counter(around, limit_w)
    energy_j = _at(around, end_s) - _at(around, begin_s)
    if energy_j <= 0:
        raise ValueError("its energy counter did not change during the test")
    if sum(begin_s <= at_s <= end_s for at_s, _ in drawn) >= MIN_SAMPLES:
        by_power = _integral(_around(drawn, begin_s, end_s, MAX_GAP_S), begin_s, end_s)
        if abs(by_power - energy_j) > DISAGREE * energy_j:
            raise ValueError(f"its counter gives {energy_j:.4g} J and its power readings {by_power:.4g} J: one of them is wrong")
    return energy_j, "energy counter"


def _around(points: Sequence[tuple[float, float]], begin_s: float, end_s: float, max_gap_s: float) -> list[tuple[float, float]]:
    """The points from the last one before the test to the first one after it. Raises ValueError where they are too sparse."""
    within = sum(begin_s <= at_s <= end_s for at_s, _ in points)
    if within < MIN_SAMPLES:
        raise ValueError(f"{within} samples in a test of {end_s - begin_s:.2f} s; at least {MIN_SAMPLES} are needed: make the test longer")
    if points[0][0] > begin_s or points[-1][0] < end_s:
        raise ValueError(f"its samples cover {points[0][0]:.2f} to {points[-1][0]:.2f} s, the test {begin_s:.2f} to {end_s:.2f} s")
    first = max(i for i, (at_s, _) in enumerate(points) if at_s <= begin_s)
    last = min(i for i, (at_s, _) in enumerate(points) if at_s >= end_s)
    around = list(points[first : last + 1])
    before, after = max(pairwise(around), key=lambda pair: pair[1][0] - pair[0][0])
    if after[0] - before[0] > max_gap_s:
        raise ValueError(f"no sample for {after[0] - before[0]:.2f} s from {before[0]:.2f} s on; at most {max_gap_s:g} s are allowed")
    return around


def _check_counter(points: Sequence[tuple[float, float]], limit_w: float | None) -> None:
    """Raises ValueError where the counter fell, as after a reset, or rose faster than the device can draw power."""
    for (at_s, low), (_, high) in pairwise(points):
        if high < low:
            raise ValueError(f"its energy counter fell from {low:.6g} to {high:.6g} J {at_s:.1f} s into the test: it was reset")
    rises = []
    since = 0
    for i, (at_s, energy_j) in enumerate(points):
        if at_s - points[since][0] >= RISE_S or i == len(points) - 1 > since:
            rises.append(((energy_j - points[since][1]) / max(at_s - points[since][0], RISE_S), at_s))
            since = i
    if not limit_w and len(rises) < MIN_RISES:
        raise ValueError(f"jumps of its energy counter cannot be detected in under {MIN_RISES * RISE_S:g} s: make the test longer")
    most_w = limit_w * OVER_LIMIT if limit_w else OVER_MEDIAN * median(power_w for power_w, _ in rises)
    power_w, at_s = max(rises)
    if power_w > most_w:
        raise ValueError(f"its energy counter jumped: {power_w:.4g} W {at_s:.1f} s into the test; at most {most_w:.4g} W are plausible")


def _at(points: Sequence[tuple[float, float]], at_s: float) -> float:
    """The value at that time, interpolated between the two points around it."""
    for (left_s, low), (right_s, high) in pairwise(points):
        if left_s <= at_s <= right_s:
            return low + (high - low) * (at_s - left_s) / (right_s - left_s) if right_s > left_s else high
    raise AssertionError("the points lie around the test")


def _integral(points: Sequence[tuple[float, float]], begin_s: float, end_s: float) -> float:
    """Energy: power integrated over the test by the trapezoidal rule."""
    inner = [(begin_s, _at(points, begin_s)), *((t, w) for t, w in points if begin_s < t < end_s), (end_s, _at(points, end_s))]
    return sum((right_s - left_s) * (a + b) / 2 for (left_s, a), (right_s, b) in pairwise(inner))
