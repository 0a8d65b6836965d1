"""LoadGen set up by MLPerf's rules, and tests that last as long as they have to."""

from __future__ import annotations

import contextlib
import json
import queue
import time
from pathlib import Path

import pytest

from configs.load_config import parse_config
from metrics.validity.mlperf_rules import departures
from tests.workloads.conftest import ask_loadgen, mlperf_values
from workloads.loadgen.load_test import LoadTest, target_qps
from workloads.loadgen.logs import read_detail
from workloads.mlperf.benchmarks import benchmark
from workloads.mlperf.rules import seeds

SET_UP = """
from pathlib import Path
from configs.load_config import parse_config
from workloads.loadgen.load_test import LoadTest
from workloads.mlperf.run_rules import apply_mlperf_rules
def settings(values, num_samples, folder):
    folder = Path(folder)
    folder.mkdir(parents=True)
    test = LoadTest(apply_mlperf_rules(parse_config(values, "t")), "performance", num_samples, 1.0, True, folder, lambda *_: None)
    return plain(test._settings()) | {"user.conf": (folder / "user.conf").read_text()}
print(json.dumps([ask(lambda: settings(*case)) for case in json.loads(sys.argv[1])]))
"""


LATE = """
import statistics, time
from pathlib import Path
from configs.load_config import parse_config
from workloads.loadgen.load_test import LoadTest
from workloads.mlperf.run_rules import apply_mlperf_rules
config = apply_mlperf_rules(parse_config(json.loads(sys.argv[1]), "t"))
config = config.model_copy(update={"load": config.load.model_copy(update={"min_duration_s": 1.0})})
came = []
test = LoadTest(config, "performance", 30, 1.0, True, Path(sys.argv[2]), lambda ids, _: came.extend((i, time.perf_counter()) for i in ids))
test.start()
answered = 0
while test.running:
    while answered < len(came):
        test.first_tokens([(came[answered][0], 1)])
        test.complete([(came[answered][0], "", 2)])
        answered += 1
    time.sleep(0.001)
late = [at - test.scheduled_s(i) for i, (_, at) in enumerate(came)]
print(json.dumps([test.error, len(late), statistics.quantiles(late, n=5)[0] - min(late)]))
"""


def test_loadgen_is_set_up_by_the_rules(tmp_path: Path) -> None:
    cases = [
        (mlperf_values("llama2-70b-99", "interactive", "mlperf-v6.0", load={"target_qps": 33.5}), 24576),
        (mlperf_values("qwen3-vl-235b-a22b", "interactive"), 8000),
        (mlperf_values("wan-2.2-t2v-a14b", "single_stream", load={"target_qps": 0.04}), 248),
        (mlperf_values("gpt-oss-120b", load={"target_qps": 110}), 6396),
        (mlperf_values("llama2-70b-99.9", "server", load={"target_ttft_s": 1.5, "min_duration_s": 700, "min_query_count": 5000}), 24576),
    ]
    settings = ask_loadgen(SET_UP, json.dumps([(*case, str(tmp_path / str(i))) for i, case in enumerate(cases)]))
    old, qwen, wan, offline, tighter = settings
    assert [old["qsl_rng_seed"], old["sample_index_rng_seed"], old["schedule_rng_seed"]] == list(seeds("v6.0"))
    assert [wan["qsl_rng_seed"], wan["sample_index_rng_seed"], wan["schedule_rng_seed"]] == list(seeds("v6.1"))
    assert (old["ttft_latency"], old["tpot_latency"], old["use_token_latencies"]) == (450_000_000, 40_000_000, True)
    assert old["server_target_qps"] == 33.5
    assert all(one["min_duration_ms"] == 600_000 for one in (old, qwen, wan, offline))
    assert (qwen["server_target_latency_ns"], qwen["performance_sample_count_override"]) == (1_500_000_000, 8000)
    assert (qwen["use_token_latencies"], qwen["sample_concatenate_permutation"]) == (False, True)
    assert (wan["sample_concatenate_permutation"], wan["min_query_count"]) == (False, 100)
    assert (offline["min_query_count"], offline["use_token_latencies"]) == (6396, True)
    assert offline["offline_expected_qps"] == pytest.approx(100)  # LoadGen asks for a tenth more
    assert (tighter["ttft_latency"], tighter["tpot_latency"]) == (1_500_000_000, 200_000_000)
    assert (tighter["min_duration_ms"], tighter["min_query_count"], tighter["server_target_latency_percentile"]) == (700_000, 5000, 0.99)
    assert "*.SingleStream.target_latency = 25000\n" in wan["user.conf"]
    assert "*.Server.target_qps = 33.5\n" in old["user.conf"]
    assert "*.Server.min_duration = 700000\n*.Server.min_query_count = 5000\n" in tighter["user.conf"]


def test_a_server_under_the_rules_keeps_our_schedule(tmp_path: Path) -> None:
    values = mlperf_values("llama2-70b-99.9", "server", "mlperf-v6.0", load={"target_qps": 60, "min_query_count": 40})
    error, count, late_s = ask_loadgen(LATE, json.dumps(values), str(tmp_path))
    assert error is None
    assert count >= 40
    assert late_s < 0.01  # of all but a fifth; a schedule of other draws is off by ever more gaps of 17 ms
    problems = departures(tmp_path, benchmark("llama2-70b-99.9", "v6.0"), "server", "performance")
    assert len(problems) == 2  # of the seeds, limits and the mode, LoadGen's log says nothing else
    assert "qsl_reported_total_count is 30, must be 24576" in problems[0]
    assert "effective_min_duration_ms is 1000, must be at least 600000" in problems[1]


@pytest.mark.parametrize("scenario", ["single_stream", "multi_stream"])
def test_a_stream_faster_than_its_warm_up_lasts_the_minimum_duration(tmp_path: Path, scenario: str) -> None:
    load = {"min_duration_s": 0.3, "min_query_count": 1, "samples_per_query": 2}
    config = parse_config({"workload": "t2v", "scenario": scenario, "pipeline": {"name": "toy_t2v"}, "load": load}, "test")
    issued: queue.Queue[list[int]] = queue.Queue()
    test = LoadTest(config, "performance", 10, 20.0, False, tmp_path, lambda ids, _: issued.put(ids))
    test.start()
    while test.running:
        with contextlib.suppress(queue.Empty):
            ids = issued.get(timeout=0.1)
            time.sleep(0.01)  # five to ten times as fast as the warm-up: 20 samples a second, 10 queries of multi_stream
            test.complete([(one, "", 0) for one in ids])
    log = read_detail(tmp_path / "mlperf_log_detail.txt")
    assert log.values["result_min_duration_met"] is True
    assert log.errors == []


def test_expected_rates_have_headroom_over_the_warm_up() -> None:
    def rate(samples_per_s: float, scenario: str, **load: float) -> float:
        values = {"workload": "t2v", "scenario": scenario, "pipeline": {"name": "toy_t2v"}, "load": load}
        return target_qps(parse_config(values, "test"), samples_per_s)

    assert rate(10.0, "offline") == 15.0
    assert rate(10.0, "server") == 7.0
    assert rate(10.0, "single_stream") == 80.0
    assert rate(10_000.0, "single_stream", min_duration_s=10.0) == 25_000.0  # LoadGen generates 500,000 queries
    assert rate(10_000.0, "single_stream", min_duration_s=600.0) == 10_000.0
    assert rate(10.0, "offline", target_qps=3.0) == 3.0
