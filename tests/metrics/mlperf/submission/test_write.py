"""Writing a submission: runs, compliance folders and small files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from configs.errors import ConfigError
from metrics.mlperf.compliance.results import folder_beside, performance_log_hash
from metrics.mlperf.submission.files import PATTERNS, read_accuracy, truncate, write_mp4
from metrics.mlperf.submission.write import compliance_of, write_submission
from metrics.report.load_run import load_run
from tests.conftest import record
from tests.metrics.conftest import write_run
from tests.metrics.mlperf.submission.conftest import (
    NAME,
    detail,
)
from workloads.mlperf.benchmarks import benchmark
from workloads.records import Sample
from workloads.run_folder.media import read_video, write_video


def test_compliance_folders_are_used_only_if_they_belong_to_the_run(runs: list[Path], tmp_path: Path) -> None:
    loaded = [load_run(run) for run in runs]
    assert compliance_of(loaded, []) == {}
    beside, elsewhere = folder_beside(runs[0]), tmp_path / "elsewhere"
    for folder, run in ((beside, runs[0]), (elsewhere, runs[1])):
        folder.mkdir()
        (folder / "comply.json").write_text(json.dumps({"log": performance_log_hash(run), "tests": {}}), encoding="utf-8")
    assert compliance_of(loaded, [elsewhere]) == {runs[0]: beside, runs[1]: elsewhere}
    with pytest.raises(ConfigError, match=r"elsewhere' holds the tests of none of these runs"):
        compliance_of(loaded[:1], [elsewhere])
    detail(runs[0] / "performance", "offline", "performance", result_samples_per_second=61.0)
    with pytest.raises(ConfigError, match=r"offline-compliance' holds the tests of another run of the same name\. Remove it"):
        compliance_of(loaded, [])
    (beside / "comply.json").unlink()
    with pytest.raises(ConfigError, match=r"offline-compliance' holds no compliance tests that can be read"):
        compliance_of(loaded, [])


def test_a_run_of_no_benchmark_and_two_runs_of_one_test_are_refused(runs: list[Path], tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", [Sample(0, "?")], [record(0)])
    with pytest.raises(ConfigError, match="--set benchmark=NAME"):
        write_submission([other], "Example", "closed", "v6.1", None, None, tmp_path / "out")
    with pytest.raises(ConfigError, match="both hold the performance test"):
        write_submission([runs[0], runs[0]], "Example", "closed", "v6.1", None, None, tmp_path / "out")


def test_every_gates_metric_has_a_pattern_and_a_long_log_keeps_both_ends() -> None:
    metrics = {
        g.metric
        for round_ in ("v6.0", "v6.1")
        for name in (NAME, "gpt-oss-120b", "wan-2.2-t2v-a14b", "llama3.1-8b")
        for s in benchmark(name, round_).scenarios
        for g in s.gates
    }
    assert metrics <= PATTERNS.keys()
    text = "{'rouge1': 44.5, 'rougeL': '28.6', 'tokens_per_sample': 294.4}\nhash=ab12\n"
    assert read_accuracy(text) == ({"ROUGE1": 44.5, "ROUGEL": 28.6, "TOKENS_PER_SAMPLE": 294.4}, "ab12")
    short = truncate(b"a" * 9000 + b"b" * 9000)
    assert (short[:4096], short[-4096:]) == (b"a" * 4096, b"b" * 4096)
    assert len(short) < 10 * 1024


def test_a_video_is_encoded_as_mp4(tmp_path: Path) -> None:
    video_THWC = np.full((9, 48, 64, 3), 200, np.uint8)
    write_video(tmp_path / "a.mkv", video_THWC, 8)
    write_mp4(tmp_path / "a.mkv", tmp_path / "videos/3.mp4")
    encoded_THWC = read_video(tmp_path / "videos/3.mp4")
    assert encoded_THWC.shape == video_THWC.shape
    assert abs(int(encoded_THWC.mean()) - 200) < 5
