"""What a compliance test's run says, judged as the official verification scripts do, and in the files that they write.

Sources: mlcommons/inference, compliance/TEST01/verify_performance.py, TEST04/verify_performance.py, TEST06, TEST07 and
TEST09/run_verification.py. Stricter than they are: a query that failed fails the test, and TEST04 keeps to 10 % where the official
script, which compares queries a second with nanoseconds, lets streams pass with 20 %. Gentler, and only outside MLPerf's rules: a
machine that changed since the run is told from a cache by controls (metrics/mlperf/compliance/comply.py, pairs).
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from configs.registry import make
from metrics.base import Run, SampleMetric
from metrics.report.report import QUALITY, load_run
from workloads.loadgen.logs import LoadGenLog, Logged, read_answers, read_detail
from workloads.records import Record

TOLERANCE, TOLERANCE_OF_SHORT = 0.10, 0.20  # of performance; the latter where a stream's latency is under these many nanoseconds
SHORT_NS = {"SingleStream": 200_000, "MultiStream": 1_600_000}
SHARE = 0.99  # of a run's own accuracy, where MLPerf gives no threshold
LENGTH_TOLERANCE = 0.10
ACCURACIES = ("gpt_oss_accuracy", "deepseek_r1_accuracy", "vbench")  # figures of benchmarks, of metrics by the same name
GPT_OSS_ACCURACY, GPT_OSS_LENGTH = 60.698, (1150.38, 1406.02)  # percent; tokens: 1278.2 and a tenth


@dataclass(frozen=True)
class Verdict:
    """told: what was seen, or why nothing could be. basis: the threshold, and whose it is. figures: measured, by name."""

    test: str
    result: Literal["holds", "fails", "not held"]
    told: str
    basis: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)


class Seen(NamedTuple):
    """A test's run, LoadGen's detail log, and the answers that LoadGen kept, each with the Record of its query, if there is one."""

    run: Run
    log: LoadGenLog
    answers: list[tuple[Logged, Record | None]]


def not_held(test: str, why: str) -> Verdict:
    return Verdict(test, "not held", why)


def judge(test: str, reference: Run, target: Path) -> Verdict:
    """Judge the run in target/runs/TESTxx and write target/TESTxx. For rank 0."""
    seen = read_seen(target / "runs" / test)
    own = target / test
    (own / "performance/run_1").mkdir(parents=True)
    (own / "accuracy").mkdir()
    for name in ("mlperf_log_summary.txt", "mlperf_log_detail.txt"):
        shutil.copyfile(seen.run.folder / "performance" / name, own / "performance/run_1" / name)
    if test == "TEST04":
        (own / "accuracy").rmdir()
    else:
        shutil.copyfile(seen.run.folder / "performance/mlperf_log_accuracy.json", own / "accuracy/mlperf_log_accuracy.json")
    verdict = {"TEST01": _test01, "TEST04": _test04, "TEST06": _test06, "TEST07": _test07, "TEST09": _test09}[test](reference, seen, own)
    num_failed = sum(r.status == "failed" for r in seen.run.records)
    if num_failed and verdict.result == "holds":
        first = next(r.error for r in seen.run.records if r.status == "failed")
        return replace(verdict, result="fails", told=f"{num_failed} of {len(seen.run.records)} queries failed, first: {first}")
    return verdict


def read_seen(folder: Path) -> Seen:
    """The run folder of a compliance test."""
    run = load_run(folder)
    by_query = {(r.query_id, r.sample_index): r for r in run.records}
    answers = [(a, by_query.get((a.seq_id, a.qsl_idx))) for a in read_answers(folder / "performance/mlperf_log_accuracy.json")]
    return Seen(run, read_detail(folder / "performance/mlperf_log_detail.txt"), answers)


def _test01(reference: Run, seen: Seen, own: Path) -> Verdict:
    alike, told, lines = _same_answers(reference, seen, own)
    (own / "verify_accuracy.txt").write_text("\n".join(["Verifying accuracy.", *lines, _test_line(alike)]) + "\n", encoding="utf-8")
    speed = _performance(reference, seen, own, "TEST01", both_ways=True)
    return replace(speed, result="holds" if alike and speed.result == "holds" else "fails", told=f"{told}; {speed.told}")


def _same_answers(reference: Run, seen: Seen, own: Path) -> tuple[bool, str, list[str]]:
    """Whether the answers that LoadGen kept are those of accuracy mode; where they differ, whether they score within 1 % of them."""
    accurate = {r.sample_index: r for r in reversed(reference.of_mode("accuracy")) if r.status == "done"}
    pairs = [(record, accurate.get(a.qsl_idx)) for a, record in seen.answers if record is not None]
    same = sum(other is not None and record.digest == other.digest for record, other in pairs)
    told = f"{same} of {len(pairs)} answers are those of accuracy mode"
    lines = [f"{len(seen.answers)} answers logged, {same} equal to those of accuracy mode"]
    if same == len(pairs) == len(seen.answers) and pairs:
        return True, told, lines
    if not pairs or any(other is None for _, other in pairs):
        return False, told, lines
    before = replace(reference, records=[other for _, other in pairs if other is not None])
    now = replace(seen.run, records=[record for record, _ in pairs])
    figures = [quality(run) for run in (before, now)]
    if figures[0] is None or figures[1] is None:
        return False, f"{told}, and no metric of the run scores them", lines
    name, was = figures[0]
    _, is_now = figures[1]
    for file, value in (("baseline", was), ("compliance", is_now)):
        (own / f"accuracy/{file}_accuracy.txt").write_text(f"{name}: {value:.6g}\n", encoding="utf-8")
    limit = 0.001 if str(reference.config.benchmark).endswith("99.9") else 0.01
    within = was > 0 and is_now > 0 and abs(1 - was / is_now) <= limit
    told += f", {name} {is_now:.4g} of them and {was:.4g} in accuracy mode ({'within' if within else 'over'} {limit:.1%})"
    return within, told, [*lines, told]


def _test04(reference: Run, seen: Seen, own: Path) -> Verdict:
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


def _test06(reference: Run, seen: Seen, own: Path) -> Verdict:
    basis = "official: no answer is an exception"
    kept = [(a, ids, r) for a, r in seen.answers if r is not None and (ids := tokens(a, r)) is not None]
    missing = len(seen.answers) - len([r for _, r in seen.answers if r is not None])
    if len(kept) < len(seen.answers) - missing or not kept:
        return Verdict("TEST06", "not held", f"pipeline {seen.run.config.pipeline_name!r} gives no token ids (Response.token_ids)", basis)
    announced = [(a, ids) for a, ids, _ in kept if a.token_data is not None]
    wrong_first = [a for a, ids in announced if _words(a.token_data or "").tolist() != ids[:1].tolist()]
    ends = {int(ids[-1]) for _, ids, r in kept if len(ids) and r.finish_reason == "stop"}
    two_ends = [a for a, ids, _ in kept if _num_trailing(ids, ends) > 1 and len(ids) > 2]  # two of them and nothing else are allowed
    wrong_count = [a for a, ids, r in kept if len(ids) != (r.num_units if a.token_count is None else a.token_count)]
    passed = not (wrong_first or two_ends or wrong_count or missing)
    first = "Skipped" if not announced else str(not wrong_first)
    passed = not (wrong_first or two_ends or wrong_count or missing)
    lines = [
        f"First token check pass: {first}",
        f"EOS check pass: {not two_ends}",
        f"Sample length check pass: {not wrong_count and not missing}",
        f"TEST06 verification {'complete' if passed else 'failed'}",
    ]
    (own / "verify_accuracy.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    faults = [
        f"{len(wrong_first)} first tokens are not the answers'" if wrong_first else "",
        f"{len(two_ends)} answers end in more than one end token" if two_ends else "",
        f"{len(wrong_count)} answers have another number of tokens than was told" if wrong_count else "",
        f"{missing} answers belong to no query" if missing else "",
    ]
    good = f"{len(kept)} answers; first tokens {'as announced' if announced else 'not announced in this scenario'}"
    return Verdict("TEST06", "holds" if passed else "fails", "; ".join(f for f in faults if f) or good, basis)


def _test07(reference: Run, seen: Seen, own: Path) -> Verdict:
    official = reference.config.benchmark == "gpt-oss-120b"
    found, before = (_of_gpqa(seen.run), None) if official else (quality(seen.run), quality(reference))
    if found is None or (before is None and not official):
        return Verdict("TEST07", "not held", "no metric of the run scores its answers")
    name, value = found
    if official:
        value, threshold, basis = 100 * value, GPT_OSS_ACCURACY, "official: 60.698 on GPQA"
    else:
        assert before is not None
        threshold, basis = SHARE * before[1], f"{SHARE:.0%} of the run's own {name}, {before[1]:.4g}"
    samples = {r.sample_index for r in seen.run.records}
    passed = value >= threshold and (official or len(samples) == len(seen.run.samples))
    lines = [
        f"'{name}': {value:.6g} ({len(seen.run.records)} answers, {len(samples)} of {len(seen.run.samples)} samples)",
        "TEST07 Verification Summary",
        f"Accuracy score: {value:.6g}",
        f"Accuracy threshold: {threshold:.6g}",
        f"Accuracy check pass: {passed}",
        _test_line(passed),
    ]
    (own / "verify_accuracy.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    told = f"{name} is {value:.4g} over {len(samples)} samples in performance mode"
    return Verdict("TEST07", "holds" if passed else "fails", told, f"at least {threshold:.4g}: {basis}", {name: value})


def _test09(reference: Run, seen: Seen, own: Path) -> Verdict:
    logged = [(r, tokens(a, r)) for a, r in seen.answers if r is not None]
    lengths = [r.num_units if ids is None else len(ids) for r, ids in logged]
    counted = all(ids is not None for _, ids in logged)
    if not lengths:
        return Verdict("TEST09", "not held", "no answer was logged")
    if reference.config.benchmark == "gpt-oss-120b":
        (low, high), basis = GPT_OSS_LENGTH, "official"
    else:
        before = statistics.fmean(r.num_units for r in reference.judged if r.status == "done")
        low, high = before * (1 - LENGTH_TOLERANCE), before * (1 + LENGTH_TOLERANCE)
        basis = f"within {LENGTH_TOLERANCE:.0%} of the run's own mean, {before:.4g}"
    mean = statistics.fmean(lengths)
    passed = low <= mean <= high
    lines = [
        "TEST09: Verify Output Token Length in Performance Mode",
        f"Total samples: {len(lengths)}",
        f"Mean output tokens: {mean:.2f}",
        f"Min output tokens: {min(lengths)}",
        f"Max output tokens: {max(lengths)}",
        f"Std deviation: {statistics.pstdev(lengths):.2f}",
        f"Min threshold: {low:.2f}",
        f"Max threshold: {high:.2f}",
        f"Min check pass: {mean >= low}",
        f"Max check pass: {mean <= high}",
        _test_line(passed),
    ]
    (own / "verify_output_len.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    told = f"mean {mean:.4g} tokens of {len(lengths)} answers" + ("" if counted else ", as the pipeline counts them")
    return Verdict("TEST09", "holds" if passed else "fails", told, f"{low:.4g} to {high:.4g}: {basis}", {"mean_tokens": mean})


def _of_gpqa(run: Run) -> tuple[str, float] | None:
    """What TEST07 of gpt-oss looks at, whatever the run's metrics; None where no answer is to a question of GPQA."""
    figure = make("metrics", "gpt_oss_accuracy", {}).compute(run).get("gpt_oss_gpqa")
    return None if figure is None or figure.value is None else ("gpt_oss_gpqa", figure.value)


def quality(run: Run) -> tuple[str, float] | None:
    """The figure that says most of the answers' quality, of the metrics that the run asks for; None where none scores them."""
    figures: dict[str, float | None] = {}
    for name in run.config.metrics or run.workload.default_metrics:
        metric = make("metrics", name, {})
        if isinstance(metric, SampleMetric) or name in ACCURACIES:
            figures |= {found: figure.value for found, figure in metric.compute(run).items()}
    return next(((name, value) for name in (*ACCURACIES, *QUALITY) if (value := figures.get(name)) is not None), None)


def tokens(answer: Logged, record: Record) -> NDArray[np.int32] | None:
    """Ids of the answer's tokens; None where LoadGen was given its digest, by a pipeline that tells no ids."""
    return None if record.digest and answer.data.lower() == record.digest else _words(answer.data)


def _words(data: str) -> NDArray[np.int32]:
    return np.frombuffer(bytes.fromhex(data), dtype="<i4")


def _num_trailing(ids: NDArray[np.int32], ends: set[int]) -> int:
    count = 0
    while count < len(ids) and int(ids[-1 - count]) in ends:
        count += 1
    return count


def _test_line(passed: bool) -> str:
    return "TEST PASS" if passed else "TEST FAIL"
