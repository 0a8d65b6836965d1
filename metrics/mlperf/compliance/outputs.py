"""TEST06, TEST07, TEST09, and TEST01's comparison of answers: what the answers given in performance mode are like."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from configs.registry import make
from metrics.base import Run, SampleMetric
from metrics.mlperf.compliance.verdict import Seen, Verdict, pass_line
from metrics.report.figures import QUALITY
from workloads.loadgen.logs import Logged
from workloads.records import Record

SHARE = 0.99  # of a run's own accuracy, where MLPerf gives no threshold
LENGTH_TOLERANCE = 0.10
ACCURACIES = ("gpt_oss_accuracy", "deepseek_r1_accuracy", "vbench")  # figures of benchmarks, of metrics by the same name
GPT_OSS_ACCURACY, GPT_OSS_LENGTH = 60.698, (1150.38, 1406.02)  # percent; tokens: 1278.2 and a tenth


def compare_answers(reference: Run, seen: Seen, own: Path) -> tuple[bool, str, list[str]]:
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


def judge_test06(reference: Run, seen: Seen, own: Path) -> Verdict:
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


def judge_test07(reference: Run, seen: Seen, own: Path) -> Verdict:
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
        pass_line(passed),
    ]
    (own / "verify_accuracy.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    told = f"{name} is {value:.4g} over {len(samples)} samples in performance mode"
    return Verdict("TEST07", "holds" if passed else "fails", told, f"at least {threshold:.4g}: {basis}", {name: value})


def judge_test09(reference: Run, seen: Seen, own: Path) -> Verdict:
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
        pass_line(passed),
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
    for name in run.metric_names:
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
