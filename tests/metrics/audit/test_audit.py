"""Two runs of the same prompts: how much faster, whether as good, and what makes no pairs."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from configs.errors import ConfigError
from configs.registry import register
from metrics.audit.audit import audit
from metrics.audit.html import write_audit
from metrics.base import Run, SampleMetric
from metrics.report.html.plots import BAD, GOOD, SOFT
from metrics.report.report import build_report
from pipelines.launcher.provenance import seal
from suite import app
from tests.conftest import SuiteRun, last_line, record
from tests.metrics.conftest import write_run
from workloads.records import Record, Sample
from workloads.run_folder.files import write_json
from workloads.run_folder.manifest import file_hashes
from workloads.run_folder.media import write_video

Make = Callable[..., Path]
NUM = 200


def answers(seconds: float, wrong: Sequence[int] = ()) -> list[Record]:
    """One after the other."""
    texts = [f"wrong {i}" if i in wrong else f"answer {i}" for i in range(NUM)]
    digests = [hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts]
    times = [{"started_s": seconds * i, "completed_s": seconds * (i + 1)} for i in range(NUM)]
    return [record(i, num_units=4, text=texts[i], digest=digests[i], **times[i]) for i in range(NUM)]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def made(name: str, records: Sequence[Record], prompt: str = "question", **config: Any) -> Path:
        folder = tmp_path / name
        write_run(folder, [Sample(i, f"{prompt} {i}", {"answer": f"answer {i}"}) for i in range(NUM)], records, **config)
        write_json(folder / "system.json", {"processor": "chip", "accelerators": [], "packages": {}})
        seal(folder)
        build_report(folder)
        return folder

    return made


def command(*arguments: str) -> tuple[int, dict[str, Any]]:
    found = CliRunner().invoke(app, ["audit", *arguments])
    return found.exit_code, json.loads(found.stdout.splitlines()[-1])


def test_a_faster_run_that_is_as_good_passes_with_exit_code_0(make: Make, tmp_path: Path) -> None:
    one, two = make("one", answers(1.0)), make("two", answers(0.5))
    code, line = command(str(one), str(two), "--margin", "5%", "--metric", "exact_match", "--output", str(tmp_path / "audit.html"))
    assert (code, line["verdict"]) == (0, "PASS")
    assert line["found"].startswith("The candidate is 2.00x as fast (95 % interval ")
    assert line["found"].count("95 %") == 1
    data = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))
    assert data["speed"]["paired"]["value"] == pytest.approx(2.0)
    assert data["closeness"]["equal_share"] == 1.0
    assert data["worst"] == []
    assert "PASS" in (tmp_path / "audit.html").read_text(encoding="utf-8")


def test_a_run_that_lost_more_than_the_margin_fails_with_exit_code_1_and_shows_its_worst(make: Make, tmp_path: Path) -> None:
    one, two = make("one", answers(1.0)), make("two", answers(0.5, wrong=range(40)))
    code, line = command(str(one), str(two), "--margin", "5%", "--metric", "exact_match", "--output", str(tmp_path / "audit.html"))
    assert (code, line["verdict"]) == (1, "FAIL")
    data = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))
    assert (data["metrics"][0]["losses"], data["metrics"][0]["gains"], len(data["worst"])) == (40, 0, 12)
    page = (tmp_path / "audit.html").read_text(encoding="utf-8")
    assert "wrong 0" in page
    assert "question 0" in page


def test_too_few_prompts_for_the_margin_say_how_many_more_with_exit_code_2(make: Make, tmp_path: Path) -> None:
    one, two = make("one", answers(1.0)), make("two", answers(1.0, wrong=[7]))
    code, line = command(str(one), str(two), "--margin", "1%", "--metric", "exact_match", "--output", str(tmp_path / "audit.html"))
    assert (code, line["verdict"]) == (2, "INCONCLUSIVE")
    more = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))["metrics"][0]["further_samples"]
    assert more > NUM
    assert f"about {more:,} more prompts would settle it" in line["found"]


def test_what_cannot_be_audited_is_neither_of_the_three(make: Make, tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["audit", str(make("one", answers(1.0))), str(tmp_path / "absent")])
    assert (found.exit_code, found.stdout) == (3, "")
    assert "absent" in found.stderr


LENGTHS = """
from dataclasses import dataclass
from configs.registry import register
from metrics.base import SampleMetric

@register("plugin_length")
@dataclass(frozen=True)
class PluginLength(SampleMetric):
    name = "plugin_length"

    def score(self, run, sample, record):
        return {"plugin_length": float(len(record.text))}
"""


def test_nothing_but_a_verdict_ends_as_one(suite: SuiteRun, make: Make, tmp_path: Path) -> None:
    """1 and 2 would say FAIL and INCONCLUSIVE."""
    (tmp_path / "lengths.py").write_text(LENGTHS, encoding="utf-8")
    one, two = make("one", answers(1.0)), make("two", answers(0.5))
    for folder in (one, two):  # as a run leaves it whose metric is of a plugin file
        config = (folder / "config.yaml").read_text(encoding="utf-8").replace("metrics: null", "metrics: [exact_match, plugin_length]")
        (folder / "config.yaml").write_text(config, encoding="utf-8")
        (folder / "report.json").unlink()
        sealed_by_hand(folder)
    runs, page = [str(one), str(two)], ["--margin", "5%", "--output", str(tmp_path / "audit.html")]
    for arguments, told in (
        ((*runs, *page), "unknown metric 'plugin_length'"),
        ((*runs, "--plugin", str(tmp_path / "absent.py")), "plugin file"),
        ((*runs, "--margni", "5%"), "--margni"),
        ((str(one),), "CANDIDATE"),
        ((*runs, "--margin", "much"), "--margin 'much'"),
        ((*runs, "--output", str(tmp_path / "audit.json")), "must end in .html"),
    ):
        found = CliRunner().invoke(app, ["audit", *arguments])
        assert (found.exit_code, found.stdout) == (3, ""), arguments
        assert told.lower() in found.stderr.lower()
    done = suite("audit", *runs, *page, "--plugin", str(tmp_path / "lengths.py"))
    assert (done.returncode, last_line(done)["verdict"]) == (0, "PASS"), done.stderr


def test_a_bug_is_no_verdict_either(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("metrics.audit.audit.audit", broken)
    found = CliRunner().invoke(app, ["audit", "one", "two"])
    assert found.exit_code == 3
    assert "ZeroDivisionError: a bug" in found.stderr


def sealed_by_hand(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    write_json(folder / "manifest.json", manifest | {"files": file_hashes(folder)})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"seed": 5}, r"differ in their seed \(42 and 5\)"),
        ({"prompt": "riddle"}, "were asked different prompts: number 0 is 'question 0' and 'riddle 0'"),
    ],
)
def test_runs_whose_answers_make_no_pairs_are_refused_with_the_difference(make: Make, config: dict[str, Any], message: str) -> None:
    one, two = make("one", answers(1.0)), make("two", answers(1.0), **config)
    with pytest.raises(ConfigError, match=message):
        audit(one, two)


def films(folder: Path, num_frames: int = 4, height: int = 32, width: int = 32, fps: float = 8, **pipeline: Any) -> Path:
    """A run of two clips of this form, whatever its options say."""
    rng, records = np.random.default_rng(0), []
    for i in range(2):
        pixels = np.linspace(0, 200, width)[None, None, :, None] + rng.integers(0, 20, (num_frames, height, 1, 3))
        video = pixels.astype(np.uint8)
        write_video(folder / f"media/{i}.mkv", video, fps)
        digest = hashlib.sha256(video.tobytes()).hexdigest()[:16]
        records.append(record(i, media=f"media/{i}.mkv", num_units=num_frames, digest=digest))
    samples = [Sample(i, f"prompt {i}", {}) for i in range(2)]
    config = {"workload": "t2v", "pipeline": {"name": "toy_t2v", **pipeline}}
    return write_run(folder, samples, records, **config)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"height": 48, "width": 48}, "differ in height: of prompt 0 it is 32 and 48"),
        ({"num_frames": 6}, "differ in num_frames: of prompt 0 it is 4 and 6"),
        ({"fps": 12}, "differ in fps: of prompt 0 it is 8 and 12"),
    ],
)
def test_videos_of_another_form_make_no_pairs_though_no_option_says_so(tmp_path: Path, form: dict[str, Any], message: str) -> None:
    one, two = films(tmp_path / "one"), films(tmp_path / "two", **form)
    with pytest.raises(ConfigError, match=message):
        audit(one, two)


def test_a_default_that_one_side_spells_out_is_no_difference(tmp_path: Path) -> None:
    one, two = films(tmp_path / "one"), films(tmp_path / "two", batch_size=1)
    spelt = films(tmp_path / "spelt", height=32, width=32)
    for other in (two, spelt):
        assert audit(one, other, "5%", ["motion_smoothness"])["num_pairs"] == 2


def test_a_prompt_that_one_run_alone_answered_is_named(make: Make) -> None:
    one, two = make("one", answers(1.0)), make("two", answers(1.0)[:-1])
    with pytest.raises(ConfigError, match="1 prompts were answered in one run alone, the first is number 199"):
        audit(one, two, allow_invalid=True)


def test_a_run_whose_records_were_edited_is_refused(make: Make) -> None:
    one, two = make("one", answers(1.0)), make("two", answers(1.0, wrong=range(5)))
    file = two / "records.jsonl"
    file.write_text(file.read_text(encoding="utf-8").replace("wrong", "answer"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"is INVALID, and no audit rests on it: records\.jsonl"):
        audit(one, two)


def test_a_metric_that_the_candidate_was_not_scored_by_is_scored_now(make: Make, tmp_path: Path) -> None:
    """`--set metrics=[..]` on the candidate must not turn FAIL into PASS."""
    one, two = make("one", answers(1.0)), make("two", answers(1.0, wrong=range(60)), metrics=["throughput", "rouge"])
    code, line = command(str(one), str(two), "--margin", "5%", "--output", str(tmp_path / "audit.html"))
    assert (code, line["verdict"]) == (1, "FAIL")
    assert "exact match" in line["found"]
    data = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))
    assert data["differs"]["metrics"] == [None, ["throughput", "rouge"]]


def test_the_workloads_own_metrics_judge_even_if_neither_run_was_scored_by_them(make: Make) -> None:
    one, two = (make(n, answers(1.0, wrong=w), metrics=["throughput"]) for n, w in (("one", ()), ("two", range(60))))
    assert {m["name"]: m["verdict"] for m in audit(one, two, "5%")["metrics"]}["exact_match"] == "FAIL"


@register("scores_some")
@dataclass(frozen=True)
class ScoresSome(SampleMetric):
    """Of answers that are right alone."""

    name: ClassVar[str] = "some"

    def score(self, run: Run, sample: Sample, record: Record) -> Mapping[str, float]:
        return {"some": 1.0} if str(record.text).startswith("answer") else {}


@register("scores_length")
@dataclass(frozen=True)
class ScoresLength(SampleMetric):
    name: ClassVar[str] = "length"

    def score(self, run: Run, sample: Sample, record: Record) -> Mapping[str, float]:
        return {"length": float(len(str(record.text)))}


def test_scores_that_one_run_alone_has_are_refused_unless_other_metrics_are_named(make: Make) -> None:
    one, two = make("one", answers(1.0), metrics=["exact_match", "scores_some"]), make("two", answers(1.0, wrong=[3]))
    with pytest.raises(ConfigError, match=r"some scores 200 answers of the reference and 199 of the candidate, .* is number 3; .*--metric"):
        audit(one, two)
    assert [m["name"] for m in audit(one, two, names=["exact_match"])["metrics"]] == ["exact_match"]


def test_what_is_left_out_is_told_everywhere(make: Make, tmp_path: Path) -> None:
    """Where all are wrong, 5 % of the mean is nothing."""
    one, two = (make(name, answers(1.0, wrong=range(NUM)), metrics=["exact_match", "scores_length"]) for name in ("one", "two"))
    found = CliRunner().invoke(app, ["audit", str(one), str(two), "--margin", "5%", "--output", str(tmp_path / "a.html")])
    assert "left out: exact_match: 5% of a mean of 0 is nothing" in found.stderr
    assert "exact_match" in json.loads(found.stdout.splitlines()[-1])["left_out"]
    assert "Left out: exact match" in (tmp_path / "a.html").read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match="not every --metric can be judged: exact_match: 5% of a mean of 0"):
        audit(one, two, "5%", ["exact_match"])


def test_the_worst_lost_by_what_failed_and_not_by_noise(make: Make, tmp_path: Path) -> None:
    """Ten early prompts lost the most length, which is no loss of a margin in all; thirty late ones are wrong."""
    right, wrong, metrics = answers(1.0), answers(1.0), ["exact_match", "scores_length"]
    for i in range(10):
        right[i] = msgspec.structs.replace(right[i], text=f"answer {i}    ")
    for i in range(100, 130):
        wrong[i] = msgspec.structs.replace(wrong[i], text=f"wronga {i}")
    plain = [msgspec.structs.replace(r, digest="") for r in right], [msgspec.structs.replace(r, digest="") for r in wrong]
    data = audit(make("one", plain[0], metrics=metrics), make("two", plain[1], metrics=metrics), "5%")
    assert {m["name"]: m["verdict"] for m in data["metrics"]} == {"exact_match": "FAIL", "length": "PASS"}
    assert [w["sample_index"] for w in data["worst"]] == list(range(100, 112))


def test_right_and_wrong_tell_what_was_lost_and_gained_and_whether_that_is_a_difference(make: Make, tmp_path: Path) -> None:
    """McNemar's exact test of 9 against 1: 2 * (1 + 10) / 2^10."""
    one, two = make("one", answers(1.0, wrong=[199])), make("two", answers(1.0, wrong=range(9)))
    page = tmp_path / "audit.html"
    found = CliRunner().invoke(app, ["audit", str(one), str(two), "--margin", "5%", "--metric", "exact_match", "--output", str(page)])
    assert re.search(r"^metric .* margin +lost +gained +McNemar's p +verdict .*\nexact_match .* 9 +1 +0\.0215 ", found.stderr, re.MULTILINE)
    assert '<td class="n">9</td><td class="n">1</td><td class="n">0.0215</td>' in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("config", "margin", "whence"),
    [
        ({}, "1%", "usual: the reference is of no MLPerf benchmark"),
        ({"benchmark": "llama2-70b-99.9"}, "0.1%", "the gate of llama2-70b-99.9 in MLPerf v6.1"),
        ({"benchmark": "llama2-70b-99"}, "1%", "the gate of llama2-70b-99 in MLPerf v6.0"),
        ({"benchmark": "gpt-oss-120b"}, "1%", "the gate of gpt-oss-120b in MLPerf v6.1"),
    ],
)
def test_the_margin_is_what_the_references_benchmark_tolerates(make: Make, config: dict[str, Any], margin: str, whence: str) -> None:
    one, two = make("one", answers(1.0), **config), make("two", answers(1.0))
    data = audit(one, two, names=["exact_match"])
    assert (data["margin"], data["margin_from"]) == (margin, whence)
    assert data["metrics"][0]["margin"] == pytest.approx(float(margin.removesuffix("%")) / 100)
    given = audit(one, two, "3%", ["exact_match"])
    assert (given["margin"], given["margin_from"]) == ("3%", "as given")


@pytest.mark.parametrize(
    ("verdict", "colour", "badge"), [("PASS", GOOD, "VALID"), ("FAIL", BAD, "INVALID"), ("INCONCLUSIVE", SOFT, "OPEN")]
)
def test_a_verdict_has_one_colour_on_badge_and_plot(make: Make, tmp_path: Path, verdict: str, colour: str, badge: str) -> None:
    wrong = {"PASS": (), "FAIL": range(60), "INCONCLUSIVE": range(8)}[verdict]
    data = audit(make("one", answers(1.0)), make("two", answers(1.0, wrong)), "5%", ["exact_match"])
    write_audit(data, tmp_path / "audit.html")
    page = (tmp_path / "audit.html").read_text(encoding="utf-8")
    assert data["verdict"] == verdict
    assert f'<div class="verdict {badge}">' in page
    others = {GOOD, BAD, SOFT} - {colour}
    plot = page[page.index("<svg") : page.index("</svg>")].replace(f"fill: {SOFT}", "")  # of the line that nothing is verified
    assert colour in plot
    assert not any(other in plot for other in others)
