"""A metric names the heading of its figures, which of them are quality, and which the last line shows."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from configs import registry
from configs.errors import ConfigError, PluginError
from configs.registry import BUILT_IN, find, register
from metrics.base import Figure, Metric, Run, SampleMetric
from metrics.report.figures import heading, headline_names, metric_classes
from metrics.report.html.combined import write_combined
from metrics.report.html.page import write_html
from metrics.report.recompute import add_metrics
from metrics.report.report import Report, build_report, headline
from tests.conftest import record
from tests.metrics.conftest import write_run
from workloads.records import Sample

PLUGIN = "good_taste"
RANDOM = {"name": "transformers_llm", "weights": "random", "architecture": "llama2-70b"}

FIGURES = {
    "Speed": "answers_per_s tokens_per_s total_tokens_per_s goodput_share latency_p90 service_mean ttft_p90 first_token_in_service_mean "
    "tpot_p50 itl_mean queue_mean step_mean",
    "Quality": "world_score world_shape exact_match exact_match_held_out rouge_l first_frame_psnr hierarchical_f1 category_parsed brand_f1 "
    "is_secondhand_f1 gpt_oss_gpqa deepseek_r1_accuracy vbench vbench_scene temporal_flickering motion_smoothness dynamic_degree",
    "Answers and load": "tokens_per_sample prompt_tokens_mean end_token_share empty_share batch_occupancy",
    "Cost": "peak_host_memory stage_denoise",
    "Other": "energy_per_token mean_power generation_length",
}
HEADLINE = "world_score exact_match rouge_l hierarchical_f1 gpt_oss_accuracy deepseek_r1_accuracy vbench first_frame_psnr"


@pytest.fixture
def plugin() -> Iterator[str]:
    """A metric that is registered while the test runs, or until it calls `forget`."""

    @register(PLUGIN)
    @dataclass(frozen=True)
    class GoodTaste(Metric):
        headings: ClassVar[Mapping[str, tuple[str, ...]]] = {"Quality": ("taste",), "Kitchen": ("_of_salt",)}
        headline: ClassVar[tuple[str, ...]] = ("taste",)

        def compute(self, run: Run) -> dict[str, Figure]:
            return {name: Figure(0.5, "", "higher", 4) for name in ("taste", "grains_of_salt", "plates")}

    yield PLUGIN
    forget()


def forget() -> None:
    registry._registered.pop(("metrics", PLUGIN), None)


def reported(folder: Path, metrics: list[str], **config: object) -> Report:
    samples = [Sample(i, f"prompt {i}", {"answer": "yes"}) for i in range(4)]
    records = [record(i, text="yes", num_units=1, finish_reason="stop") for i in range(4)]
    return build_report(write_run(folder, samples, records, metrics=metrics, **config))


def test_the_figures_of_built_in_metrics_have_their_headings() -> None:
    metrics = [find("metrics", name) for name in BUILT_IN["metrics"]]
    for title, names in FIGURES.items():
        assert {name: heading(name, metrics) or "Other" for name in names.split()} == dict.fromkeys(names.split(), title)


def test_headline_figures_come_in_the_order_of_the_registry(tmp_path: Path) -> None:
    backwards = list(reversed(list(BUILT_IN["metrics"])))
    run = reported(tmp_path / "run", ["throughput"]).run
    object.__setattr__(run, "config", run.config.model_copy(update={"metrics": backwards}))
    assert headline_names([run]) == HEADLINE.split()


def test_a_plugins_figures_stand_where_it_says(plugin: str, tmp_path: Path) -> None:
    report = reported(tmp_path / "run", [plugin, "exact_match"])
    assert list(headline(report).items()) == [("exact_match", 1.0), ("taste", 0.5)]
    page = write_html(report).read_text(encoding="utf-8")
    places = [page.index(text) for text in ("<h3>Quality", "<td>taste", "<h3>Kitchen", "<td>grains_of_salt", "<h3>Other", "<td>plates")]
    assert places == sorted(places)


def test_a_plugins_quality_is_withheld_for_random_weights(plugin: str, tmp_path: Path) -> None:
    figures = reported(tmp_path / "run", [plugin], pipeline=RANDOM).data["figures"]
    assert figures["taste"]["note"] == "withheld: random weights have no quality"
    assert [figures[name]["value"] for name in ("taste", "grains_of_salt", "plates")] == [None, 0.5, 0.5]


def test_a_combined_page_needs_the_plugin_of_a_metric_because_it_works_out_the_verdict(plugin: str, tmp_path: Path) -> None:
    report = reported(tmp_path / "run", [plugin, "exact_match"])
    assert "exact match" in write_combined([tmp_path / "run"], tmp_path / "combined.html").read_text(encoding="utf-8")
    forget()
    assert [metric.__name__ for metric in metric_classes(report.run)] == ["ExactMatch"]
    with pytest.raises(PluginError, match=f"metric '{plugin}'"):
        write_combined([tmp_path / "run"], tmp_path / "combined.html")


@dataclass(frozen=True)
class Broken(Metric):
    def compute(self, run: Run) -> Any:
        raise ZeroDivisionError("no salt")


@dataclass(frozen=True)
class BrokenScore(SampleMetric):
    name: ClassVar[str] = "broken"

    def score(self, run: Run, sample: Sample, record: Any) -> Any:
        return None


@dataclass(frozen=True)
class PlainNumbers(Metric):
    def compute(self, run: Run) -> Any:
        return {"taste": 0.5}


@dataclass(frozen=True)
class OtherNumbers(Metric):
    def compute(self, run: Run) -> Any:
        return {"taste": Figure("good", "", "higher", 4)}  # type: ignore[arg-type]


@dataclass(frozen=True)
class NumpyNumbers(Metric):
    def compute(self, run: Run) -> Any:
        one: Any = np.float32(0.5)
        return {"taste": Figure(one, "", "higher", 4, (one, one))}


@pytest.mark.parametrize(
    ("metric", "why"),
    [
        (Broken, "ZeroDivisionError: no salt"),
        (BrokenScore, "TypeError: score returned None, not a mapping of figure names to numbers"),
        (PlainNumbers, "TypeError: compute returned 'taste': 0.5, not a name and a Figure"),
        (OtherNumbers, "TypeError: figure 'taste' has value 'good', ci95 None, n 4"),
    ],
)
def test_a_metric_that_cannot_be_computed_costs_its_own_figures_and_the_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: type[Metric], why: str
) -> None:
    monkeypatch.setitem(registry._registered, ("metrics", "broken"), metric)
    report = reported(tmp_path / "run", ["exact_match", "broken", "throughput"])
    assert {"exact_match", "answers_per_s"} <= report.data["figures"].keys()
    assert report.data["metric_errors"] == {"broken": why}
    assert f"metric 'broken' could not be computed: {why}" in report.data["reasons"]
    assert report.data["verdict"] == "INVALID"
    assert why in html.unescape(write_html(report).read_text(encoding="utf-8"))
    complete = reported(tmp_path / "complete", ["exact_match"])
    assert "metric_errors" not in complete.data
    with pytest.raises(ConfigError, match="metric 'broken' cannot be computed"):
        add_metrics(complete, ["broken"])


def test_figures_in_numpys_numbers_are_written_as_pythons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._registered, ("metrics", "taste"), NumpyNumbers)
    assert reported(tmp_path / "run", ["taste"]).data["figures"]["taste"]["ci95"] == [0.5, 0.5]
