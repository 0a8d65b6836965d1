"""TEST06, TEST07 and TEST09, and TEST01's comparison of answers: checks of the answers given in performance mode."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from configs.registry import make
from metrics.base import Run, SampleMetric
from metrics.mlperf.compliance.verdict import CompletedTest, Verdict, pass_line
from metrics.report.figures import headline_names
from workloads.loadgen.logs import Logged
from workloads.records import Record

SHARE = 0.99  # of a run's own accuracy, where MLPerf gives no threshold
LENGTH_TOLERANCE = 0.10
ACCURACIES = ("gpt_oss_accuracy", "deepseek_r1_accuracy", "vbench")  # figures of benchmarks; each has the name of its metric
GPT_OSS_ACCURACY, GPT_OSS_LENGTH = 60.698, (1150.38, 1406.02)  # percent; tokens: 1278.2 +- 10 %


def compare_answers(reference: Run, completed: CompletedTest, folder: Path) -> tuple[bool, str, list[str]]:
    """Compare the answers that LoadGen logged with those of accuracy mode. Where they differ, they must score within 1 %, or 0.1 %.

    Returns whether they pass, the message, and lines for verify_accuracy.txt.
    """
    accurate = {r.sample_index: r for r in reversed(reference.of_mode("accuracy")) if r.status == "done"}
    pairs = [(record, accurate.get(a.qsl_idx)) for a, record in completed.answers if record is not None]
    same = sum(other is not None and record.digest == other.digest for record, other in pairs)
    message = f"{same} of {len(pairs)} answers are those of accuracy mode"
    lines = [f"{len(completed.answers)} answers logged, {same} equal to those of accuracy mode"]
    if same == len(pairs) == len(completed.answers) and pairs:
        return True, message, lines
    if not pairs or any(other is None for _, other in pairs):
        return False, message, lines
    before = replace(reference, records=[other for _, other in pairs if other is not None])
    now = replace(completed.run, records=[record for record, _ in pairs])
    figures = quality(before), quality(now)
    if figures[0] is None or figures[1] is None:
        return False, f"{message}, and no metric of the run scores them", lines
    name, expected = figures[0]
    _, measured = figures[1]
    for file, value in (("baseline", expected), ("compliance", measured)):
        (folder / f"accuracy/{file}_accuracy.txt").write_text(f"{name}: {value:.6g}\n", encoding="utf-8")
    limit = 0.001 if str(reference.config.benchmark).endswith("99.9") else 0.01
    within = expected > 0 and measured > 0 and abs(1 - expected / measured) <= limit
    message += f", {name} {measured:.4g} of them and {expected:.4g} in accuracy mode ({'within' if within else 'over'} {limit:.1%})"
    return within, message, [*lines, message]


def judge_test06(reference: Run, completed: CompletedTest, folder: Path) -> Verdict:
    basis = "official: no answer is an exception"
    logged = [(a, ids, r) for a, r in completed.answers if r is not None and (ids := token_ids(a, r)) is not None]
    num_unmatched = sum(r is None for _, r in completed.answers)
    if len(logged) < len(completed.answers) - num_unmatched or not logged:
        return Verdict("TEST06", "not held", f"pipeline {completed.run.config.pipeline_name!r} returns no token ids", basis)
    announced = [(a, ids) for a, ids, _ in logged if a.token_data is not None]
    wrong_first = [a for a, ids in announced if _decode_ids(a.token_data or "").tolist() != ids[:1].tolist()]
    ends = {int(ids[-1]) for _, ids, r in logged if len(ids) and r.finish_reason == "stop"}
    two_ends = [a for a, ids, _ in logged if _num_trailing(ids, ends) > 1 and len(ids) > 2]  # two of them and nothing else are allowed
    wrong_count = [a for a, ids, r in logged if len(ids) != (r.num_units if a.token_count is None else a.token_count)]
    first = "Skipped" if not announced else str(not wrong_first)
    passed = not (wrong_first or two_ends or wrong_count or num_unmatched)
    lines = [
        f"First token check pass: {first}",
        f"EOS check pass: {not two_ends}",
        f"Sample length check pass: {not wrong_count and not num_unmatched}",
        f"TEST06 verification {'complete' if passed else 'failed'}",
    ]
    (folder / "verify_accuracy.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    problems = [
        f"{len(wrong_first)} first tokens are not the answers'" if wrong_first else "",
        f"{len(two_ends)} answers end in more than one end token" if two_ends else "",
        f"{len(wrong_count)} answers have a different number of tokens than was reported" if wrong_count else "",
        f"{num_unmatched} answers belong to no query" if num_unmatched else "",
    ]
    good = f"{len(logged)} answers; first tokens {'as announced' if announced else 'not announced in this scenario'}"
    return Verdict("TEST06", "holds" if passed else "fails", "; ".join(f for f in problems if f) or good, basis)


def judge_test07(reference: Run, completed: CompletedTest, folder: Path) -> Verdict:
    official = reference.config.benchmark == "gpt-oss-120b"
    figure, before = (_gpqa_accuracy(completed.run), None) if official else (quality(completed.run), quality(reference))
    if figure is None or (before is None and not official):
        return Verdict("TEST07", "not held", "no metric of the run scores its answers")
    name, value = figure
    if official:
        value, threshold, basis = 100 * value, GPT_OSS_ACCURACY, "official: 60.698 on GPQA"
    else:
        assert before is not None
        threshold, basis = SHARE * before[1], f"{SHARE:.0%} of the run's own {name}, {before[1]:.4g}"
    samples = {r.sample_index for r in completed.run.records}
    passed = value >= threshold and (official or len(samples) == len(completed.run.samples))
    lines = [
        f"'{name}': {value:.6g} ({len(completed.run.records)} answers, {len(samples)} of {len(completed.run.samples)} samples)",
        "TEST07 Verification Summary",
        f"Accuracy score: {value:.6g}",
        f"Accuracy threshold: {threshold:.6g}",
        f"Accuracy check pass: {passed}",
        pass_line(passed),
    ]
    (folder / "verify_accuracy.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    message = f"{name} is {value:.4g} over {len(samples)} samples in performance mode"
    return Verdict("TEST07", "holds" if passed else "fails", message, f"at least {threshold:.4g}: {basis}", {name: value})


def judge_test09(reference: Run, completed: CompletedTest, folder: Path) -> Verdict:
    logged = [(r, token_ids(a, r)) for a, r in completed.answers if r is not None]
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
        pass_line(passed),
    ]
    (folder / "verify_output_len.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    message = f"mean {mean:.4g} tokens of {len(lengths)} answers" + ("" if counted else ", as the pipeline counts them")
    return Verdict("TEST09", "holds" if passed else "fails", message, f"{low:.4g} to {high:.4g}: {basis}", {"mean_tokens": mean})


def _gpqa_accuracy(run: Run) -> tuple[str, float] | None:
    """The figure that gpt-oss's TEST07 judges, whatever the run's metrics; None where no answer is to a question of GPQA."""
    figure = make("metrics", "gpt_oss_accuracy", {}).compute(run).get("gpt_oss_gpqa")
    return None if figure is None or figure.value is None else ("gpt_oss_gpqa", figure.value)


def quality(run: Run) -> tuple[str, float] | None:
    """The first figure of ACCURACIES, or else headline figure, among the run's metrics; None where no metric scores its answers."""
    figures: dict[str, float | None] = {}
    for name in run.metric_names:
        metric = make("metrics", name, {})
        if isinstance(metric, SampleMetric) or name in ACCURACIES:
            figures |= {key: figure.value for key, figure in metric.compute(run).items()}
    return next(((name, value) for name in (*ACCURACIES, *headline_names([run])) if (value := figures.get(name)) is not None), None)


def token_ids(answer: Logged, record: Record) -> NDArray[np.int32] | None:
    """Ids of the answer's tokens; None where LoadGen has the answer's digest, because the pipeline returns no ids."""
    return None if record.digest and answer.data.lower() == record.digest else _decode_ids(answer.data)


def _decode_ids(data: str) -> NDArray[np.int32]:
    return np.frombuffer(bytes.fromhex(data), dtype="<i4")


def _num_trailing(ids: NDArray[np.int32], ends: set[int]) -> int:
    count = 0
    while count < len(ids) and int(ids[-1 - count]) in ends:
        count += 1
    return count
