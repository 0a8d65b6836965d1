"""TEST01 and TEST04: is the test's run as fast as the run that it belongs to?"""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path

from metrics.base import Run
from metrics.mlperf.compliance.outputs import compare_answers
from metrics.mlperf.compliance.verdict import CompletedTest, Verdict, pass_line
from workloads.loadgen.logs import LoadGenLog, read_detail

TOLERANCE, TOLERANCE_OF_SHORT = 0.10, 0.20  # of performance; the latter where a stream's latency is at most SHORT_NS
SHORT_NS = {"SingleStream": 200_000, "MultiStream": 1_600_000}


def judge_test01(reference: Run, completed: CompletedTest, folder: Path) -> Verdict:
    same, message, lines = compare_answers(reference, completed, folder)
    (folder / "verify_accuracy.txt").write_text("\n".join(["Verifying accuracy.", *lines, pass_line(same)]) + "\n", encoding="utf-8")
    speed = _judge_speed(reference, completed, folder, "TEST01", both_ways=True)
    return replace(speed, result="holds" if same and speed.result == "holds" else "fails", message=f"{message}; {speed.message}")


def judge_test04(reference: Run, completed: CompletedTest, folder: Path) -> Verdict:
    indices = {r.sample_index for r in completed.run.records}
    if len(indices) != 1:
        return Verdict("TEST04", "fails", f"LoadGen issued {len(indices)} different samples instead of 1: its settings were not effective")
    return _judge_speed(reference, completed, folder, "TEST04", both_ways=False)


def needs_controls(reference: Run, test: str, folder: Path) -> bool:
    """Whether the run of the test, in `folder`, is outside the tolerance of a VALID run, or is itself not VALID."""
    before = _read_log(reference.folder)
    return before.valid and bool(compare_speed(before, _read_log(folder), both_ways=test == "TEST01")[1])


def compare_speed(before: LoadGenLog, now: LoadGenLog, both_ways: bool) -> tuple[float | None, str]:
    """Return the speed-up of `now` over `before`, and what is wrong; both logs must be VALID. both_ways: slower is wrong too."""
    problems = []
    ratio = now.speed / before.speed if now.speed and before.speed else None
    if ratio is None:
        problems.append("LoadGen gives no score: too few queries for its percentile")
    elif _is_off(ratio, _tolerance(before), both_ways):
        problems.append(f"{ratio:.2f}x the speed of the run")
    problems += [
        f"LoadGen calls {name} INVALID: {log.why_invalid}" for name, log in (("the run", before), ("the test", now)) if not log.valid
    ]
    return ratio, "; ".join(problems)


def _judge_speed(reference: Run, completed: CompletedTest, folder: Path, test: str, both_ways: bool) -> Verdict:
    """Compare LoadGen's scores. Where they are too far apart and there are control runs, these decide."""
    before, now = _read_log(reference.folder), completed.log
    tolerance = _tolerance(before)
    ratio, problem = compare_speed(before, now, both_ways)
    lines = ["Verifying performance."]
    lines += [f"WARNING: {len(log.errors)} ERROR reported in {log.path}" for log in (before, now) if log.errors]
    lines += [f"reference score = {before.score}", f"test score = {now.score}"]
    lines += [] if ratio is None else [f"test / reference, as speed = {ratio:.4f}"]
    message = problem or f"{ratio:.3f}x the speed of the run"
    basis = f"official: {'within' if both_ways else 'less than'} {tolerance:.0%}{'' if both_ways else ' faster'}"
    ratios = _ratios_to_controls(completed.run.folder) if problem and before.valid else []
    if ratios:
        ratio = statistics.median(ratios)
        problem = f"{ratio:.2f}x the speed of its controls" if _is_off(ratio, tolerance, both_ways) else ""
        listed = ", ".join(f"{r:.3f}" for r in ratios)
        lines += [f"not by the official rule: {message}", f"test / control of the same minute, as speed = {listed}; the median counts"]
        message += f"; compared with controls of the same minute {listed}"
        basis += ", compared with the run's own load in the same minute, median of pairs"
    lines.append("TEST PASS" if not problem else f"TEST FAIL: {problem}")
    (folder / "verify_performance.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Verdict(test, "fails" if problem else "holds", message, basis, {} if ratio is None else {"speed_ratio": ratio})


def _ratios_to_controls(folder: Path) -> list[float]:
    """The test's speed over its control's, of each pair that was run after the test; empty if any run has no score."""
    ratios = []
    for control in sorted(folder.parent.glob(f"{folder.name}-control-*")):
        again = control.with_name(control.name.replace("control", "again"))
        control_speed, test_speed = _read_log(control).speed, _read_log(again).speed
        if control_speed is None or test_speed is None:
            return []
        ratios.append(test_speed / control_speed)
    return ratios


def _read_log(folder: Path) -> LoadGenLog:
    return read_detail(folder / "performance/mlperf_log_detail.txt")


def _is_off(ratio: float, tolerance: float, both_ways: bool) -> bool:
    return ratio >= 1 + tolerance or (both_ways and ratio < 1 - tolerance)


def _tolerance(before: LoadGenLog) -> float:
    return TOLERANCE_OF_SHORT if (before.score or 0) <= SHORT_NS.get(before.scenario, -1) else TOLERANCE
