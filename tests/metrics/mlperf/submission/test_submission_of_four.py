"""Runs of toy pipelines under the names of benchmarks: the submission has the right files and is refused for the right reasons."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SuiteRun, last_line

# Expected rates above the real ones, so that LoadGen issues enough queries and each run is VALID under quick rules.
SHORT = ["load.min_duration_s=0.1", "load.min_query_count=8", "dataset.num_prompts=8", "truth.replays=0", "report_videos=0"]
RUNS = {
    "llama": (
        "llm/toy",
        [
            "benchmark=llama2-70b-99.9",
            "load.target_qps=1000",
            "pipeline.prefill_s=0.01",
            "dataset.num_prompts=24",
            "metrics=[tokens,rouge]",
        ],
    ),
    "oss": ("llm/toy", ["benchmark=gpt-oss-120b", "load.target_qps=1000", "pipeline.prefill_s=0.01", "metrics=[tokens]"]),
    "vlm": ("vlm/toy", ["benchmark=qwen3-vl-235b-a22b", "load.target_qps=400", "metrics=[hierarchical_f1]"]),
    "wan": ("t2v/toy", ["benchmark=wan-2.2-t2v-a14b", "load.target_qps=50", "dataset.num_prompts=13", "metrics=[throughput]"]),
}
RESULTS = "closed/Example/results/mine"
FOLDERS = {"llama": "llama2-70b-99.9", "oss": "gpt-oss-120b", "vlm": "qwen3-vl-235b-a22b", "wan": "wan-2.2-t2v-a14b"}

# Kinds of refusals: a pattern of the file, below the result's folder, and the reason.
KINDS = {
    "rules": r"(performance/run_1|accuracy): the run was made by rules 'quick'; make it with --set rules=mlperf-v6.1",
    "seeds": r".*/?mlperf_log_detail.txt: .*effective_(qsl|sample_index|schedule)_rng_seed is \d+, must be \d+",
    "size of the set": r".*/?mlperf_log_detail.txt: .*qsl_reported_total_count is \d+, must be \d+",
    "duration that was set": r"performance/run_1/mlperf_log_detail.txt: .*effective_min_duration_ms is 100, must be at least 600000",
    "duration that was met": r"performance/run_1/mlperf_log_detail.txt: the run lasted \d+\.\d s; at least 600 s are required",
    "samples": r"performance/run_1/mlperf_log_detail.txt: .*effective_min_sample_count is \d+, must be at least \d+",
    "equal issue": r"performance/run_1/mlperf_log_detail.txt: .*effective_sample_concatenate_permutation is False, must be True",
    "ROUGE of some answers": r"accuracy/accuracy.txt: ROUGE\w+ is missing: rouge_\w+ covers 2 of 24 samples .*",
    "tokens": r"accuracy/accuracy.txt: TOKENS_PER_SAMPLE is \d+(\.\d+)?; at least 265.005 is required",
    "no such score": r"accuracy/accuracy.txt: (exact_match|vbench_score) is missing: .*dataset.source is None, not .*",
    "F1 of some answers": r"accuracy/accuracy.txt: F1_HIERARCHICAL is missing: .* covers \d of 8 samples .*",
    "no weights": r"measurements.json: missing or empty fields: weight_data_types",
    "noise": r"(performance/run_1|accuracy): not as the reference: a clip starts from noise of its own seed.*",
    "videos": r"accuracy/videos: missing videos: 130, 106, 84, 59, 123, 43, 22, 238, 32",
    "TEST04 was not run": r"TEST04: missing; run suite.py comply .*/wan and submit again",
    "TEST07 was not run": r"TEST07: was not run: dataset.source 'gpt-oss-gpqa' requires dataset.path.*",
    "TEST09 failed": r"TEST09/verify_output_len.txt: the test failed",
}
OF_ALL = {
    "rules": 2,
    "seeds": 6,
    "size of the set": 2,
    "duration that was set": 1,
    "duration that was met": 1,
    "samples": 1,
    "no weights": 1,
}


COMPLIANCE_TESTS = {"llama": "TEST06", "oss": "TEST09"}  # that were run
EXTRA_FILES = {"llama": ["TEST06/verify_accuracy.txt"], "oss": ["TEST09/verify_output_len.txt"], "wan": ["accuracy/videos/12.mp4"]}
KINDS_OF = {
    "llama": OF_ALL | {"equal issue": 1, "ROUGE of some answers": 3, "tokens": 1},
    "oss": OF_ALL | {"equal issue": 1, "no such score": 1, "TEST07 was not run": 1, "TEST09 failed": 1},
    "vlm": OF_ALL | {"equal issue": 1, "F1 of some answers": 1},
    "wan": OF_ALL | {"noise": 2, "no such score": 1, "videos": 1, "TEST04 was not run": 1},
}
MISSING = dict.fromkeys(RUNS, "v6.1 requires Server or Interactive; both are missing") | {
    "wan": "v6.1 requires scenario SingleStream, which is missing"
}
COMPLY = {"llama": "PASS", "oss": "FAIL"}  # vlm has no test, and that wan's was not run is refused


@pytest.mark.parametrize("names", [("oss",), pytest.param(tuple(RUNS), marks=pytest.mark.slow)], ids=["one", "four"])
def test_toy_runs_are_refused_for_exactly_the_right_reasons(names: tuple[str, ...], suite: SuiteRun, tmp_path: Path) -> None:
    for name in names:
        preset, changes = RUNS[name]
        words = [word for change in (*SHORT, *changes) for word in ("--set", change)]
        done = suite("--config", preset, "--mode", "both", *words, "--output", name)
        assert done.returncode == 0, done.stderr
        if name in COMPLY:
            assert last_line(suite("comply", name))["verdict"] == COMPLY[name]
    done = suite("submit", "--submitter", "Example", "--division", "closed", "--system", "mine", *names)
    assert done.returncode == 3, done.stderr
    root = tmp_path / "outputs/submission"
    assert {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()} == _expected_files(names)
    if "wan" in names:
        readme = (root / RESULTS / FOLDERS["wan"] / "Offline/README.md").read_text(encoding="utf-8")
        assert "Not as the reference: a clip starts from noise of its own seed" in readme
    refusals = last_line(done)["refusals"]
    kinds = {name: Counter(_kinds(refusals, f"{RESULTS}/{FOLDERS[name]}/Offline/")) for name in names}
    assert kinds == {name: KINDS_OF[name] for name in names}
    others = {r["file"]: r["reason"] for r in refusals if "/Offline/" not in r["file"]}
    fields = others.pop("closed/Example/systems/mine.json")
    assert fields.startswith("empty fields: status, host_processors_per_node, ")
    assert others == {f"{RESULTS}/{FOLDERS[name]}": MISSING[name] for name in names}
    assert len(refusals) == 1 + len(others) + sum(counted.total() for counted in kinds.values())


def _kinds(refusals: list[dict[str, Any]], folder: str) -> list[str]:
    """The kind of each refusal in the folder; a refusal of no known kind is returned as it is."""
    lines = [f"{r['file'].removeprefix(folder)}: {r['reason']}" for r in refusals if r["file"].startswith(folder)]
    return [next((kind for kind, pattern in KINDS.items() if re.fullmatch(pattern, line)), line) for line in lines]


def _expected_files(names: Sequence[str]) -> set[str]:
    logs = ("mlperf_log_detail.txt", "mlperf_log_summary.txt")
    files = {"runs.json", "closed/Example/systems/mine.json", "closed/Example/src/README.md"}
    for name in names:
        folder = f"{RESULTS}/{FOLDERS[name]}/Offline"
        files |= {f"closed/Example/src/{FOLDERS[name]}-Offline-{mode}.yaml" for mode in ("performance", "accuracy")}
        files |= {f"{folder}/{file}" for file in ("README.md", "measurements.json", "user.conf", "accuracy/accuracy.txt")}
        files |= {f"{folder}/{test}/{log}" for test in ("performance/run_1", "accuracy") for log in logs}
        files |= {f"{folder}/accuracy/mlperf_log_accuracy.json"} | {f"{folder}/{file}" for file in EXTRA_FILES.get(name, ())}
        if name in COMPLIANCE_TESTS:
            test = COMPLIANCE_TESTS[name]
            files |= {f"{folder}/{test}/performance/run_1/{log}" for log in logs} | {f"{folder}/{test}/accuracy/mlperf_log_accuracy.json"}
    return files
