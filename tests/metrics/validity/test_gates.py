"""Gates: of a benchmark, of a run, of a workload; when they decide, and where a reader sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from metrics.base import Figure, Run
from metrics.report.html.page import write_html
from metrics.report.report import build_report
from metrics.report.terminal import print_summary
from metrics.validity.gates import evaluate, reasons, scenario_of
from tests.conftest import record
from tests.metrics.conftest import write_run
from workloads.llm import Language
from workloads.mlperf.benchmarks import benchmark
from workloads.records import Sample

LLAMA: dict[str, Any] = {"rules": "mlperf-v6.1", "benchmark": "llama2-70b-99.9", "mode": "accuracy"}
REACHED = {"rouge_1": 0.4439, "rouge_2": 0.2203, "rouge_l": 0.2859, "tokens_per_sample": 300.0}  # ROUGE as the suite has it, from 0 to 1


def _figures(**values: float | None) -> dict[str, Figure]:
    return {
        name: Figure(value, "", "higher", 24576, note="" if value is not None else "nothing was answered") for name, value in values.items()
    }


def _evaluate(make_text_run: Callable[..., Run], values: Mapping[str, float | None], **config: Any) -> tuple[list[bool | None], list[str]]:
    results = evaluate(make_text_run([record(0)], **config), _figures(**values))
    return [gate.holds for gate in results], reasons(results)


def test_figures_are_compared_with_gates_in_the_unit_of_the_benchmark(make_text_run: Callable[..., Run]) -> None:
    run = make_text_run([record(0)], **LLAMA)
    rouge_1, *_, tokens = results = evaluate(run, _figures(**REACHED))
    assert rouge_1.value == pytest.approx(44.39)
    assert rouge_1.target == 44.4312
    assert rouge_1.at_least == pytest.approx(44.3867688)  # 44.4312 x 0.999
    assert tokens.value == 300
    assert [tokens.at_least, tokens.at_most] == pytest.approx([265.005, 323.895])  # 294.45 +- 10 %
    assert [gate.holds for gate in results] == [True] * 4
    assert reasons(results) == []


@pytest.mark.parametrize(
    ("figure", "value", "message"),
    [
        ("rouge_1", 0.44386, "rouge_1 is 44.386 (must be at least 44.3868)"),
        ("tokens_per_sample", 324.0, "tokens_per_sample is 324 (must be at least 265.005 and at most 323.895)"),
        ("tokens_per_sample", 265.0, "tokens_per_sample is 265 (must be"),
        ("rouge_l", None, "rouge_l has no value: nothing was answered (must be at least 28.5876)"),
        ("rouge_l", float("nan"), "rouge_l has no value: not a number"),
    ],
)
def test_a_gate_that_does_not_hold_makes_an_accuracy_run_invalid(
    make_text_run: Callable[..., Run], figure: str, value: float | None, message: str
) -> None:
    holds, why = _evaluate(make_text_run, {**REACHED, figure: value}, **LLAMA)
    assert sum(one is True for one in holds) == 3
    assert len(why) == 1
    assert why[0].startswith(f"gate of llama2-70b-99.9 in MLPerf v6.1: {message}")


def test_a_missing_figure_fails_its_gate(make_text_run: Callable[..., Run]) -> None:
    holds, why = _evaluate(make_text_run, {}, **LLAMA)
    assert holds == [None] * 4
    no_set = "dataset.source is None, not 'openorca'"
    assert why[0].endswith(f"the run has no figure 'rouge_1': {no_set} (must be at least 44.3868)")


def test_a_figure_of_some_samples_decides_no_gate(make_text_run: Callable[..., Run]) -> None:
    """Two summaries among 24 answers reach every ROUGE; the benchmark requires the mean over all."""
    run = make_text_run([record(i, mode="accuracy") for i in range(24)], **LLAMA)
    figures = {name: Figure(value, "", "higher", 24 if "tokens" in name else 2) for name, value in REACHED.items()}
    results = {gate.figure: gate for gate in evaluate(run, figures)}
    assert (results["rouge_1"].value, results["rouge_1"].holds, results["tokens_per_sample"].holds) == (None, None, True)
    assert reasons(list(results.values()))[0].endswith("rouge_1 covers 2 of 24 samples (must be at least 44.3868)")
    figures["rouge_1"] = Figure(REACHED["rouge_1"], "", "higher", 24)
    assert evaluate(run, figures)[0].holds


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"metrics": ["tokens"], "dataset": {"source": "openorca"}}, "figure 'rouge_1': `metrics` does not name 'rouge' (must"),
        ({"metrics": ["rouge"]}, "figure 'rouge_1': dataset.source is None, not 'openorca' (must"),
        ({"metrics": ["rouge"], "dataset": {"source": "openorca"}}, "metric 'rouge' scores none of its answers"),
        ({"pipeline": {"name": "toy_llm", "weights": "random"}}, "random weights have no quality"),
    ],
)
def test_an_undecided_gate_names_what_is_missing(make_text_run: Callable[..., Run], config: dict[str, Any], message: str) -> None:
    assert message in _evaluate(make_text_run, {}, **LLAMA | config)[1][0]


@pytest.mark.parametrize("config", [LLAMA | {"rules": "quick"}, LLAMA | {"mode": "performance"}])
def test_under_other_rules_gates_of_a_benchmark_are_only_shown(make_text_run: Callable[..., Run], config: dict[str, Any]) -> None:
    holds, why = _evaluate(make_text_run, REACHED | {"rouge_1": 0.1}, **config)
    assert holds == [False, True, True, True]
    assert why == []


def test_the_interactive_scenario_has_its_own_target(make_text_run: Callable[..., Run]) -> None:
    """0.7803: under 0.7903 x 0.99 = 0.7824, over 0.7878 x 0.99 = 0.7799."""
    for scenario, holds in (("server", False), ("interactive", True)):
        config = LLAMA | {"benchmark": "qwen3-vl-235b-a22b", "scenario": scenario}
        assert _evaluate(make_text_run, {"hierarchical_f1": 0.7803}, **config)[0] == [holds]


def test_a_scenario_that_a_benchmark_does_not_have_is_held_to_the_rules_of_its_first() -> None:
    qwen = benchmark("qwen3-vl-235b-a22b", "v6.1")
    assert [scenario_of(qwen, name).scenario for name in ("interactive", "multi_stream")] == ["interactive", "offline"]


def test_a_run_must_meet_its_own_gate(make_text_run: Callable[..., Run]) -> None:
    assert _evaluate(make_text_run, {"exact_match": 0.9}, gate={"exact_match": 0.9}) == ([True], [])
    assert _evaluate(make_text_run, {"exact_match": 0.89}, gate={"exact_match": 0.9})[1] == [
        "gate of the run: exact_match is 0.89 (must be at least 0.9)"
    ]
    assert _evaluate(make_text_run, {}, gate={"exact_mach": 0.9})[1] == [
        "gate of the run: the run has no figure 'exact_mach' (must be at least 0.9)"
    ]


def test_where_lower_is_better_a_gate_is_an_upper_bound(make_text_run: Callable[..., Run]) -> None:
    run = make_text_run([record(0)], gate={"latency_p90": 2.0})
    for seconds, holds in ((2.0, True), (2.1, False)):
        assert [gate.holds for gate in evaluate(run, {"latency_p90": Figure(seconds, "s", "lower", 100)})] == [holds]


def test_the_gate_of_the_workload_is_the_default(make_text_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Language, "default_gate", {"exact_match": 0.5})
    assert _evaluate(make_text_run, {"exact_match": 0.4})[1] == ["gate of the workload: exact_match is 0.4 (must be at least 0.5)"]
    assert _evaluate(make_text_run, {"exact_match": 0.4}, gate={})[1] == []


def _written(folder: Path, **config: Any) -> Path:
    samples = [Sample(i, f"prompt {i}", {"answer": "red", "scored_by": "exact_match"}) for i in range(4)]
    records = [record(i, text="red" if i else "blue", num_units=1) for i in range(4)]
    return write_run(folder, samples, records, metrics=["exact_match"], **config)


def test_report_page_and_terminal_show_the_gates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = build_report(_written(tmp_path / "run", gate={"exact_match": 0.9}, benchmark="gpt-oss-120b"))
    assert report.data["gates"][-1] == {
        "of": "the run",
        "figure": "exact_match",
        "value": 0.75,
        "target": 0.9,
        "at_least": 0.9,
        "at_most": None,
        "holds": False,
        "decides": True,
        "why": "exact_match is 0.75 (must be at least 0.9)",
    }
    assert "gate of the run: exact_match is 0.75 (must be at least 0.9)" in report.data["reasons"]
    assert not any("gpt-oss" in reason for reason in report.data["reasons"])
    page = write_html(report).read_text(encoding="utf-8")
    assert "<h2>Gates</h2>" in page
    assert "it does not decide the verdict" in page
    assert "Result not verified by MLCommons Association." in page
    print_summary(report)
    table = " ".join(capsys.readouterr().err.split())
    assert "gate of the run: does not hold: exact_match is 0.75" in table
    assert "gate of gpt-oss-120b in MLPerf v6.1: undecided (shown only)" in table
    assert "Result not verified by MLCommons Association." in table


def test_a_quick_run_that_claims_mlperfs_rules_is_invalid_and_unverified(tmp_path: Path) -> None:
    report = build_report(_written(tmp_path / "run", rules="mlperf-v6.1", benchmark="gpt-oss-120b"))
    assert any("the performance test cannot be checked by the rules of MLPerf v6.1" in reason for reason in report.data["reasons"])
    assert report.data["notice"].startswith("Unverified MLPerf\u2122 v6.1 Inference gpt-oss-120b Offline. Result not verified")
    page = write_html(report).read_text(encoding="utf-8")
    assert "INVALID by rules <b>mlperf-v6.1</b>" in page
    assert " unverified" in page
    random = _written(tmp_path / "random", rules="mlperf-v6.1", benchmark="gpt-oss-120b", pipeline={"name": "toy_llm", "weights": "random"})
    assert any(reason.startswith("random weights are not the model of gpt-oss-120b") for reason in build_report(random).data["reasons"])
