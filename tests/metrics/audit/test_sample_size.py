"""suite.py sample-size: planned numbers of pairs have the planned power, and one run or two can be planned from."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from typer.testing import CliRunner

from configs.errors import ConfigError
from configs.registry import register
from metrics.audit.sample_size import MEASURED, parse_effect, plan
from metrics.base import Run, SampleMetric
from metrics.statistics.paired_means import p_mean_at_most
from metrics.statistics.paired_proportions import critical, power, score_statistic
from metrics.statistics.power_analysis import FEWEST, Tail, pairs_for_mean, pairs_for_shares
from suite import app
from tests.conftest import record
from tests.metrics.conftest import write_run
from workloads.records import Record, Sample

Folder = Callable[..., Path]


@register("scores_in_answer")
@dataclass(frozen=True)
class ScoresInAnswer(SampleMetric):
    """The scores that an answer lists, except `motion`."""

    name: ClassVar[str] = "scores_in_answer"

    def score(self, run: Run, sample: Sample, record: Record) -> Mapping[str, float]:
        return {name: value for name, value in json.loads(str(record.text)).items() if name != "motion"}


@register("motion_in_answer")
@dataclass(frozen=True)
class MotionInAnswer(SampleMetric):
    name: ClassVar[str] = "motion"
    better: ClassVar[Literal["neither"]] = "neither"

    def score(self, run: Run, sample: Sample, record: Record) -> Mapping[str, float]:
        return {name: value for name, value in json.loads(str(record.text)).items() if name == "motion"}


@pytest.fixture
def make_folder(tmp_path: Path) -> Folder:
    """A run folder whose answers have these scores, sample by sample, without a report.json. failed: the number that failed."""

    def make(name: str, scores: Sequence[Mapping[str, float]], prompt: str = "prompt", failed: int = 0) -> Path:
        right_or_wrong = all(set(s) == {"exact_match"} for s in scores)
        samples = [Sample(i, f"{prompt} {i}", {"answer": f"right {i}"} if right_or_wrong else {}) for i in range(len(scores))]
        texts = [f"{'right' if s['exact_match'] else 'wrong'} {i}" if right_or_wrong else json.dumps(s) for i, s in enumerate(scores)]
        states = [{"status": "failed", "text": None, "error": "lost"} if i < failed else {} for i in range(len(scores))]
        records = [record(i, **{"text": text, "num_units": 4} | state) for i, (text, state) in enumerate(zip(texts, states, strict=True))]
        return write_run(
            tmp_path / name, samples, records, metrics=["exact_match"] if right_or_wrong else ["scores_in_answer", "motion_in_answer"]
        )

    return make


def shares(right: int, of: int) -> list[dict[str, float]]:
    return [{"exact_match": float(i < right)} for i in range(of)]


@pytest.mark.parametrize(("differing", "margin"), [(0.0, 0.05), (0.05, 0.05), (0.2, 0.1)])
def test_planned_pairs_of_shares_have_the_planned_power_and_few_less_do_not(differing: float, margin: float) -> None:
    n = pairs_for_shares(-margin, differing / 2, differing / 2, 0.05, 0.9)
    assert n is not None
    assert power(n, -margin, differing / 2, differing / 2, 0.05) >= 0.9
    assert n == FEWEST or power(int(n * 0.9), -margin, differing / 2, differing / 2, 0.05) < 0.9


def test_without_differences_the_pairs_rule_out_a_loss_of_the_margin() -> None:
    n = pairs_for_shares(-0.01, 0.0, 0.0, 0.05, 0.9)
    assert n is not None
    assert n in (299, 300)  # 0.99^299 = 0.0495


def test_the_plan_beyond_a_thousand_pairs_holds_in_simulation() -> None:
    n = pairs_for_shares(-0.02, 0.05, 0.05, 0.05, 0.8)
    assert n is not None
    assert n > 1000
    counts = np.random.default_rng(0).multinomial(n, [0.05, 0.05, 0.9], size=4000)
    passed = (score_statistic(n, counts[:, 0], counts[:, 1], -0.02) >= critical(n, -0.02, 0.05)).mean()
    assert passed == pytest.approx(0.8, abs=0.02 + 3 * math.sqrt(0.8 * 0.2 / 4000))


@pytest.mark.parametrize(("margin", "target"), [(0.5, 0.9), (0.25, 0.8)])
def test_planned_pairs_of_means_have_the_planned_power(margin: float, target: float) -> None:
    n = pairs_for_mean(-margin, 0.0, 1.0, 0.05, target, reach=5.0)
    assert n is not None
    rng = np.random.default_rng(1)
    passed = (p_mean_at_most(rng.normal(size=(2000, n)), -margin, 5.0) <= 0.05).mean()
    assert passed == pytest.approx(target, abs=0.02 + 3 * math.sqrt(target * (1 - target) / 2000))


def test_rare_large_losses_need_more_pairs_and_at_the_margin_no_number_is_enough() -> None:
    even = pairs_for_mean(-0.3, 0.0, 1.0, 0.05, 0.8, reach=5.0)
    skewed = pairs_for_mean(-0.3, 0.0, 1.0, 0.05, 0.8, 5.0, Tail(5.0, 64, -2.0))
    assert even is not None
    assert skewed is not None
    assert skewed > 1.2 * even
    assert pairs_for_mean(-0.3, -0.3, 1.0, 0.05, 0.8, 5.0) is None
    assert pairs_for_mean(-0.3, -0.299, 1.0, 0.05, 0.8, 5.0, at_most=10_000) is None
    assert pairs_for_shares(-0.05, 0.06, 0.01, 0.05, 0.8) is None


def test_one_run_is_planned_for_several_correlations(make_folder: Folder) -> None:
    planned = plan(make_folder("run", shares(57, 64)), "20%", power=0.9)
    (need,) = planned.needs
    assert (need.kind, need.n) == ("share", 64)
    assert need.margin == pytest.approx(0.2 * 57 / 64)
    p = 57 / 64
    assert need.pairs == {
        "0": pairs_for_shares(-need.margin, p * (1 - p), p * (1 - p), 0.05, 0.9),
        "0.5": pairs_for_shares(-need.margin, p * (1 - p) / 2, p * (1 - p) / 2, 0.05, 0.9),
        "0.9": pairs_for_shares(-need.margin, p * (1 - p) / 10, p * (1 - p) / 10, 0.05, 0.9),
    }
    assert plan(make_folder("again", shares(57, 64)), "20%", power=0.9, correlation=0.5).pairs == {"0.5": need.pairs["0.5"]}


def test_a_second_run_shows_how_far_two_agree(make_folder: Folder) -> None:
    scores, others = shares(57, 64), shares(57, 64)
    others[0], others[60] = {"exact_match": 0.0}, {"exact_match": 1.0}  # 2 of 64 differ
    planned = plan(make_folder("run", scores), "5%", beside=make_folder("other", others))
    (need,) = planned.needs
    assert need.pairs == {MEASURED: pairs_for_shares(-need.margin, 1 / 64, 1 / 64, 0.05, 0.8)}
    assert need.correlation == pytest.approx(1 - 2 / 64 / (2 * 57 / 64 * 7 / 64))
    rng = np.random.default_rng(2)
    base = rng.normal(0.7, 0.1, 64)
    near = base + rng.normal(0, 0.02, 64)
    (need,) = plan(
        make_folder("a", [{"rouge_l": float(v)} for v in base]), "0.01", beside=make_folder("b", [{"rouge_l": float(v)} for v in near])
    ).needs
    difference = near - base
    tail = Tail(float(np.abs(difference - difference.mean()).max() / difference.std(ddof=1)), 64)
    reach = float(max(base.max(), near.max()))  # from a missing answer, which scores 0
    assert need.pairs == {MEASURED: pairs_for_mean(-0.01, 0.0, float(difference.std(ddof=1)), 0.05, 0.8, reach, tail)}


def test_metrics_judged_together_share_the_level(make_folder: Folder) -> None:
    rng = np.random.default_rng(3)
    rows = [{"a": float(v), "b": float(w)} for v, w in rng.normal(5, 1, (64, 2))]
    folder = make_folder("run", rows)
    both, alone = plan(folder, "0.2"), plan(folder, "0.2", names=["a"])
    values = np.array([row["a"] for row in rows])
    spread, reach = float(values.std(ddof=1)), float(values.max())
    tail = Tail(float(np.abs(values - values.mean()).max()) / spread, 64)
    assert both.needs[0].pairs["0"] == pairs_for_mean(-0.2, 0.0, spread * math.sqrt(2), 0.025, 0.8, reach, tail)
    assert alone.needs[0].pairs["0"] == pairs_for_mean(-0.2, 0.0, spread * math.sqrt(2), 0.05, 0.8, reach, tail)
    assert both.pairs["0"] == max(need.pairs["0"] or 0 for need in both.needs)


def test_what_cannot_be_planned_is_left_out_with_its_reason(make_folder: Folder) -> None:
    rows = [{"motion": i / 10, "flat": 0.5, "zero": 0.0, "all_right": 1.0, "good": float(i % 7 > 0)} for i in range(64)]
    planned = plan(make_folder("run", rows), "25%")
    assert [need.name for need in planned.needs] == ["all_right", "good"]
    assert "the metric has no better direction" in planned.left_out["motion"]
    assert "their variance is unknown" in planned.left_out["flat"]
    assert "mean of 0" in planned.left_out["zero"]
    assert "planned as if 1 in 66 were not" in planned.needs[0].note
    assert all(value is not None for value in planned.needs[0].pairs.values())


def test_effects_are_amounts_or_shares_of_the_mean() -> None:
    assert parse_effect("1%").margin(0.8) == pytest.approx(0.008)
    assert parse_effect("0.01").margin(0.8) == 0.01


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"effect": "0"}, "--effect must be a share .* got '0'"),
        ({"effect": "-1%"}, "got '-1%'"),
        ({"effect": "one"}, "got 'one'"),
        ({"effect": "120%"}, "got '120%'"),
        ({"effect": "nan"}, "got 'nan'"),
        ({"power": 1.5}, "--power must be .* got 1.5"),
        ({"power": 0.01}, r"--alpha \(0.05\) and 1"),
        ({"alpha": 0.0}, "--alpha must be .* got 0"),
        ({"correlation": 1.0}, "--correlation must be .* got 1"),
        ({"correlation": 0.5, "beside": Path("x")}, "cannot be combined with --beside"),
        ({"names": ["exact_mach"]}, "did you mean 'exact_match'"),
        ({"effect": "1.5"}, "cannot fall by 1.5"),
    ],
)
def test_invalid_settings_are_refused(make_folder: Folder, settings: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"folder": make_folder("run", shares(57, 64)), "effect": "5%", **settings}
    with pytest.raises(ConfigError, match=message):
        plan(**given)


def test_runs_that_no_plan_can_be_based_on_are_refused(make_folder: Folder) -> None:
    invalid = make_folder("invalid", shares(57, 64), failed=2)
    with pytest.raises(ConfigError, match="INVALID, so no plan can be based on it: 2 of 64 queries failed"):
        plan(invalid, "1%")
    with pytest.raises(ConfigError, match="no metric that scores single answers"):
        plan(make_folder("speed", [{} for _ in range(8)]), "1%")
    other = make_folder("other", shares(57, 64), prompt="question")
    with pytest.raises(ConfigError, match="different prompts"):
        plan(make_folder("run", shares(57, 64)), "1%", beside=other)


def test_the_command_prints_a_table_and_a_line(make_folder: Folder) -> None:
    folder = make_folder("run", shares(57, 64))
    done = CliRunner().invoke(app, ["sample-size", "--effect", "20%", "--power", "0.9", str(folder)])
    assert done.exit_code == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["metrics"]["exact_match"]["pairs"] == line["pairs"]
    assert set(line["pairs"]) == {"0", "0.5", "0.9"}
    assert f"{line['pairs']['0.9']:,}" in done.stderr
    assert "not r" in done.stderr  # what one run cannot show
    (row,) = (text for text in done.stderr.splitlines() if text.startswith("exact_match"))
    assert [int(cell.replace(",", "")) for cell in row.split()[-3:]] == list(
        line["pairs"].values()
    )  # in one line, although it is no terminal
