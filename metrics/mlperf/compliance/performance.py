"""TEST01 and TEST04: whether a compliance test's run is as fast as the run that it belongs to."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path

from metrics.base import Run
from metrics.mlperf.compliance.outputs import compare_answers
from metrics.mlperf.compliance.verdict import Seen, Verdict, pass_line
from workloads.loadgen.logs import LoadGenLog, read_detail

TOLERANCE, TOLERANCE_OF_SHORT = 0.10, 0.20  # of performance; the latter where a stream's latency is under these many nanoseconds
SHORT_NS = {"SingleStream": 200_000, "MultiStream": 1_600_000}


def judge_test01(reference: Run, seen: Seen, own: Path) -> Verdict:
    alike, told, lines = compare_answers(reference, seen, own)
    (own / "verify_accuracy.txt").write_text("\n".join(["Verifying accuracy.", *lines, pass_line(alike)]) + "\n", encoding="utf-8")
    speed = _performance(reference, seen, own, "TEST01", both_ways=True)
    return replace(speed, result="holds" if alike and speed.result == "holds" else "fails", told=f"{told}; {speed.told}")


def judge_test04(reference: Run, seen: Seen, own: Path) -> Verdict:
    asked = {r.sample_index for r in seen.run.records}
    if len(asked) != 1:
        return Verdict("TEST04", "fails", f"LoadGen asked {len(asked)} samples and not one: its settings were not in force")
    return _performance(reference, seen, own, "TEST04", both_ways=False)


def needs_controls(reference: Run, test: str, folder: Path) -> bool:
    """Whether the test's run, in that folder, is not as fast as a VALID run allows, or not VALID itself."""
    before = _detail(reference.folder)
    return before.valid and bool(compared(before, _detail(folder), both_ways=test == "TEST01")[1])


def _detail(folder: Path) -> LoadGenLog:
    return read_detail(folder / "performance/mlperf_log_detail.txt")


def compared(before: LoadGenLog, now: LoadGenLog, both_ways: bool) -> tuple[float | None, str]:
    """How many times as fast as before, and what is wrong with that; both logs must be VALID."""
    wrong = []
    ratio = now.speed / before.speed if now.speed and before.speed else None
    if ratio is None:
        wrong.append("LoadGen gives no score: too few queries for its percentile")
    elif _is_off(ratio, _limit(before), both_ways):
        wrong.append(f"{ratio:.2f}x the speed of the run")
    wrong += [
        f"LoadGen calls {whose} INVALID: {log.why_invalid}" for whose, log in (("the run", before), ("the test", now)) if not log.valid
    ]
    return ratio, "; ".join(wrong)


def _is_off(ratio: float, limit: float, both_ways: bool) -> bool:
    return ratio >= 1 + limit or (both_ways and ratio < 1 - limit)


def _limit(before: LoadGenLog) -> float:
    return TOLERANCE_OF_SHORT if (before.score or 0) <= SHORT_NS.get(before.scenario, -1) else TOLERANCE


def _performance(reference: Run, seen: Seen, own: Path, test: str, both_ways: bool) -> Verdict:
    """LoadGen's own scores against each other; where that does not hold, against controls of the same minute, if there are any."""
    before, now = _detail(reference.folder), seen.log
    limit = _limit(before)
    ratio, wrong = compared(before, now, both_ways)
    lines = ["Verifying performance."]
    lines += [f"WARNING: {len(log.errors)} ERROR reported in {log.path}" for log in (before, now) if log.errors]
    lines += [f"reference score = {before.score}", f"test score = {now.score}"]
    lines += [] if ratio is None else [f"test / reference, as speed = {ratio:.4f}"]
    told = wrong or f"{ratio:.3f}x the speed of the run"
    basis = f"official: {'within' if both_ways else 'less than'} {limit:.0%}{'' if both_ways else ' faster'}"
    beside = _beside(seen.run.folder) if wrong and before.valid else []
    if beside:
        ratio = statistics.median(beside)
        wrong = f"{ratio:.2f}x the speed of its controls" if _is_off(ratio, limit, both_ways) else ""
        shown = ", ".join(f"{r:.3f}" for r in beside)
        lines += [f"not by the official rule: {told}", f"test / control of the same minute, as speed = {shown}; the median counts"]
        told += f"; beside controls of the same minute {shown}"
        basis += ", beside the run's own load in the same minute, median of pairs"
    lines.append("TEST PASS" if not wrong else f"TEST FAIL: {wrong}")
    (own / "verify_performance.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Verdict(test, "fails" if wrong else "holds", told, basis, {} if ratio is None else {"speed_ratio": ratio})


def _beside(folder: Path) -> list[float]:
    """Of each pair that was run after the test, the test's speed over its control's; none where one of them has no score."""
    found = []
    for control in sorted(folder.parent.glob(f"{folder.name}-control-*")):
        speeds = [_detail(f).speed for f in (control, control.with_name(control.name.replace("control", "again")))]
        if speeds[0] is None or speeds[1] is None:
            return []
        found.append(speeds[1] / speeds[0])
    return found
