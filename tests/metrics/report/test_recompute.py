"""Reports are recomputed from records and media: a report.json with other values is refused with the place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.errors import ConfigError
from metrics.audit.audit import audit
from metrics.audit.sample_size import plan
from metrics.compare.compare import compare
from metrics.report.html.combined import write_combined
from metrics.report.recompute import add_metrics, recompute, scores_by_sample
from metrics.report.report import build_report
from pipelines.launcher.provenance import seal
from tests.conftest import record
from tests.metrics.conftest import write_run
from workloads.records import Sample
from workloads.run_folder.files import write_json
from workloads.run_folder.media import write_video


def texts(folder: Path, num_wrong: int = 0, **config: Any) -> Path:
    """A reported run of 40 answers, one a second."""
    samples = [Sample(i, f"question {i}", {"answer": f"answer {i}"}) for i in range(40)]
    answers = ["no" if i < num_wrong else f"answer {i}" for i in range(40)]
    records = [record(i, text=answers[i], num_units=4, started_s=float(i), completed_s=i + 1.0) for i in range(40)]
    write_run(folder, samples, records, **config)
    build_report(folder)
    return folder


def edited(folder: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    """The folder, its report.json changed."""
    data = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    edit(data)
    write_json(folder / "report.json", data)
    return folder


EDITS = {
    r"samples\.3\.scores\.exact_match is 1 there and 0": lambda d: d["samples"][3]["scores"].update(exact_match=1.0),
    r"samples\.3\.text is \"answer 3\" there and \"no\"": lambda d: d["samples"][3].update(text="answer 3"),
    r"figures\.exact_match is 1 there and 0\.75": lambda d: d["figures"]["exact_match"].update(value=1.0),
    r"verdict is \"INVALID\" there and \"VALID\"": lambda d: d.update(verdict="INVALID"),
}


@pytest.mark.parametrize("message", EDITS)
def test_an_edited_report_is_refused_with_the_place_by_every_command(tmp_path: Path, message: str) -> None:
    good, bad = texts(tmp_path / "good"), edited(texts(tmp_path / "bad", num_wrong=10), EDITS[message])
    page = tmp_path / "page.html"
    for command in (lambda: audit(good, bad), lambda: plan(bad, "5%"), lambda: compare([good, bad]), lambda: write_combined([bad], page)):
        with pytest.raises(ConfigError, match=rf"bad/report\.json does not match the run's records and media: {message} recomputed"):
            command()


def test_an_edited_verdict_is_refused(tmp_path: Path) -> None:
    invalid = texts(tmp_path / "invalid", num_wrong=10, gate={"exact_match": 0.9})
    edited(invalid, lambda data: data.update(verdict="VALID", reasons=[]))
    with pytest.raises(ConfigError, match=r"invalid/report\.json .* verdict is \"VALID\" there and \"INVALID\" recomputed"):
        plan(invalid, "5%")


def test_last_digits_of_another_cpu_are_no_difference(tmp_path: Path) -> None:
    folder = edited(texts(tmp_path / "run"), lambda d: d["figures"]["tokens_per_s"].update(value=4.0 * (1 + 1e-8)))
    assert recompute(folder).valid


def test_no_report_is_needed_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    folder = texts(tmp_path / "run")
    (folder / "report.json").unlink()
    assert recompute(folder).data["figures"]["exact_match"]["value"] == 1.0
    assert not (folder / "report.json").exists()
    (folder / "report.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"report\.json is damaged: Object missing required field `verdict`; run: suite.py report"):
        recompute(folder)


def test_further_metrics_score_the_same_answers_and_leave_the_verdict_alone(tmp_path: Path) -> None:
    folder = texts(tmp_path / "run", num_wrong=10, metrics=["throughput"])
    plain = recompute(folder)
    more = add_metrics(plain, ["throughput", "exact_match"])
    assert scores_by_sample(plain) == {}
    assert sum(scores_by_sample(more)["exact_match"].values()) == 30
    assert more.data["figures"]["exact_match"]["value"] == 0.75
    assert [report.data["reasons"] for report in (plain, more)] == [[], []]


def test_a_video_that_was_changed_makes_a_run_invalid(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, 32)[None, None, :, None] + np.zeros((4, 32, 1, 3))
    folder = tmp_path / "run"
    for i in range(2):
        write_video(folder / f"media/{i}.mkv", (ramp + rng.integers(0, 9, ramp.shape)).astype(np.uint8), 8)
    records = [record(i, media=f"media/{i}.mkv", num_units=4, digest="") for i in range(2)]
    samples = [Sample(i, f"prompt {i}", {}) for i in range(2)]
    write_run(folder, samples, records, workload="t2v", pipeline={"name": "toy_t2v"}, metrics=["temporal_flickering"])
    seal(folder)
    write_video(folder / "media/1.mkv", ramp.astype(np.uint8), 8)
    for command in (lambda: audit(folder, folder), lambda: plan(folder, "5%")):
        with pytest.raises(ConfigError, match=r"is INVALID.*: media/1\.mkv: modified after the run, by its hash"):
            command()
