"""suite.py compare: speed-ups with intervals, speed per device, means over workloads, quality of every row."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import suite
from configs.errors import ConfigError
from metrics.base import Run
from metrics.compare.compare import compare
from metrics.compare.html import quality_svg, speed_up_svg, write_comparison
from metrics.performance.speed import Ratio, Speed, geometric_mean, pooled, slowness, speed_up, throughput
from metrics.report.html.combined import write_combined
from metrics.report.load_run import load_run
from metrics.report.report import build_report
from pipelines.launcher.provenance import seal
from tests.conftest import record
from tests.metrics.conftest import write_run
from workloads.records import Record, Sample
from workloads.run_folder.files import write_json

Make = Callable[..., Path]
NUM = 40


def answers(seconds: float | Sequence[float], wrong: int = 0, num_units: int = 10) -> list[Record]:
    """NUM answers one after another, `seconds` each; the first `wrong` of them are wrong."""
    each = np.broadcast_to(seconds, NUM)
    ends = np.cumsum(each)
    return [
        record(i, started_s=float(end - s), completed_s=float(end), num_units=num_units, text="no" if i < wrong else f"answer {i}")
        for i, (s, end) in enumerate(zip(each, ends, strict=True))
    ]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A finished run with a report. ranks: its number of devices."""

    def made(name: str, records: Sequence[Record], ranks: int = 1, processor: str = "old chip", **config: Any) -> Path:
        folder = tmp_path / name
        samples = [Sample(i, f"question {i}", {"answer": f"answer {i}"}) for i in range(NUM)]
        write_run(folder, samples, records, **config)
        outcome = json.loads((folder / "outcome.json").read_text(encoding="utf-8"))
        outcome["performance"]["ranks"] = [outcome["performance"]["ranks"][0] | {"rank": i} for i in range(ranks)]
        write_json(folder / "outcome.json", outcome)
        write_json(folder / "system.json", {"processor": processor, "accelerators": [], "packages": {"torch": "2.9"}})
        seal(folder)
        build_report(folder)
        return folder

    return made


def rows(data: dict[str, Any], group: int = 0) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = data["groups"][group]["rows"]
    return listed


def test_a_row_has_speed_up_devices_and_quality(make: Make) -> None:
    old = make("old", answers(1.0))
    new = make("new", answers(0.25, wrong=20), ranks=2, processor="new chip", pipeline={"name": "toy_llm", "token_s": 0.5})
    data = compare([old, new])
    assert data["groups"][0]["title"] == "llm, offline"
    assert data["groups"][0]["speed"]["name"] == "tokens_per_s"
    base, row = rows(data)
    assert (base["baseline"], base["speed_up"], base["differs"]) == (True, None, {})
    assert base["speed"]["value"] == pytest.approx(10.0)
    assert row["speed_up"]["value"] == pytest.approx(4.0)
    assert row["efficiency"]["value"] == pytest.approx(2.0)
    assert row["quality"]["value"] == 0.5
    assert row["quality"]["versus_baseline"] == "lower"
    assert row["differs"] == {"devices": [1, 2], "hardware": ["old chip", "new chip"], "pipeline.token_s": [None, 0.5]}
    assert data["geometric_means"] == []


def test_a_replicas_ranks_are_all_devices(make: Make) -> None:
    one, two = make("one", answers(1.0)), make("two", answers(0.5), parallel={"tensor": 2})
    row = rows(compare([one, two], allow_invalid=True))[1]  # invalid: effective settings do not mention the tensor parallelism
    assert row["num_devices"] == 2
    assert row["efficiency"]["value"] == pytest.approx(1.0)
    assert json.loads((two / "report.json").read_text(encoding="utf-8"))["device"] == "2 x cpu"


def test_the_interval_contains_the_true_value_19_times_out_of_20(make_run: Callable[..., Run]) -> None:
    """Equal runs of random service times: their speed-up is 1."""
    rng = np.random.default_rng(0)

    def speed() -> Speed:
        ends = np.cumsum(rng.lognormal(0, 0.4, 100))
        starts = [0.0, *ends[:-1]]
        measured = throughput(
            make_run(records=[record(i, started_s=s, completed_s=e) for i, (s, e) in enumerate(zip(starts, ends, strict=True))])
        )
        assert measured
        return measured

    contained = [ci95[0] <= 1 <= ci95[1] for _ in range(100) if (ci95 := speed_up(speed(), speed()).ci95)]
    assert 90 <= sum(contained) <= 99


def test_latencies_that_scatter_more_have_a_wider_interval(make_run: Callable[..., Run]) -> None:
    rng = np.random.default_rng(0)

    def widths(spread: float) -> float:
        latencies = rng.lognormal(0, spread, 144)
        measured = slowness(
            make_run(records=[record(i, completed_s=s) for i, s in enumerate(latencies)], scenario="single_stream"), "latency", 0.9
        )
        assert measured
        assert measured.ci95
        assert measured.value == sorted(latencies)[129]
        return measured.ci95[1] / measured.ci95[0]

    assert 1.0 < widths(0.1) < 1.1 < widths(0.5)


def test_a_run_too_short_for_an_interval_has_none(make_run: Callable[..., Run]) -> None:
    measured = throughput(make_run(records=[record(i, started_s=0.0, completed_s=2.0) for i in range(8)]))
    assert measured
    assert (measured.value, measured.ci95, measured.how) == (4.0, None, "the run is too short for an interval")
    assert throughput(make_run(records=[record(0, status="failed")])) is None


def test_tokens_count_at_the_time_they_arrive(make_text_run: Callable[..., Run]) -> None:
    """All tokens of long answers arrive evenly: throughput is constant although all answers end at once."""
    records = [record(i, started_s=0.0, first_token_s=1.0, token_gap_s=[1.0] * 99, completed_s=100.0, num_units=100) for i in range(4)]
    measured = throughput(make_text_run(records))
    assert measured
    assert measured.value == 4.0
    assert measured.log_se == pytest.approx(0.0, abs=0.02)


def test_repeats_make_one_row_whose_interval_is_the_variation_between_them(make: Make) -> None:
    folders = [make(f"old{i}", answers(s), seed=i) for i, s in enumerate((0.99, 1.0, 1.01))] + [make("new", answers(0.5))]
    data = compare(folders, ["old", "old", "old", "new"])
    base, row = rows(data)
    assert [run["run"] for run in base["runs"]] == ["old0", "old1", "old2"]
    assert base["speed"]["n"] == 3
    assert base["speed"]["interval"] == "between 3 runs"
    assert base["speed"]["ci95"] == pytest.approx([9.75, 10.25], abs=0.01)
    assert row["speed_up"]["value"] == pytest.approx(2.0, abs=0.001)


def test_runs_with_one_label_that_are_not_repeats_are_refused(make: Make) -> None:
    folders = [make("a", answers(1.0)), make("b", answers(1.0), load={"min_query_count": 99})]
    with pytest.raises(ConfigError, match=r"label 'x' is given to 'a' and 'b', which are not repeats: load.min_query_count is 64 and 99"):
        compare(folders, ["x", "x"])
    with pytest.raises(ConfigError, match="label 'x' is given to 'a' and 'c', which have the same records: one is a copy"):
        compare([folders[0], make("c", answers(1.0))], ["x", "x"])


def test_means_are_geometric_over_workloads_by_label(make: Make) -> None:
    stream = {"scenario": "single_stream"}
    paced = [record(i, issued_s=float(i), completed_s=i + s, text=f"answer {i}") for i, s in enumerate([0.5] * NUM)]
    quick = [record(i, issued_s=float(i), completed_s=i + s, text=f"answer {i}") for i, s in enumerate([0.25] * NUM)]
    folders = [make("a", answers(1.0)), make("b", answers(0.125)), make("c", paced, **stream), make("d", quick, **stream)]
    (mean,) = compare(folders, ["mi1", "mi2", "mi1", "mi2"])["geometric_means"]
    assert (mean["label"], mean["groups"], mean["verdict"]) == ("mi2", 2, "VALID")
    assert mean["speed_up"] == pytest.approx(4.0)
    assert compare(folders)["geometric_means"][0]["label"] == "b, d"
    assert compare([*folders, make("e", answers(0.5))])["geometric_means"] == []  # it is unknown which of b and e belongs to d
    data = compare(folders, baselines=[folders[1]])
    assert rows(data)[1]["speed_up"]["value"] == pytest.approx(0.125)
    assert data["groups"][1]["speed"] == {"name": "latency_p50", "unit": "s", "better": "lower", "why": "queries follow each other"}


def test_intervals_are_combined_by_welchs_formula() -> None:
    def one(value: float, log_se: float | None, dof: float) -> Speed:
        return Speed("x", "x/s", value, True, 1, log_se, dof, "")

    ratio = speed_up(one(2.0, 0.03, 9), one(6.0, 0.04, 9))
    assert [ratio.value, ratio.log_se, ratio.dof] == pytest.approx([3.0, 0.05, 0.05**4 / ((0.03**4 + 0.04**4) / 9)])
    assert speed_up(one(2.0, None, 0), one(6.0, 0.04, 9)).ci95 is None
    mean = geometric_mean([Ratio(2.0, 0.03, 9), Ratio(8.0, 0.04, 9)])
    assert [mean.value, mean.log_se] == pytest.approx([4.0, 0.025])
    assert pooled([one(2.0, 0.1, 9), one(8.0, 0.1, 9)]).value == pytest.approx(4.0)


@pytest.mark.parametrize(("rates", "name"), [((5.0, 5.0), "latency_p50"), ((5.0, 8.0), "tokens_per_s"), (("auto", "auto"), "tokens_per_s")])
def test_servers_are_compared_by_latency_at_one_rate_and_by_throughput_at_several(make: Make, rates: Any, name: str) -> None:
    folders = [make(f"at{i}", answers(1.0), scenario="server", load={"target_qps": rate}) for i, rate in enumerate(rates)]
    assert compare(folders)["groups"][0]["speed"]["name"] == name
    assert compare(folders, by="throughput")["groups"][0]["speed"]["name"] == "tokens_per_s"
    with pytest.raises(ConfigError, match="has a ttft"):
        compare(folders, by="ttft")


def test_invalid_runs_are_refused_by_name_or_marked(make: Make, tmp_path: Path) -> None:
    failed = [*answers(0.5)[1:], record(0, status="failed", error="<script>alert(1)</script>", completed_s=1.0)]
    good, bad = make("good", answers(1.0)), make("bad", failed)
    with pytest.raises(ConfigError, match=r"INVALID runs cannot be compared: '.*/bad' \(1 of 40 queries failed.*--allow-invalid"):
        compare([good, bad])
    data = compare([good, bad], allow_invalid=True)
    assert [row["verdict"] for row in rows(data)] == ["VALID", "INVALID"]
    assert "failed" in rows(data)[1]["reasons"][0]
    page = tmp_path / "out/page.html"
    assert json.loads(write_comparison(data, page).read_text(encoding="utf-8"))["groups"][0]["rows"][1]["verdict"] == "INVALID"
    text = page.read_text(encoding="utf-8")
    assert 'class="verdict INVALID"' in text
    assert "x INVALID" in text  # beside its point
    assert "&lt;script&gt;" in text
    assert "<script" not in text
    assert 'href="../bad/report.html"' not in text  # it has no page


def test_a_run_tampered_with_after_its_report_is_refused(make: Make) -> None:
    folders = [make("a", answers(1.0)), make("b", answers(0.5))]
    content = (folders[1] / "samples.jsonl").read_text(encoding="utf-8")
    (folders[1] / "samples.jsonl").write_text(content.replace("question 1", "question one"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"INVALID runs .*/b' \(samples.jsonl: modified after the run"):
        compare(folders)


def test_a_report_of_other_records_is_refused(make: Make) -> None:
    folders = [make("a", answers(1.0)), make("b", answers(0.5))]
    path = folders[1] / "report.json"
    report = json.loads(path.read_text(encoding="utf-8"))
    report["figures"]["tokens_per_s"]["value"] = 99.0
    write_json(path, report)
    with pytest.raises(ConfigError, match=r"figures.tokens_per_s is 99 there and 20 recomputed; run: suite.py report"):
        compare(folders)


def test_runs_and_options_that_cannot_be_compared_are_refused(make: Make, tmp_path: Path) -> None:
    a, b, lone = make("a", answers(1.0)), make("b", answers(0.5)), make("lone", answers(1.0), scenario="single_stream")
    (tmp_path / "run.zip").write_bytes(b"")
    for arguments, message in (
        (([a],), r"nothing to compare: two runs of one workload and scenario are required, got llm, offline: a"),
        (([a, lone],), r"llm, offline: a; llm, single stream: lone"),
        (([a, a],), r"is given twice"),
        (([a, b], ["x"]), r"got 1 --label for 2 runs"),
        (([a, b], [], [lone]), r"--baseline '.*lone' is not one of the runs"),
        (([a, b], [], [a, b]), r"llm, offline has 2 baselines: a, b"),
        (([a, b], [], [], "latncy"), r"unknown --by 'latncy' \(did you mean 'latency'\?\)"),
        (([a, b], [], [], "latency"), r"--by latency is meaningless for llm, offline"),
        (([a, tmp_path / "run.zip"],), r"run.zip' is a file, not a run folder; unpack a bundle with: suite.py report"),
        (([a, tmp_path],), r"is not a run folder: it has no config.yaml"),
        (([a, tmp_path / "absent"],), r"absent' does not exist"),
    ):
        with pytest.raises(ConfigError, match=message):
            compare(*arguments)


def test_untimed_runs_have_no_speed(make: Make) -> None:
    folders = [make(name, [record(0, mode="accuracy", text="answer 0")], mode="accuracy") for name in "ab"]
    with pytest.raises(ConfigError, match="no run of llm, offline has a throughput: accuracy tests are not timed"):
        compare(folders, allow_invalid=True)


def test_models_can_be_compared_separately(make: Make) -> None:
    models = [{"name": "toy_llm", "model": name} for name in ("/models/dense", "/models/moe")]
    folders = [make(f"{hw}{i}", answers(s), pipeline=models[i]) for hw, s in (("old", 1.0), ("new", 0.5)) for i in (0, 1)]
    labels = ["old", "old", "new", "new"]
    with pytest.raises(ConfigError, match=r"pipeline.model is '/models/dense' and '/models/moe'. Use different labels, or --by-model"):
        compare(folders, labels)
    data = compare(folders, labels, by_model=True)
    assert [group["title"] for group in data["groups"]] == ["llm dense, offline", "llm moe, offline"]
    assert data["geometric_means"][0]["speed_up"] == pytest.approx(2.0)


def test_the_command_writes_a_page_and_its_figures_and_ends_with_one_line(make: Make, tmp_path: Path) -> None:
    name = "a $x^$ <b>"
    folders = [str(make("a", answers(1.0))), str(make("b", answers(0.5)))]
    page = tmp_path / "new/page.html"
    done = CliRunner().invoke(suite.app, ["compare", *folders, "--label", "old", "--label", name, "--output", str(page)])
    assert done.exit_code == 0, done.output
    line = json.loads(done.stdout.strip().splitlines()[-1])
    assert line["speed_up"] == {"llm, offline": {name: pytest.approx(2.0)}}
    data = json.loads(Path(line["compare"]).read_text(encoding="utf-8"))
    assert data["schema"] == "triptych-compare/1"
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg") == 2
    assert "a $x^$ &lt;b&gt;" in text
    assert "no recorded difference, as between repeats" in text
    assert "http:" not in text.replace("http://www.w3.org", "").replace("http://purl.org", "").replace("http://creativecommons.org", "")
    assert quality_svg(data["groups"][0]) == quality_svg(data["groups"][0])  # the same every time
    assert speed_up_svg([]) == ""
    for refused in (["--output", str(tmp_path / "page.txt")], ["--by", "luck"]):
        assert isinstance(CliRunner().invoke(suite.app, ["compare", *folders, *refused]).exception, ConfigError)


def test_the_combined_page_distinguishes_runs_of_one_workload(make: Make, tmp_path: Path) -> None:
    dense = make("a", answers(1.0), pipeline={"name": "toy_llm", "model": "/models/dense"})
    moe = make("b", answers(1.0), pipeline={"name": "toy_llm", "model": "moe"})
    stream = make("c", answers(1.0), pipeline={"name": "toy_llm", "model": "moe"}, scenario="single_stream")
    page = write_combined([dense, moe, stream], tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<h1>llm dense, llm moe offline, llm moe single stream</h1>" in page
    assert "<h1>llm</h1>" in write_combined([dense], tmp_path / "page.html").read_text(encoding="utf-8")
    assert load_run(dense).config.workload == "llm"
