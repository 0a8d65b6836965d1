"""Joules a token: from counters made by hand that rise at round numbers, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from metrics.base import Figure, Run
from metrics.performance.energy import Energy, withheld
from metrics.report.report import build_report
from pipelines.launcher.provenance import seal
from tests.metrics.conftest import write_run
from workloads.records import Record, Sample
from workloads.run_folder.power_log import MeterFacts, PowerLine, PowerSample

MakeRun = Callable[..., Run]
# Ten seconds: a query that failed and two that were answered with 300 tokens.
RECORDS = [
    Record(0, 0, 1, "performance", "done", 0, 0.0, 6.0, num_units=100),
    Record(1, 1, 1, "performance", "failed", 0, 0.0, 8.0, error="out of memory"),
    Record(2, 2, 1, "performance", "done", 0, 2.0, 10.0, num_units=200),
]


def counter(watts: float = 100.0, begin_s: float = -0.15, end_s: float = 10.25, every_s: float = 0.1) -> list[PowerSample]:
    """Samples of a device that draws that much all the time; none falls on the test's ends."""
    times = [begin_s + i * every_s for i in range(int((end_s - begin_s) / every_s) + 1)]
    return [PowerSample(t, energy_j=5000 + watts * t) for t in times]


def with_power(run: Run, *ranks: Sequence[PowerSample], meters: Sequence[MeterFacts] = (), num_ranks: int | None = None) -> Run:
    lines = [PowerLine("performance", rank, sample) for rank, samples in enumerate(ranks) for sample in samples]
    (run.folder / "power.jsonl").write_bytes(msgspec.json.Encoder().encode_lines(lines))
    return replace(run, outcome=outcome(meters or [MeterFacts(i, "amdsmi", f"0/{i}", 750.0) for i in range(len(ranks))], num_ranks))


def outcome(meters: Sequence[MeterFacts], num_ranks: int | None = None) -> dict[str, Any]:
    clocks = [{"rank": m.rank, "clock_error_s": 0.0001} for m in meters]
    power = [msgspec.to_builtins(m) for m in meters]
    return {"performance": {"aborted": None, "ranks": clocks, "num_ranks": num_ranks or len(meters), "power": power}}


def refused(run: Run) -> str:
    """Why there is no figure; that none slips through is checked here."""
    figures = Energy().compute(run)
    assert figures["energy_valid"].value == 0.0
    assert [f.value for n, f in figures.items() if n != "energy_valid"] == [None, None]
    assert len({f.note for f in figures.values()}) == 1
    return figures["energy_valid"].note


def test_energy_is_the_counters_difference_over_the_tokens_of_finished_answers(make_text_run: MakeRun) -> None:
    figures = Energy().compute(with_power(make_text_run(RECORDS), counter(100.0), counter(200.0)))
    assert figures["energy_valid"] == Figure(1.0, "", "higher", 2, note="2 devices, by amdsmi's energy counter; hosts are not counted")
    assert figures["energy_per_token"].value == pytest.approx(3000 / 300)  # joules of the failed query included
    assert figures["energy_per_token"].n == 300
    assert figures["mean_power"].value == pytest.approx(300.0)


def test_videos_are_counted_whole(make_run: MakeRun) -> None:
    run = make_run(records=RECORDS)
    figures = Energy().compute(with_power(run, counter(100.0)))
    assert figures["energy_per_video"].value == pytest.approx(1000 / 2)
    assert figures["energy_per_video"].unit == "J/video"


def test_ranks_on_one_counter_are_counted_once(make_text_run: MakeRun) -> None:
    meters = [MeterFacts(i, "amdsmi", "0/0000:c1:00", 750.0) for i in range(2)]
    figures = Energy().compute(with_power(make_text_run(RECORDS), counter(100.0), counter(100.0), meters=meters))
    assert figures["mean_power"].value == pytest.approx(100.0)
    assert figures["mean_power"].n == 1


def test_power_is_integrated_where_there_is_no_counter_and_the_note_says_so(make_text_run: MakeRun) -> None:
    rising = [PowerSample(s.at_s, power_w=100 + 10 * s.at_s) for s in counter()]
    figures = Energy().compute(with_power(make_text_run(RECORDS), rising))
    assert figures["mean_power"].value == pytest.approx(150.0)
    assert "power readings, integrated" in figures["mean_power"].note


def test_a_gap_is_allowed_between_counter_values_and_not_between_power_values(make_text_run: MakeRun) -> None:
    gap = [s for s in counter() if not 4.0 < s.at_s < 4.7]
    assert Energy().compute(with_power(make_text_run(RECORDS), gap))["mean_power"].value == pytest.approx(100.0)
    assert "no sample for 0.8" in refused(with_power(make_text_run(RECORDS), [PowerSample(s.at_s, power_w=100.0) for s in gap]))
    wide = [s for s in counter() if not 4.0 < s.at_s < 5.5]
    assert "no sample for 1.6" in refused(with_power(make_text_run(RECORDS), wide))


@pytest.mark.parametrize(
    ("samples", "why"),
    [
        ([], "0 samples in a test of 10.00 s"),
        (counter(every_s=2.0), "5 samples"),
        (counter(begin_s=0.5), "its samples cover 0.50 to"),
        (counter(end_s=9.0), "the test 0.00 to 10.00 s"),
        (counter(0.0), "did not change"),
        ([*counter(end_s=5.0), *(PowerSample(s.at_s, energy_j=s.at_s) for s in counter(begin_s=5.05))], "fell from 5495 to 5.05"),
        ([*counter(end_s=5.0), *(PowerSample(s.at_s, energy_j=90000.0) for s in counter(begin_s=5.05))], "jumped: 7.691e+04 W 5.0 s into"),
        (
            [*counter(), PowerSample(5.01, error="AmdSmiLibraryException: 34")],
            "reading it failed 5.0 s into the test: AmdSmiLibraryException",
        ),
        ([PowerSample(s.at_s, energy_j=s.energy_j, power_w=180.0) for s in counter()], "its power readings 1800 J: one of them is wrong"),
    ],
)
def test_doubtful_samples_give_no_figure_and_the_reason(make_text_run: MakeRun, samples: list[PowerSample], why: str) -> None:
    samples = sorted(samples, key=lambda s: s.at_s)
    found = refused(with_power(make_text_run(RECORDS), counter(), samples))
    assert found.startswith("device 0/1 (rank 1): ")
    assert why in found


def test_one_device_without_a_meter_leaves_the_run_without_the_figure(make_text_run: MakeRun) -> None:
    run = make_text_run(RECORDS)
    known, broken = MeterFacts(0, "nvml", "0/0000:19:00", 700.0), MeterFacts(1, error="nvml is not installed")
    assert refused(with_power(run, counter(), meters=[known, broken])) == "the device of rank 1 is not measured: nvml is not installed"
    assert "rank 1 did not report" in refused(with_power(run, counter(), meters=[known], num_ranks=2))


def test_without_a_power_limit_a_jump_shows_beside_the_other_seconds(make_text_run: MakeRun) -> None:
    meters = [MeterFacts(0, "rapl", "0/packages")]
    jumped = [PowerSample(s.at_s, energy_j=(s.energy_j or 0) + 2000 * (s.at_s > 5)) for s in counter()]
    assert "jumped" in refused(with_power(make_text_run(RECORDS), jumped, meters=meters))
    assert Energy().compute(with_power(make_text_run(RECORDS), counter(), meters=meters))["energy_valid"].value == 1.0


def test_a_clock_that_is_not_known_well_enough_gives_no_figure(make_text_run: MakeRun) -> None:
    run = with_power(make_text_run(RECORDS), counter())
    run.outcome["performance"]["ranks"][0]["clock_error_s"] = 0.2
    assert "the clock offset of rank 0 is only known to 0.2 s" in refused(run)


def test_an_aborted_test_has_no_energy_and_an_unmeasured_one_no_figures_of_it(make_text_run: MakeRun) -> None:
    run = with_power(make_text_run(RECORDS), counter())
    run.outcome["performance"]["aborted"] = "rank 1 died"
    assert refused(run) == "the timed test was aborted"
    assert Energy().compute(make_text_run(RECORDS)) == {}
    assert Energy().compute(replace(run, outcome=outcome([MeterFacts(0, error="no intel-rapl", off=True)]))) == {}


def test_energy_of_an_invalid_run_is_withheld(tmp_path: Path) -> None:
    samples = [Sample(i, f"prompt {i}") for i in range(3)]
    folder = write_run(tmp_path / "run", samples, RECORDS, metrics=["energy"])
    document = json.loads((folder / "outcome.json").read_text(encoding="utf-8"))
    document["performance"]["ranks"][0]["clock_error_s"] = 0.0
    document["performance"] |= {k: v for k, v in outcome([MeterFacts(0, "nvml", "0/0", 700.0)])["performance"].items() if k != "ranks"}
    (folder / "outcome.json").write_text(json.dumps(document), encoding="utf-8")
    lines = [PowerLine("performance", 0, s) for s in counter()]
    (folder / "power.jsonl").write_bytes(msgspec.json.Encoder().encode_lines(lines))
    seal(folder)
    data = build_report(folder).data
    assert data["verdict"] == "INVALID"  # a query failed
    assert (data["figures"]["energy_per_token"]["value"], data["figures"]["energy_valid"]["value"]) == (None, 0.0)
    assert "the run is INVALID" in data["figures"]["energy_per_token"]["note"]
    assert data["figures"]["mean_power"]["value"] == pytest.approx(100.0)
    assert withheld({"tokens_per_s": Figure(1.0, "", "higher", 1)})["tokens_per_s"].value == 1.0
