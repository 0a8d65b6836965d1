"""Two runs of the same prompts: how much faster, whether as good, and what makes no pairs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from typer.testing import CliRunner

from configs.errors import ConfigError
from configs.registry import register
from metrics.audit.audit import audit
from metrics.audit.html import remarks, sentence, write_audit
from metrics.base import Run, SampleMetric
from metrics.report.html.plots import BAD, GOOD, SOFT
from suite import app
from tests.metrics.audit.conftest import NUM, Make, answers
from workloads.records import Record, Sample


def test_a_metric_that_the_candidate_left_out_is_computed(make: Make) -> None:
    """`--set metrics=[..]` on the candidate must not turn FAIL into PASS."""
    one, two = make("one", answers(1.0)), make("two", answers(1.0, wrong=range(24)), metrics=["throughput", "rouge"])
    data = audit(one, two, "5%")
    assert data["verdict"] == "FAIL"
    assert "exact match" in sentence(data)
    assert data["differs"]["metrics"] == [None, ["throughput", "rouge"]]


def test_the_workloads_metrics_judge_even_if_neither_run_has_them(make: Make) -> None:
    one, two = (make(n, answers(1.0, wrong=w), metrics=["throughput"]) for n, w in (("one", ()), ("two", range(24))))
    assert {m["name"]: m["verdict"] for m in audit(one, two, "5%")["metrics"]}["exact_match"] == "FAIL"


@register("scores_some")
@dataclass(frozen=True)
class ScoresSome(SampleMetric):
    """Scores only answers that are right."""

    name: ClassVar[str] = "some"

    def score(self, run: Run, sample: Sample, record: Record) -> Mapping[str, float]:
        return {"some": 1.0} if str(record.text).startswith("answer") else {}


def test_an_answer_that_only_the_reference_has_a_score_for_neither_passes_nor_fails_the_candidate(make: Make, tmp_path: Path) -> None:
    """As a video of one frame, which has no flicker."""
    one = make("one", answers(1.0, wrong=[40]), metrics=["exact_match", "scores_some"])
    two = make("two", answers(1.0, wrong=[3, *range(60, 70)]))
    data = audit(one, two, "5%", names=["some"])
    (found,) = data["metrics"]
    assert data["unpaired"] == {"some": {"reference": 11, "candidate": 1}}
    assert (found["n"], found["difference"], found["verdict"]) == (68, 0.0, "INCONCLUSIVE")
    assert found["p_not_worse"] > 0.9
    assert found["ci95"][0] < -11 / 79
    write_audit(data, tmp_path / "audit.html")
    page = (tmp_path / "audit.html").read_text(encoding="utf-8")
    assert "Some: answers with a score in the reference only: 11; these count as the worst for PASS, and do not count for FAIL." in page
    assert "Some: answers with a score in the candidate only: 1; these are not compared." in page


def test_accuracy_tests_are_audited_without_a_speed(make: Make) -> None:
    untimed = [msgspec.structs.replace(r, mode="accuracy") for r in answers(1.0)]
    one, two = (make(name, untimed, mode="accuracy") for name in ("one", "two"))
    data = audit(one, two, "5%", ["exact_match"], allow_invalid=True)
    assert data["speed"] == {"paired": None, "throughput": None}
    assert sentence(data) == "The candidate is of unknown speed (an accuracy test is not timed), and no metric is worse by 5%."


def test_answers_to_the_same_prompt_are_one_cluster(make: Make, tmp_path: Path) -> None:
    """20 prompts four times each; the candidate lost the four answers to one of them."""
    prompts = [f"{'The ' if i % 2 else ''}Question number {i // 4}{'?' if i % 3 else ' .'}" for i in range(NUM)]
    one, two = (make(name, answers(1.0, wrong=w), prompts=prompts) for name, w in (("one", ()), ("two", range(4, 8))))
    data = audit(one, two, "20%", ["exact_match"])
    (found,) = data["metrics"]
    assert (found["n"], found["num_clusters"], found["verdict"]) == (80, 20, "INCONCLUSIVE")
    assert "80 answers are to 20 different prompts; those to the same prompt are resampled together" in remarks(data)
    alone = audit(make("three", answers(1.0)), make("four", answers(1.0, wrong=range(4, 8))), "20%", ["exact_match"])
    assert (alone["metrics"][0]["num_clusters"], alone["verdict"], remarks(alone)) == (80, "PASS", [])


def test_metrics_that_are_left_out_are_reported_everywhere(make: Make, tmp_path: Path) -> None:
    """Where all answers are wrong, 5 % of the mean is 0."""
    one, two = (make(name, answers(1.0, wrong=range(NUM)), metrics=["exact_match", "scores_length"]) for name in ("one", "two"))
    done = CliRunner().invoke(app, ["audit", str(one), str(two), "--margin", "5%", "--output", str(tmp_path / "a.html")])
    assert "left out: exact_match: 5% of a mean of 0 is 0" in done.stderr
    assert "exact_match" in json.loads(done.stdout.splitlines()[-1])["left_out"]
    assert "Left out: exact match" in (tmp_path / "a.html").read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match="not every --metric can be judged: exact_match: 5% of a mean of 0"):
        audit(one, two, "5%", ["exact_match"])


def test_losses_gains_and_mcnemars_test_are_reported_for_right_or_wrong(make: Make, tmp_path: Path) -> None:
    """McNemar's exact test of 9 against 1: 2 * (1 + 10) / 2^10."""
    one, two = make("one", answers(1.0, wrong=[79])), make("two", answers(1.0, wrong=range(9)))
    page = tmp_path / "audit.html"
    done = CliRunner().invoke(app, ["audit", str(one), str(two), "--margin", "5%", "--metric", "exact_match", "--output", str(page)])
    assert re.search(r"^metric .* margin +lost +gained +McNemar's p +verdict .*\nexact_match .* 9 +1 +0\.0215 ", done.stderr, re.MULTILINE)
    assert '<td class="n">9</td><td class="n">1</td><td class="n">0.0215</td>' in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("config", "margin", "source"),
    [
        ({}, "1%", "usual: the reference is of no MLPerf benchmark"),
        ({"benchmark": "llama2-70b-99.9"}, "0.1%", "the gate of llama2-70b-99.9 in MLPerf v6.1"),
        ({"benchmark": "llama2-70b-99"}, "1%", "the gate of llama2-70b-99 in MLPerf v6.0"),
    ],
)
def test_the_margin_is_what_the_references_benchmark_tolerates(make: Make, config: dict[str, Any], margin: str, source: str) -> None:
    one, two = make("one", answers(1.0), **config), make("two", answers(1.0))
    data = audit(one, two, names=["exact_match"])
    assert (data["margin"], data["margin_from"]) == (margin, source)
    assert data["metrics"][0]["margin"] == pytest.approx(float(margin.removesuffix("%")) / 100)
    given = audit(one, two, "3%", ["exact_match"])
    assert (given["margin"], given["margin_from"]) == ("3%", "as given")


@pytest.mark.parametrize(
    ("verdict", "colour", "badge"), [("PASS", GOOD, "VALID"), ("FAIL", BAD, "INVALID"), ("INCONCLUSIVE", SOFT, "OPEN")]
)
def test_a_verdict_has_one_colour_on_badge_and_plot(make: Make, tmp_path: Path, verdict: str, colour: str, badge: str) -> None:
    wrong = {"PASS": (), "FAIL": range(24), "INCONCLUSIVE": range(3)}[verdict]
    data = audit(make("one", answers(1.0)), make("two", answers(1.0, wrong)), "5%", ["exact_match"])
    write_audit(data, tmp_path / "audit.html")
    page = (tmp_path / "audit.html").read_text(encoding="utf-8")
    assert data["verdict"] == verdict
    assert f'<div class="verdict {badge}">' in page
    others = {GOOD, BAD, SOFT} - {colour}
    plot = page[page.index("<svg") : page.index("</svg>")].replace(f"fill: {SOFT}", "")  # the colour of the notice below
    assert colour in plot
    assert not any(other in plot for other in others)
