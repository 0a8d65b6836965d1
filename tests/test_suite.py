"""suite.py as a user meets it: whole runs of every workload, its commands, and its messages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import QUICK, ROOT, SuiteRun, last_line, read_report
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
        ramp = np.linspace(0, 80, 32)[None, None, :, None] + 5 * np.arange(9)[:, None, None, None]
        video = (self.level + ramp + rng.uniform(0, 30) + np.zeros((9, 32, 32, 3))).astype(np.uint8)
        return [Response(video_THWC=video, num_units=9)]
"""


def test_the_embedded_model_runs_the_main_job_and_is_judged(suite: SuiteRun) -> None:
    done = suite("--workload", "t2v", "--output", "run", *QUICK)
    assert done.returncode == 0, done.stderr
    report = read_report(done)
    assert report["verdict"] == "VALID"
    assert report["loadgen"]["performance"]["Result is"] == "VALID"
    assert report["figures"]["world_score"]["value"] >= 0.75  # of 8
    assert report["figures"]["world_direction"]["value"] == 1.0
    assert report["figures"]["world_score"]["n"] == 8
    assert {"videos_per_s", "stage_denoise", "stage_text_encode", "stage_vae_decode", "temporal_flickering"} <= set(report["figures"])
    assert report["effective"]["experts"] == "2"
    assert sum(report["canaries"].values()) == 0


def test_one_step_visibly_lowers_the_score(suite: SuiteRun) -> None:
    scores = []
    for steps in (1, 8):
        changes = [f"pipeline.num_inference_steps={steps}", "dataset.num_prompts=20", "metrics=[world_score]", "report_videos=0"]
        done = suite("--workload", "t2v", "--mode", "accuracy", *(word for change in changes for word in ("--set", change)))
        scores.append(read_report(done)["figures"])
    one, eight = scores
    assert one["world_score"]["value"] + 0.5 < eight["world_score"]["value"]
    assert one["world_shape"]["value"] + 0.5 < eight["world_shape"]["value"]
    assert eight["world_score"]["value"] >= 0.85


@pytest.mark.parametrize(("workload", "preset"), [("llm", "llm/toy"), ("vlm", "vlm/toy")])
def test_the_text_panels_run_on_their_toys(suite: SuiteRun, workload: str, preset: str) -> None:
    done = suite("--config", preset, "--set", "load.min_duration_s=0.2", "--set", "dataset.num_prompts=24")
    assert done.returncode == 0, done.stderr
    report = read_report(done)
    assert report["workload"] == workload
    assert report["figures"]["exact_match"]["value"] == 1.0
    assert report["figures"]["tokens_per_s"]["value"] > 0


@pytest.mark.parametrize("scenario", ["single_stream", "multi_stream", "server"])
def test_every_scenario_is_valid_under_loadgen(suite: SuiteRun, scenario: str) -> None:
    settings = [
        "load.min_query_count=70",
        "load.target_qps=100",
        "load.min_duration_s=0.5",
        "load.target_latency_s=5",
        "pipeline.seconds=0.01",
    ]
    chosen = [word for setting in settings for word in ("--set", setting)]
    done = suite("--config", "t2v/toy", "--scenario", scenario, "--set", "dataset.num_prompts=8", *chosen)
    report = read_report(done)
    assert report["loadgen"]["performance"]["Result is"] == "VALID", report["reasons"]
    assert report["agreement"]
    assert report["verdict"] == "VALID", report["reasons"]


def test_both_modes_time_one_test_and_judge_the_other(suite: SuiteRun) -> None:
    done = suite("--config", "t2v/toy", "--mode", "both", *QUICK)
    report = read_report(done)
    assert report["verdict"] == "VALID", report["reasons"]
    assert set(report["loadgen"]) == {"performance", "accuracy"}
    assert report["figures"]["world_score"]["n"] == 8
    folder = Path(last_line(done)["run"])
    digests = {r.sample_index: r.digest for r in read_run(folder)[2] if r.mode == "accuracy"}
    assert {a.qsl_idx: a.data.lower() for a in read_answers(folder / "accuracy/mlperf_log_accuracy.json")} == digests
    assert not any(a.data for a in read_answers(folder / "performance/mlperf_log_accuracy.json"))


def test_a_report_is_rebuilt_from_its_folder_alone(suite: SuiteRun) -> None:
    first = read_report(suite("--config", "t2v/toy", "--output", "run", *QUICK))
    again = read_report(suite("report", "run"))
    assert again == first


def test_the_html_report_needs_nothing_else(suite: SuiteRun, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a red disc stays still\n<script>alert(1)</script>\n", encoding="utf-8")
    suite("--config", "t2v/toy", "--set", "dataset.prompts=p.txt", "--output", "run", *QUICK)
    page = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert page.count("data:video/webm;base64,") == 2
    assert "data:image/png;base64," in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script" not in page
    assert 'src="http' not in page
    assert page.count("<svg") == 3


def test_the_manifest_holds_what_a_repeat_needs(suite: SuiteRun, tmp_path: Path) -> None:
    suite("--config", "t2v/toy", "--output", "run", *QUICK)
    manifest = json.loads((tmp_path / "run/manifest.json").read_text(encoding="utf-8"))
    assert manifest["seed"] == 42
    assert len(manifest["prompt_set_sha256"]) == 64
    assert {"records.jsonl", "config.yaml", "media/performance-000000.mkv"} <= set(manifest["files"])
    system = json.loads((tmp_path / "run/system.json").read_text(encoding="utf-8"))
    assert system["packages"]["torch"]


@pytest.mark.parametrize(("fault", "canary"), [("noise", "noise"), ("nan", "nan"), ("same", "identical")])
def test_a_fast_but_broken_pipeline_is_invalid_by_the_canarys_name(suite: SuiteRun, fault: str, canary: str) -> None:
    done = suite("--config", "t2v/toy", "--set", f"pipeline.fault={fault}", *QUICK)
    assert done.returncode == 3
    report = read_report(done)
    assert report["verdict"] == "INVALID"
    assert report["canaries"][canary] > 0
    assert any(f"canary '{canary}'" in reason for reason in report["reasons"])


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
    env = {"PYTHONPATH": str(tmp_path / "site")}
    assert "plain_grey               package grey-video" in suite("list", env=env).stdout
    done = suite("--config", "t2v/toy", "--set", "pipeline={name: plain_grey}", *QUICK, env=env)
    assert done.returncode == 0, done.stderr


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
def test_a_users_mistake_gets_one_message(suite: SuiteRun, arguments: list[str], message: str) -> None:
    done = suite(*arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.startswith("suite: ")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_no_arguments_teach_instead_of_failing_silently(suite: SuiteRun) -> None:
    done = suite()
    assert done.returncode == 2
    assert "Examples:" in done.stdout
    assert "--workload" in done.stdout


def test_help_imports_nothing_heavy(suite: SuiteRun) -> None:
    done = suite("--help", env={"PYTHONPROFILEIMPORTTIME": "1"})
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "typer" in imported
    assert not imported & {"torch", "diffusers", "transformers", "numpy", "pydantic", "scipy"}


def test_suite_py_defines_no_class() -> None:
    assert "class " not in (ROOT / "suite.py").read_text(encoding="utf-8")
