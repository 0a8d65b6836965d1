"""Scores of gpt-oss and deepseek-r1 on answers made by hand, with the arithmetic written out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from metrics.base import Run
from metrics.mlperf.accuracy import code_results
from metrics.mlperf.accuracy.deepseek_r1_accuracy import DeepseekR1Accuracy
from metrics.mlperf.accuracy.gpt_oss_accuracy import GptOssAccuracy
from metrics.quality.exact_match import ExactMatch
from metrics.report.load_run import load_run
from tests.conftest import record
from tests.metrics.conftest import write_run
from tests.metrics.mlperf.accuracy.conftest import final
from workloads.mlperf.datasets import MADE_UP, read_source
from workloads.records import Sample

MakeRun = Callable[..., Run]


def mixture(tmp_path: Path, right: dict[str, int], total: dict[str, int], tested: bool = True) -> Run:
    """Answers of gpt-oss, `right` of `total` of each part right; programs have verdicts if they were tested."""
    answers = {"aime": ("70", r"\boxed{70}", r"\boxed{7}"), "gpqa": ("B", final("B"), final("C"))}
    answers["livecodebench"] = ("q", final("```python\nright\n```"), final("```python\nwrong\n```"))
    samples: list[Sample] = []
    records, verdicts = [], {}
    for part, count in total.items():
        answer, good, bad = answers[part]
        for i in range(count):
            index = len(samples)
            samples.append(Sample(index, f"{part} {i // 2}", {"scored_by": part, "subset": part, "answer": answer}))
            records.append(record(index, text=good if i < right[part] else bad, num_units=5))
            if part == "livecodebench":
                word = "right" if i < right[part] else "wrong"
                verdicts[str(index)] = {"program": code_results._hash(word), "passed": word == "right", "why": ""}
    if tested:
        kept = json.dumps({"schema": code_results.SCHEMA, "verdicts": verdicts})
        (tmp_path / code_results.FILE).write_text(kept, encoding="utf-8")
    folder = write_run(tmp_path, samples, records, dataset={"source": "gpt-oss-accuracy"})
    return load_run(folder)


def test_the_gpt_oss_mixture_weighs_each_part_by_its_repeats(tmp_path: Path) -> None:
    run = mixture(tmp_path, {"aime": 12, "gpqa": 5, "livecodebench": 4}, {"aime": 16, "gpqa": 10, "livecodebench": 6})
    figures = GptOssAccuracy().compute(run)
    # (12/8 + 5/5 + 4/3) / (16/8 + 10/5 + 6/3) = (1.5 + 1 + 1.3333) / 6
    assert figures["gpt_oss_accuracy"].value == pytest.approx((1.5 + 1 + 4 / 3) / 6)
    assert figures["gpt_oss_aime"].value == 0.75
    assert figures["gpt_oss_gpqa"].value == 0.5
    assert figures["gpt_oss_livecodebench"].value == pytest.approx(2 / 3)


def test_mlperf_s_denominator_of_the_full_mixture_is_1283_questions() -> None:
    repeats = GptOssAccuracy.repeats
    counts = {"aime": 240, "gpqa": 990, "livecodebench": 3165}
    assert sum(counts.values()) == 4395
    assert sum(counts[part] / repeats[part] for part in counts) == 30 + 198 + 1055


def test_a_mixture_with_programs_that_were_not_run_has_no_score(tmp_path: Path) -> None:
    run = mixture(tmp_path, {"aime": 1, "gpqa": 1, "livecodebench": 2}, {"aime": 2, "gpqa": 2, "livecodebench": 3}, tested=False)
    figures = GptOssAccuracy().compute(run)
    assert figures["gpt_oss_accuracy"].value is None
    assert "3 of 7 answers hold programs that were not run: suite.py run-code" in figures["gpt_oss_accuracy"].note
    assert figures["gpt_oss_gpqa"].value == 0.5
    assert "gpt_oss_livecodebench" not in figures


def test_failed_answers_and_such_without_a_program_are_wrong(make_text_run: MakeRun) -> None:
    metas = [{"scored_by": "livecodebench", "answer": "q"}, {"scored_by": "gpqa", "answer": "B"}, {"scored_by": "gpqa", "answer": "B"}]
    run = make_text_run([record(0, text="no idea"), record(1, status="failed"), record(2, text="B")], metas)
    figures = GptOssAccuracy().compute(run)
    assert figures["gpt_oss_gpqa"].value == 0.5
    assert figures["gpt_oss_accuracy"].value == pytest.approx((1 / 5) / (2 / 5 + 1 / 3))


def test_deepseek_r1_s_accuracy_is_a_plain_mean_over_five_parts(make_text_run: MakeRun, tmp_path: Path) -> None:
    samples = read_source("deepseek-r1", MADE_UP, "llm")
    right = {
        "11": r"\boxed{11}",
        "16": "Answer: 16",
        r"\frac{3}{8}": r"so \boxed{3/8}",
        "x+6": r"\boxed{6+x}",
        "D": "Answer: D",
        "A": "Answer: A",
        "E": "clearly E",
        "G": "Answer: G",
    }
    texts = [right.get(s.meta["answer"], "```python\nok\n```") for s in samples]
    verdicts = {str(i): {"program": code_results._hash("ok"), "passed": i == 8, "why": ""} for i in (8, 9)}
    (tmp_path / code_results.FILE).write_text(json.dumps({"schema": code_results.SCHEMA, "verdicts": verdicts}), encoding="utf-8")
    texts[0] = "Answer: 12"
    run = make_text_run([record(i, text=t) for i, t in enumerate(texts)], [dict(s.meta) for s in samples], [s.prompt for s in samples])
    figures = DeepseekR1Accuracy().compute(run)
    assert figures["deepseek_r1_accuracy"].value == 8 / 10  # a wrong number, and a program that fails
    assert figures["deepseek_r1_aime"].value == 0.5
    assert figures["deepseek_r1_livecodebench"].value == 0.5
    assert {figures[f"deepseek_r1_{part}"].value for part in ("math", "gpqa", "mmlu")} == {1.0}
    assert ExactMatch().compute(run) == {}  # those answers are for other metrics
