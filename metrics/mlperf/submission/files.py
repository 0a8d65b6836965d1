"""The small files of an MLPerf submission, written from a run.

Sources: mlcommons/inference at b66003e1, tools/submission/submission_checker/constants.py (fields, patterns, video ids) and
truncate_accuracy_log.py (which part of an accuracy log is kept, and its hash).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from configs.registry import make
from metrics.base import Figure, Run
from metrics.report.load_run import load_run
from metrics.validity.gates import GateResult, evaluate
from workloads.mlperf.rules import Gate
from workloads.run_folder.media import encode, read_video, video_form

FOLDERS = {"offline": "Offline", "server": "Server", "interactive": "Interactive", "single_stream": "SingleStream"}
SCENARIOS = {folder: scenario for scenario, folder in FOLDERS.items()}
MEASUREMENTS = ("input_data_types", "retraining", "starting_weights_filename", "weight_data_types", "weight_transformations")
PATTERNS = {  # of MLPerf's metrics in accuracy.txt; the official checker uses the same
    "ROUGE1": r".*'rouge1':\s+'?([\d.]+)'?.*",
    "ROUGE2": r".*'rouge2':\s+'?([\d.]+)'?.*",
    "ROUGEL": r".*'rougeL':\s+'?([\d.]+)'?.*",
    "ROUGELSUM": r".*'rougeLsum':\s+'?([\d.]+)'?.*",
    "GEN_LEN": r".*'gen_len':\s([\d.]+).*",
    "TOKENS_PER_SAMPLE": r".*'tokens_per_sample':\s([\d.]+).*",
    "exact_match": r".*'exact_match':\s([\d.]+).*",
    "vbench_score": r".*'vbench_score':\s([\d.]+).*",
    "F1_HIERARCHICAL": r"\{.*\"f1\":\s*([\d\.]+).*\}",
}
_WORDS = {"ROUGE1": "rouge1", "ROUGE2": "rouge2", "ROUGEL": "rougeL", "ROUGELSUM": "rougeLsum", "GEN_LEN": "gen_len"}
VIDEOS = {"v6.1": (130, 106, 84, 59, 12, 123, 43, 22, 238, 32)}  # ids of the videos that a Wan submission contains
VIEWABLE_BYTES, MAX_LOG_BYTES = 4096, 10 * 1024  # of an accuracy log: kept at each end when it is truncated, and allowed


def measurements(run: Run) -> dict[str, str]:
    """measurements.json, from the effective settings."""
    ranks: list[dict[str, Any]] = next((o["ranks"] for o in run.outcome.values() if o.get("ranks")), [{}])
    effective, options = ranks[0].get("effective", {}), run.config.pipeline_options
    dtype, quantisation = effective.get("dtype", ""), effective.get("quantisation", "none")
    return {
        "input_data_types": "uint8 pixels, int64 token ids" if run.config.workload == "vlm" else "int64 token ids",
        "retraining": "N",
        "starting_weights_filename": "random weights"
        if options.get("weights") == "random"
        else str(options.get("model") or f"as {run.config.pipeline_name} has them"),
        "weight_data_types": dtype if quantisation == "none" else f"{quantisation}, {dtype}",
        "weight_transformations": "none" if quantisation == "none" else f"quantised: {quantisation}",
    }


def user_conf(run: Run, scenario: str) -> str:
    """user.conf of a run that was not made under MLPerf's rules; those that were have their own."""
    load = run.config.load
    lines: dict[str, object] = {"min_duration": round(load.min_duration_s * 1000), "min_query_count": load.min_query_count}
    if scenario != "single_stream":
        lines["target_qps"] = run.outcome.get("performance", {}).get("target_qps") or load.target_qps
    return "".join(f"*.{FOLDERS[scenario].replace('Interactive', 'Server')}.{key} = {value}\n" for key, value in lines.items())


def evaluate_gates(folder: Path) -> list[GateResult]:
    """The benchmark's gates, evaluated on figures that are computed from the run's records now."""
    run = load_run(folder)
    figures: dict[str, Figure] = {}
    for name in () if run.has_random_weights else run.metric_names:
        figures |= make("metrics", name, {}).compute(run)
    return [gate for gate in evaluate(run, figures) if "MLPerf" in gate.of]


def accuracy_text(evaluated: Sequence[GateResult], gates: Sequence[Gate], digest: str) -> str:
    """The content of accuracy.txt. Gates without a value are left out."""
    values = {gate.figure: gate.value for gate in evaluated if gate.value is not None}
    metrics = {gate.metric: values[gate.figure] for gate in gates if gate.figure in values}
    f1 = metrics.pop("F1_HIERARCHICAL", None)
    lines = [f'{{"category": {{"f1": {f1:.6f}}}}}'] if f1 is not None else []
    if metrics:
        lines.append("{" + ", ".join(f"'{_WORDS.get(metric, metric.lower())}': {value:.4f}" for metric, value in metrics.items()) + "}")
    return "\n".join([*lines, f"hash={digest}"]) + "\n"


def read_accuracy(text: str) -> tuple[dict[str, float], str | None]:
    """Read MLPerf's metrics and the hash of the log from an accuracy.txt."""
    values: dict[str, float] = {}
    for line in text.splitlines():
        for metric, pattern in PATTERNS.items():
            if (match := re.match(pattern, line)) and metric not in values:
                with suppress(ValueError):  # such as 1.2.3: then it is missing
                    values[metric] = float(match[1])
    digest = re.search(r"^hash=(\w+)$", text, re.MULTILINE)
    return values, digest[1] if digest else None


def truncate(log: bytes) -> bytes:
    """Keep both ends of an accuracy log that is too long, as MLPerf's rules require."""
    if len(log) <= MAX_LOG_BYTES:
        return log
    return log[:VIEWABLE_BYTES] + b"\n\n...\n\n" + log[-VIEWABLE_BYTES:]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write_mp4(source: Path, target: Path) -> None:
    """Encode a video of the run as H.264. Raises ValueError if it cannot be read."""
    video_THWC = read_video(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(encode(video_THWC, video_form(source).fps or 8, "mp4", "libx264", "yuv420p", {}))
