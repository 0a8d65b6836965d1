"""LoadGen's settings and the data set of each compliance test, as the official audit.config files have them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from configs.registry import make
from configs.run_config import RunConfig
from metrics.base import Run
from workloads.base import read_samples
from workloads.loadgen.load_test import LoadTest
from workloads.records import Sample

LOG_SEED = 720381539243781796  # of all official audit.config files
SAME_INDEX = 3  # of the sample that TEST04 repeats
NUM_LOGGED = {"TEST01": 128, "TEST06": 100, "TEST07": 10_000, "TEST09": 10_000}  # answers that LoadGen logs, about
WAN_QUERIES = 64  # the official file's 20 are too few for LoadGen's early stopping; AMD's v6.0 submission set 64 too


def settings(run: Run, test: str, num_samples: int) -> dict[str, int]:
    """LoadGen's settings, as in the official audit.config of the test."""
    if test == "TEST04":
        values = {"mode": 2, "performance_issue_unique": 0, "performance_issue_same": 1}
        values["performance_issue_same_index"] = (
            SAME_INDEX if run.config.benchmark or run.workload.unit != "tokens" else _typical_index(run)
        )
        return values | ({"min_query_count": WAN_QUERIES} if run.config.benchmark == "wan-2.2-t2v-a14b" else {})
    values = {"mode": 2, "accuracy_log_rng_seed": LOG_SEED, "accuracy_log_sampling_target": NUM_LOGGED[test]}
    if test == "TEST01":
        return values | ({"accuracy_log_sampling_target": 50} if run.workload.unit == "frames" else {})
    values |= {"min_duration": 0, "sample_concatenate_permutation": 0}
    if test == "TEST06":
        return values | {"min_query_count": NUM_LOGGED[test], "use_token_latencies": 1}
    values |= {"min_query_count": num_samples, "accuracy_log_sampling_target": max(NUM_LOGGED[test], num_samples)}
    if run.config.benchmark is None and run.config.scenario not in ("offline", "multi_stream"):
        values["performance_issue_unique"] = 1  # each sample once: the official settings draw with replacement
    return values


def dataset_of(run: Run, test: str) -> tuple[dict[str, Any], Sequence[Sample]]:
    """Options of the data set, and its samples: the run's own, but for gpt-oss, whose TEST07 has a data set of its own.

    Raises ConfigError where that data set cannot be read.
    """
    if test != "TEST07" or run.config.benchmark != "gpt-oss-120b":
        return run.config.dataset, run.samples
    dataset = {"source": "gpt-oss-gpqa", "path": _gpt_oss_folder(run.config.dataset.get("path"))}
    return dataset, read_samples(make("workloads", run.config.workload, dataset), run.config.workload)


def _gpt_oss_folder(path: str | None) -> str | None:
    """The folder of all gpt-oss data sets, from the run's file: MLCommons distributes them in `perf` and `acc` of one folder."""
    if path is None or not Path(path).is_file():
        return path
    folder = Path(path).parent
    return str(folder.parent if folder.name in ("perf", "acc") else folder)


def _typical_index(run: Run) -> int:
    """The index, in LoadGen's order, of the sample whose numbers of prompt and answer tokens are the most typical of the run's speed.

    Texts differ in length, and a short one repeated would look like a cache. Typical is the mean, because throughput depends on it; for
    a stream's latency at a percentile it is that percentile.
    """
    done = [r for r in run.of_mode("performance") if r.status == "done"]
    at_percentile = run.config.scenario in ("single_stream", "multi_stream")

    def typical(counts: Sequence[int]) -> float:
        level = np.quantile(counts, run.config.load.target_percentile) if at_percentile else np.mean(counts)
        return max(1.0, float(level))

    num_output, num_input = typical([r.num_units for r in done]), typical([r.num_input_tokens for r in done])
    closest = min(done, key=lambda r: (abs(r.num_units / num_output - 1) + abs(r.num_input_tokens / num_input - 1), r.sample_index))
    return library_order(run.config, len(run.samples)).index(closest.sample_index)


def library_order(config: RunConfig, num_samples: int) -> list[int]:
    """The order into which LoadGen shuffles the data set by its seed; performance_issue_same_index counts in this order."""
    order: list[int] = []

    def answer(ids: list[int], indices: list[int]) -> None:
        order.extend(indices)
        test.complete([(i, "", 2) for i in ids])

    load = config.load.model_copy(update={"target_qps": 1.0, "min_duration_s": 0.1, "min_query_count": num_samples})
    with tempfile.TemporaryDirectory(prefix="triptych-") as folder:
        offline = config.model_copy(update={"scenario": "offline", "load": load})
        test = LoadTest(offline, "performance", num_samples, 1.0, False, Path(folder), answer)
        test.start()
        test.join(60.0)
    return order[:num_samples]
