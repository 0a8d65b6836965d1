"""suite.py from end to end: runs of every workload, plugins, and messages for users' mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import suite as command
from tests.conftest import BRIEF, QUICK, ROOT, SuiteRun, last_line, read_report, suite_in
from workloads.loadgen.logs import read_answers
from workloads.run_folder.files import read_run

PLUGIN = """
import time
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
from configs.registry import register
from pipelines.base import Pipeline, Response

@register("plain_grey")
@dataclass
class PlainGrey(Pipeline):
    level: int = 90
    workloads: ClassVar[tuple[str, ...]] = ("t2v",)
    def load(self, device):
        pass
    def generate(self, samples, queries):
        time.sleep(0.01)
        rng = np.random.default_rng(queries[0].seed)
        blocks = np.kron(rng.uniform(0, 80, (4, 4)), np.ones((8, 8)))[None, :, :, None] + 5 * np.arange(9)[:, None, None, None]
        video = (self.level + blocks + np.zeros((9, 32, 32, 3))).astype(np.uint8)
        return [Response(video_THWC=video, num_units=9)]
"""


@pytest.fixture(scope="module")
def embedded_run(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """A run of the embedded video model in 8 steps on 8 prompts."""
    done = suite_in(tmp_path_factory.mktemp("embedded"))("--workload", "t2v", "--output", "run", *QUICK)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def toy_run(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """A run of the toy in both modes. Tests only read its folder."""
    done = suite_in(tmp_path_factory.mktemp("toy"))("--config", "t2v/toy", "--mode", "both", "--output", "run", *QUICK)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.xdist_group("embedded-run")
def test_the_embedded_model_runs_and_is_scored(embedded_run: subprocess.CompletedProcess[str]) -> None:
    report = read_report(embedded_run)
    assert report["verdict"] == "VALID"
    assert report["loadgen"]["performance"]["Result is"] == "VALID"
    assert report["figures"]["world_score"]["value"] >= 0.75  # of 8
    assert report["figures"]["world_direction"]["value"] == 1.0
    assert report["figures"]["world_score"]["n"] == 8
    assert {"videos_per_s", "stage_denoise", "stage_text_encode", "stage_vae_decode", "temporal_flickering"} <= set(report["figures"])
    assert report["effective"]["experts"] == "2"
    assert sum(report["canaries"].values()) == 0


@pytest.mark.xdist_group("embedded-run")
def test_one_step_clearly_lowers_the_score(suite: SuiteRun, embedded_run: subprocess.CompletedProcess[str]) -> None:
    changes = ["pipeline.num_inference_steps=1", "dataset.num_prompts=8", "metrics=[world_score]", "report_videos=0", "truth.replays=0"]
    done = suite("--workload", "t2v", "--mode", "accuracy", *(word for change in changes for word in ("--set", change)))
    one, eight = read_report(done)["figures"], read_report(embedded_run)["figures"]
    assert one["world_score"]["value"] + 0.5 < eight["world_score"]["value"]
    assert one["world_shape"]["value"] + 0.5 < eight["world_shape"]["value"]


@pytest.mark.parametrize(("workload", "preset"), [("llm", "llm/toy"), ("vlm", "vlm/toy")])
def test_the_text_workloads_run_on_their_toys(suite: SuiteRun, workload: str, preset: str) -> None:
    done = suite("--config", preset, *QUICK)
    assert done.returncode == 0, done.stderr
    report = read_report(done)
    assert report["workload"] == workload
    assert report["figures"]["exact_match"]["value"] == 1.0
    assert report["figures"]["tokens_per_s"]["value"] > 0


@pytest.mark.parametrize("scenario", ["single_stream", pytest.param("multi_stream", marks=pytest.mark.slow), "server"])
def test_every_scenario_is_valid_under_loadgen(suite: SuiteRun, scenario: str) -> None:
    settings = [
        "load.min_query_count=70",
        "load.target_qps=100",
        "load.min_duration_s=0.5",
        "load.target_latency_s=5",
        "pipeline.seconds=0.01",
        "metrics=[throughput, latency]",
        "report_videos=0",
    ]
    changes = [word for setting in settings for word in ("--set", setting)]
    done = suite("--config", "t2v/toy", "--scenario", scenario, "--set", "dataset.num_prompts=8", *changes)
    report = read_report(done)
    assert report["loadgen"]["performance"]["Result is"] == "VALID", report["reasons"]
    assert report["agreement"]
    assert report["verdict"] == "VALID", report["reasons"]


@pytest.mark.xdist_group("toy-run")
def test_both_modes_measure_speed_in_one_test_and_quality_in_the_other(toy_run: subprocess.CompletedProcess[str]) -> None:
    report = read_report(toy_run)
    assert report["verdict"] == "VALID", report["reasons"]
    assert set(report["loadgen"]) == {"performance", "accuracy"}
    assert report["figures"]["world_score"]["n"] == 8
    folder = Path(last_line(toy_run)["run"])
    digests = {r.sample_index: r.digest for r in read_run(folder)[2] if r.mode == "accuracy"}
    assert {a.qsl_idx: a.data.lower() for a in read_answers(folder / "accuracy/mlperf_log_accuracy.json")} == digests
    assert not any(a.data for a in read_answers(folder / "performance/mlperf_log_accuracy.json"))


@pytest.mark.xdist_group("toy-run")
def test_a_report_is_rebuilt_from_its_folder(suite: SuiteRun, toy_run: subprocess.CompletedProcess[str]) -> None:
    first = read_report(toy_run)
    again = read_report(suite("report", last_line(toy_run)["run"]))
    assert again == first


def test_the_html_report_is_self_contained_and_escaped(suite: SuiteRun, tmp_path: Path) -> None:
    prompts = [{"prompt_en": "a red disc stays still"}, {"prompt_en": "<script>alert(1)</script>"}]
    (tmp_path / "p.JSON").write_text(json.dumps(prompts, indent=4), encoding="utf-8")
    done = suite("--config", "t2v/toy", "--set", "dataset.prompts=p.JSON", "--output", "run", *QUICK)
    assert "suite: 2 prompts of p.JSON, the first: 'a red disc stays still'\n" in done.stderr
    assert read_report(done)["prompts"] == {"num": 2, "first": "a red disc stays still"}
    page = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert page.count("data:video/webm;base64,") == 2
    assert "data:image/png;base64," in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script" not in page
    assert 'src="http' not in page
    assert page.count("<svg") == 3


@pytest.mark.xdist_group("toy-run")
def test_the_manifest_has_what_a_repeat_needs(toy_run: subprocess.CompletedProcess[str]) -> None:
    folder = Path(last_line(toy_run)["run"])
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["seed"] == 42
    assert len(manifest["prompt_set_sha256"]) == 64
    assert {"records.jsonl", "config.yaml", "media/performance-000000.mkv"} <= set(manifest["files"])
    system = json.loads((folder / "system.json").read_text(encoding="utf-8"))
    assert system["packages"]["torch"]


def test_a_canary_makes_a_fast_but_broken_pipeline_invalid(suite: SuiteRun) -> None:
    done = suite("--config", "t2v/toy", "--set", "pipeline.fault=nan", *BRIEF)
    assert done.returncode == 3
    report = read_report(done)
    assert report["verdict"] == "INVALID"
    assert report["canaries"]["nan"] > 0
    assert any("canary 'nan'" in reason for reason in report["reasons"])


def test_failed_queries_make_a_run_invalid_and_stay_in_the_denominator(suite: SuiteRun) -> None:
    done = suite("--config", "t2v/toy", "--mode", "accuracy", "--set", "pipeline.fail_every=4", *QUICK)
    assert done.returncode == 3
    report = read_report(done)
    assert report["num_queries"] == {"issued": 8, "done": 6, "failed": 2}
    assert report["figures"]["world_score"]["value"] == 0.75
    assert any("2 of 8 queries failed" in reason and "toy failure" in reason for reason in report["reasons"])


def test_a_plugin_file_adds_a_pipeline(suite: SuiteRun, tmp_path: Path) -> None:
    (tmp_path / "grey.py").write_text(PLUGIN, encoding="utf-8")
    done = suite("--config", "t2v/toy", "--plugin", "grey.py", "--set", "pipeline={name: plain_grey, level: 40}", *QUICK)
    assert done.returncode == 0, done.stderr
    assert read_report(done)["figures"]["world_score"]["value"] == 0.0


def test_an_installed_package_adds_a_pipeline_by_entry_point(suite: SuiteRun, tmp_path: Path) -> None:
    info = tmp_path / "site/grey_video-1.0.dist-info"
    info.mkdir(parents=True)
    (tmp_path / "site/grey_video.py").write_text(PLUGIN, encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: grey-video\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[triptych.pipelines]\nplain_grey = grey_video:PlainGrey\n", encoding="utf-8")
    done = suite("--config", "t2v/toy", "--set", "pipeline={name: plain_grey}", *BRIEF, "--output", "run", path=tmp_path / "site")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "run/manifest.json").read_text(encoding="utf-8"))
    assert manifest["plugins"] == {"pipeline plain_grey": "package grey-video 1.0"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workload", "t2w"], "unknown workload 't2w' (did you mean 't2v'?)"),
        (["--workload", "t2v", "--scenario", "ofline"], "unknown scenario 'ofline' (did you mean 'offline'?)"),
        (["--workload", "t2v", "--set", "pipeline.num_frame=9"], "unknown option 'num_frame' (did you mean 'num_frames'?)"),
        (["--workload", "t2v", "--set", "pipeline.num_frames=nine"], "option 'num_frames' is 'nine'"),
        (["--workload", "t2v", "--set", "metrics=[world_scor]"], "unknown metric 'world_scor' (did you mean 'world_score'?)"),
        (["--workload", "t2v", "--set", "dataset.prompts=gone.txt"], "prompt file 'gone.txt' does not exist"),
        (["--config", "llm/toy", "--set", "pipeline.name=toy_t2v"], "pipeline 'toy_t2v' supports t2v, not workload 'llm'"),
        (["--workload", "t2v", "--output", "/proc/run"], "output folder '/proc/run' is not writable"),
        (["report", "gone"], "'gone' is not a run folder"),
    ],
)
def test_a_users_mistake_gets_one_message(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["suite.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        command.main()
    output = capsys.readouterr()
    assert ended.value.code == 1
    assert message in output.err
    assert output.err.startswith("suite: ")
    assert output.out == ""


def test_without_arguments_the_help_is_shown(suite: SuiteRun) -> None:
    done = suite()
    assert done.returncode == 2
    assert "Examples:" in done.stdout
    assert "--workload" in done.stdout


def test_suite_py_defines_no_class() -> None:
    assert "class " not in (ROOT / "suite.py").read_text(encoding="utf-8")
