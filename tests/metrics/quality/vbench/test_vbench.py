"""VBench's scores: computed from its results, on figures that AMD has published; its environment is faked."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from configs.errors import ConfigError, RunError
from metrics.quality.vbench.environment import evaluate, plan_setup
from metrics.quality.vbench.metric import ALL, FILE, VBench
from metrics.report.load_run import load_run
from tests.conftest import record
from tests.metrics.conftest import write_run
from workloads.records import Record, Sample
from workloads.run_folder.manifest import modifications

# AMD, MLPerf Inference v6.0, open division, wan-2.2-t2v-a14b on 8 x MI355X: its eval_results.json, reported as 69.98.
AMD = {
    "subject_consistency": 0.9132,
    "background_consistency": 0.9237,
    "motion_smoothness": 0.9267,
    "dynamic_degree": 0.9444,
    "appearance_style": 0.2103,
    "scene": 0.2805,
}


def video_run(tmp_path: Path, prompts: Sequence[tuple[str, Sequence[str]]], failed: Sequence[int] = ()) -> Path:
    """A sealed run folder of videos by prompt and dimensions; their files hold no picture."""
    samples = [Sample(i, text, {"world": False, "dimensions": list(d), "vbench_index": i}) for i, (text, d) in enumerate(prompts)]
    records: list[Record] = []
    (tmp_path / "media").mkdir(parents=True)
    for i in range(len(prompts)):
        if i in failed:
            records.append(record(i, status="failed", error="lost"))
            continue
        (tmp_path / f"media/{i}.mkv").write_bytes(b"video %d" % i)
        records.append(record(i, media=f"media/{i}.mkv", digest=f"{i:016x}", num_units=9))
    return write_run(tmp_path, samples, records, workload="t2v", pipeline={"name": "toy_t2v"}, metrics=["vbench"])


SUBJECT, STYLE, SCENE = (
    ("subject_consistency", "dynamic_degree", "motion_smoothness"),
    ("appearance_style",),
    ("scene", "background_consistency"),
)
PROMPTS = [("a snail runs", SUBJECT), ("a clown rides", SUBJECT), ("a mill, pixel art", STYLE), ("attic", SCENE)]


def fake_vbench(folder: Path, means: dict[str, float], breaks: str = "") -> Path:
    """An environment whose Python is a program that judges by name alone and writes what VBench writes, in VBench's form."""
    program = folder / "fake.py"
    program.write_text(
        f"""import json, pathlib, sys
words = sys.argv[2:]
value = lambda name: words[words.index(name) + 1]
dimensions = words[words.index("--name") + 2:]
of = json.loads({json.dumps(json.dumps({p: list(d) for p, d in PROMPTS}))})
videos = sorted(pathlib.Path(value("--videos")).iterdir())
assert all(v.read_bytes().startswith(b"video") for v in videos)
means = json.loads({json.dumps(json.dumps(means))})
results = {{}}
for d in dimensions:
    seen = [v for v in videos if d in of[v.name.removesuffix("-0.mp4")]]
    results[d] = [means[d], [{{"video_path": str(v), "video_results": means[d]}} for v in seen]]
{breaks}
(pathlib.Path(value("--out")) / (value("--name") + "_eval_results.json")).write_text(json.dumps(results))
""",
        encoding="utf-8",
    )
    python = folder / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {program} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    return folder


def test_amd_s_published_dimensions_give_its_published_score(tmp_path: Path) -> None:
    folder = video_run(tmp_path / "run", PROMPTS)
    before = VBench().compute(load_run(folder))["vbench"]
    assert (before.value, before.note) == (None, "VBench has not scored this run's videos; run: suite.py vbench run")
    (tmp_path / "environment").mkdir()
    evaluate(load_run(folder), fake_vbench(tmp_path / "environment", AMD))
    figures = VBench().compute(load_run(folder))
    assert round(100 * (figures["vbench"].value or 0), 2) == 69.98
    assert {d: figures[f"vbench_{d}"].value for d in ALL} == pytest.approx(AMD)
    assert [figures[f"vbench_{d}"].n for d in ("subject_consistency", "appearance_style", "scene")] == [2, 1, 1]
    assert modifications(folder) == []


def test_failed_videos_stay_in_each_of_their_dimensions(tmp_path: Path) -> None:
    folder = video_run(tmp_path / "run", PROMPTS, failed=(1, 3))
    (tmp_path / "environment").mkdir()
    evaluate(load_run(folder), fake_vbench(tmp_path / "environment", AMD))
    figures = VBench().compute(load_run(folder))
    half = {d: AMD[d] / 2 for d in SUBJECT}  # one of two
    assert {d: figures[f"vbench_{d}"].value for d in SUBJECT} == pytest.approx(half)
    assert {figures[f"vbench_{d}"].value for d in SCENE} == {0.0}  # the only one
    assert figures["vbench_scene"].note == "1 of 1 videos are missing and count as 0"
    assert figures["vbench"].value == pytest.approx((sum(half.values()) + AMD["appearance_style"]) / 6)


def test_a_score_covers_the_videos_that_vbench_scored(tmp_path: Path) -> None:
    folder = video_run(tmp_path / "run", PROMPTS)
    (tmp_path / "environment").mkdir()
    evaluate(load_run(folder), fake_vbench(tmp_path / "environment", AMD))
    records = (folder / "records.jsonl").read_text(encoding="utf-8")
    (folder / "records.jsonl").write_text(records.replace(f"{2:016x}", "f" * 16), encoding="utf-8")
    assert VBench().compute(load_run(folder))["vbench"].value is None


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        ("sys.exit('out of memory')", "VBench failed with exit code 1: out of memory"),
        ("sys.exit(0)", "VBench failed with exit code 0: it wrote no results"),
    ],
)
def test_the_message_of_a_vbench_that_fails_is_shown(tmp_path: Path, breaks: str, message: str) -> None:
    folder = video_run(tmp_path / "run", PROMPTS)
    (tmp_path / "environment").mkdir()
    with pytest.raises(RunError, match=message):
        evaluate(load_run(folder), fake_vbench(tmp_path / "environment", AMD, breaks))
    assert not (folder / FILE).exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scene": [1.5, [{"video_path": "attic-0.mp4"}]]}, "'scene' has the mean 1.5"),
        ({"scene": [0.5, [{"video_path": "attic-0.mp4"}] * 2]}, "'attic-0.mp4', which is there twice"),
        ({"scene": [0.5, [{"video_path": "a snail runs-0.mp4"}]]}, "no video of a prompt for it"),
        ({"scene": 0.5}, r"must be \[mean, \["),
        ({"scene": None}, r"must be \[mean, \["),
    ],
)
def test_results_that_are_not_as_vbench_writes_them_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = video_run(tmp_path / "run", PROMPTS)
    (tmp_path / "environment").mkdir()
    evaluate(load_run(folder), fake_vbench(tmp_path / "environment", AMD))
    kept = json.loads((folder / FILE).read_text(encoding="utf-8"))
    kept["results"].update(change)
    (folder / FILE).write_text(json.dumps(kept), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        VBench().compute(load_run(folder))


def test_no_environment_and_no_videos_are_refused(tmp_path: Path) -> None:
    folder = video_run(tmp_path / "run", PROMPTS)
    with pytest.raises(ConfigError, match=r"suite\.py vbench-setup"):
        evaluate(load_run(folder), tmp_path / "nowhere")
    (tmp_path / "environment").mkdir()
    with pytest.raises(ConfigError, match="no video of a VBench prompt"):
        evaluate(load_run(video_run(tmp_path / "none", PROMPTS, failed=(0, 1, 2, 3))), fake_vbench(tmp_path / "environment", AMD))


def test_the_environment_s_commands_pin_what_they_install(tmp_path: Path) -> None:
    planned = plan_setup(sys.executable, tmp_path / "new", "https://example.org/rocm")
    assert planned.commands[0][:4] == [sys.executable, "-m", "venv", str(tmp_path / "new")]
    assert "https://example.org/rocm" in planned.commands[1]
    assert "vbench==0.1.5" in planned.commands[2]
    (tmp_path / "environment").mkdir()
    with pytest.raises(ConfigError, match="an environment exists in"):
        plan_setup(sys.executable, fake_vbench(tmp_path / "environment", AMD), None)
    with pytest.raises(ConfigError, match=r"Python 3.10 or 3.11"):
        plan_setup("python-of-nobody", tmp_path / "other", None)
