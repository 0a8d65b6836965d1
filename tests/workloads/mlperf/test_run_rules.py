"""MLPerf's rules: the table against LoadGen's own, LoadGen as it is set up, what is refused, and what a log shows of it.

LoadGen gives out its embedded mlperf.conf once in a process, so each question is asked in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs.errors import ConfigError
from configs.load_config import load_config, parse_config, read_yaml
from configs.registry import make
from configs.run_config import RunConfig
from metrics.report.html.page import write_html
from metrics.report.report import build_report
from metrics.report.terminal import print_summary
from metrics.validity.mlperf_rules import departures
from tests.configs.test_presets import SCENARIOS
from tests.conftest import record
from tests.metrics.conftest import write_run
from workloads.mlperf.benchmarks import ROUNDS, benchmark
from workloads.mlperf.notices import UNVERIFIED, differences_from_reference, notice, notices
from workloads.mlperf.rules import MIN_DURATION_S, Benchmark, ScenarioRules, seeds
from workloads.mlperf.run_rules import apply_mlperf_rules, check_data, check_generation, embedded_round, shown_benchmark
from workloads.mlperf.vbench_prompts import NEGATIVE_PROMPT
from workloads.records import Sample
from workloads.run_folder.files import write_config

ROOT = Path(__file__).parents[3]

IN_FORKS = """
import json, os, sys
def ask(question):
    there, here = os.pipe()
    if not os.fork():
        os.write(here, json.dumps(question()).encode())
        os._exit(0)
    os.close(here)
    with os.fdopen(there) as answer:
        found = json.load(answer)
    os.wait()
    return found
def plain(s):
    names = [n for n in dir(s) if n[0] != "_" and n != "FromConfig"]
    return {n: getattr(s, n) for n in names if isinstance(getattr(s, n), (bool, int, float))}
"""

EMBEDDED = """
import mlperf_loadgen as lg
def settings(model, scenario):
    s = lg.TestSettings()
    s.FromConfig("", model, scenario, 1)
    return plain(s)
print(json.dumps([ask(lambda: settings(m, s)) for m, s in json.loads(sys.argv[1])]))
"""

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
test = LoadTest(config, "performance", 30, 1.0, True, Path(sys.argv[2]), lambda ids, _: came.append((ids[0], time.perf_counter())))
test.start()
answered = 0
while test.running:
    while answered < len(came):
        test.first_tokens([(came[answered][0], 1)])
        test.complete([(came[answered][0], "", 2)])
        answered += 1
    time.sleep(0.001)
late = [at - test.scheduled_s(i) for i, (_, at) in enumerate(came)]
print(json.dumps([test.error, len(late), statistics.median(late) - min(late)]))
"""


def _asked(script: str, *arguments: str) -> Any:
    command = [sys.executable, "-c", IN_FORKS + script, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _values(name: str, scenario: str = "offline", rules: str = "mlperf-v6.1", **more: Any) -> dict[str, Any]:
    workload = next((table[name].workload for table in ROUNDS.values() if name in table), "llm")
    return {"workload": workload, "pipeline": {"name": f"toy_{workload}"}, "rules": rules, "benchmark": name, "scenario": scenario, **more}


def _config(name: str, scenario: str = "offline", rules: str = "mlperf-v6.1", **more: Any) -> RunConfig:
    return parse_config(_values(name, scenario, rules, **more), "test")


LOADGEN = {"offline": "Offline", "server": "Server", "interactive": "Server", "single_stream": "SingleStream"}


def _ours(found: Benchmark, rules: ScenarioRules) -> dict[str, Any]:
    """The table's figures by LoadGen's names."""
    limits = rules.limits
    ours: dict[str, Any] = {
        "min_duration_ms": MIN_DURATION_S * 1000,
        "min_query_count": rules.min_query_count,
        "performance_sample_count_override": rules.num_samples,
        "sample_concatenate_permutation": found.equal_issue,
        "use_token_latencies": found.by_token,
        **dict(zip(("qsl_rng_seed", "sample_index_rng_seed", "schedule_rng_seed"), seeds(found.round), strict=True)),
    }
    if rules.scenario in ("server", "interactive"):
        ours |= {"server_target_latency_percentile": rules.percentile, "server_target_latency_ns": (limits.target_latency_s or 0) * 1e9}
        if found.by_token:
            ours |= {"ttft_latency": (limits.target_ttft_s or 0) * 1e9, "tpot_latency": (limits.target_tpot_s or 0) * 1e9}
    elif rules.scenario == "single_stream":
        ours["single_stream_target_latency_percentile"] = rules.percentile
    if rules.num_accuracy_samples != rules.num_samples:
        ours["accuracy_sample_count_override"] = rules.num_accuracy_samples
    return ours


# Where the table says more than LoadGen 6.0.17's mlperf.conf, which is silent: gpt-oss's least count in Offline is the checker's, and
# Qwen3-VL's Interactive is in the policies alone.
BEYOND_LOADGEN: dict[tuple[str, str], dict[str, Any]] = {
    ("gpt-oss-120b", "offline"): {"min_query_count": 100},
    ("qwen3-vl-235b-a22b", "interactive"): {"server_target_latency_ns": 12e9, "performance_sample_count_override": 48289},
}


def test_the_table_is_what_loadgen_has_embedded() -> None:
    table = [(b, s) for b in ROUNDS[embedded_round()].values() for s in b.scenarios]
    embedded = _asked(EMBEDDED, json.dumps([(s.loadgen_model, LOADGEN[s.scenario]) for _, s in table]))
    parted = {}
    for (found, rules), theirs in zip(table, embedded, strict=True):
        beyond = BEYOND_LOADGEN.get((found.name, rules.scenario), {})
        for key, value in (_ours(found, rules) | beyond).items():
            if theirs[key] != pytest.approx(value):
                parted[found.name, rules.scenario, key] = (value, theirs[key])
    assert parted == {}


def test_rounds_differ_in_seeds_scenarios_and_models_alone() -> None:
    old, new = ROUNDS["v6.0"], ROUNDS["v6.1"]
    assert set(old) - set(new) == {"llama2-70b-99"}
    assert old["qwen3-vl-235b-a22b"].required == ("offline", "server")
    assert new["qwen3-vl-235b-a22b"].required == ("offline",)
    assert new["qwen3-vl-235b-a22b"].optional == ("server", "interactive")
    assert old["gpt-oss-120b"].scenarios == new["gpt-oss-120b"].scenarios
    assert set(seeds("v6.0")).isdisjoint(seeds("v6.1"))


@pytest.mark.parametrize(
    ("name", "lowest"),
    [
        ("llama2-70b-99.9", [44.3868, 22.0132, 28.5876, 265.005]),  # 44.4312 x 0.999 ...; 294.45 x 0.9
        ("gpt-oss-120b", [82.2987, None]),  # 83.13 x 0.99
        ("qwen3-vl-235b-a22b", [0.782397]),  # 0.7903 x 0.99
        ("wan-2.2-t2v-a14b", [69.7752]),  # 70.48 x 0.99
        ("deepseek-r1", [80.544618, 3497.60466]),  # 81.3582 x 0.99; 3886.2274 x 0.9
        ("llama3.1-8b", [38.391408, 15.748425, 24.250743, 35.43507, 7350879.6]),
    ],
)
def test_gates_are_the_published_figures_times_the_published_share(name: str, lowest: list[float | None]) -> None:
    gates = benchmark(name, "v6.1").gates
    assert [g.at_least if g.at_least is None else pytest.approx(g.at_least, abs=5e-5) for g in gates] == lowest


def test_loadgen_is_set_up_by_the_rules(tmp_path: Path) -> None:
    cases = [
        (_values("llama2-70b-99", "interactive", "mlperf-v6.0", load={"target_qps": 33.5}), 24576),
        (_values("qwen3-vl-235b-a22b", "interactive"), 8000),
        (_values("wan-2.2-t2v-a14b", "single_stream", load={"target_qps": 0.04}), 248),
        (_values("gpt-oss-120b", load={"target_qps": 110}), 6396),
        (_values("llama2-70b-99.9", "server", load={"target_ttft_s": 1.5, "min_duration_s": 700, "min_query_count": 5000}), 24576),
    ]
    found = _asked(SET_UP, json.dumps([(*case, str(tmp_path / str(i))) for i, case in enumerate(cases)]))
    old, qwen, wan, offline, tighter = found
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


def test_a_server_by_the_rules_comes_when_we_say_it_comes(tmp_path: Path) -> None:
    values = _values("llama2-70b-99.9", "server", "mlperf-v6.0", load={"target_qps": 60, "min_query_count": 40})
    error, count, late_s = _asked(LATE, json.dumps(values), str(tmp_path))
    assert error is None
    assert count >= 40
    assert late_s < 0.004  # a schedule of other draws is off by whole gaps, 17 ms
    told = departures(tmp_path, benchmark("llama2-70b-99.9", "v6.0"), "server", "performance")
    assert len(told) == 2  # of the seeds, limits and the mode, LoadGen's log says nothing else
    assert "qsl_reported_total_count is 30, and 24576 is asked" in told[0]
    assert "effective_min_duration_ms is 1000, at least 600000 is asked" in told[1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _config("gpt-oss-120b", load={"min_duration_s": 60}), r"load.min_duration_s is 60.*at least 600;.*--set rules=quick"),
        (lambda: _config("wan-2.2-t2v-a14b", load={"min_query_count": 49}), "load.min_query_count is 49.*at least 50"),
        (lambda: _config("wan-2.2-t2v-a14b", "single_stream", load={"min_query_count": 63}), "is 63.*at least 64"),
        (lambda: _config("gpt-oss-120b", "server", load={"target_tpot_s": 0.09}), "load.target_tpot_s is 0.09.*at most 0.08"),
        (
            lambda: _config("gpt-oss-120b", "interactive", load={"interactive": {"target_ttft_s": 3}}),
            "load.interactive.target_ttft_s.*at most 2",
        ),
        (lambda: _config("gpt-oss-120b", "server", load={"target_percentile": 0.9}), "load.target_percentile is 0.9.*asks 0.99"),
        (lambda: _config("qwen3-vl-235b-a22b", "server", load={"target_ttft_s": 1}), "no limit on tokens"),
        (
            lambda: _config("gpt-oss-120b", "single_stream"),
            "no scenario 'single_stream' in MLPerf v6.1; it has offline, server, interactive",
        ),
        (lambda: _config("qwen3-vl-235b-a22b", "interactive", "mlperf-v6.0"), "no scenario 'interactive' in MLPerf v6.0"),
        (lambda: _config("gpt-oss-120b", mode="both"), "two runs, --mode performance --set dataset.source=gpt-oss-performance and"),
        (lambda: _config("llama2-70b-99"), "'llama2-70b-99' is none of MLPerf v6.1, only of v6.0"),
        (lambda: _config("gpt-oss-120"), r"unknown benchmark 'gpt-oss-120' \(did you mean 'gpt-oss-120b'\?\)"),
        (lambda: _config("gpt-oss", rules="quick"), r"unknown benchmark 'gpt-oss'"),
        (
            lambda: parse_config({k: v for k, v in _values("x").items() if k != "benchmark"}, "t"),
            "--set benchmark=NAME; known: llama2-70b-99.9",
        ),
    ],
)
def test_what_asks_for_less_is_refused_with_the_fix(make: Callable[[], RunConfig], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        apply_mlperf_rules(make())


@pytest.mark.parametrize(
    ("dataset", "num_samples", "message"),
    [
        ({}, 24576, "dataset.source is None; --set dataset.source=openorca"),
        ({"source": "openorca", "path": "builtin:made-up"}, 12, "asks all 24576 samples of openorca, and the data set has 12"),
        ({"source": "openorca", "num_prompts": 64}, 64, "dataset.num_prompts=64 leaves 64"),
        ({"source": "openorca"}, 24576, None),
    ],
)
def test_another_data_set_or_a_part_is_refused(dataset: dict[str, Any], num_samples: int, message: str | None) -> None:
    config = apply_mlperf_rules(_config("llama2-70b-99.9", dataset=dataset))
    if message is None:
        check_data(config, num_samples)
    else:
        with pytest.raises(ConfigError, match=message):
            check_data(config, num_samples)
    check_data(parse_config({"workload": "llm", "pipeline": {"name": "toy_llm"}, "dataset": dataset}, "t"), num_samples)


@pytest.mark.parametrize(
    ("name", "mode", "options", "told"),
    [
        ("wan-2.2-t2v-a14b", "performance", {"num_inference_steps": 4, "height": 720}, "pipeline.num_inference_steps is 4.*asks 20"),
        ("wan-2.2-t2v-a14b", "performance", {"height": None}, "pipeline.height is None.*--set pipeline.height=720, or --set rules=quick"),
        ("wan-2.2-t2v-a14b", "performance", {"num_inference_steps": 20, "width": 1280}, None),
        ("gpt-oss-120b", "accuracy", {"max_new_tokens": 10240}, "asks 32768 in a run of mode accuracy"),
        ("gpt-oss-120b", "performance", {"max_new_tokens": 10240}, None),
        ("wan-2.2-t2v-a14b", "performance", {"negative_prompt": NEGATIVE_PROMPT, "cache": {"name": "first_block"}}, None),
        (
            "wan-2.2-t2v-a14b",
            "performance",
            {"negative_prompt": "blur"},
            "negative_prompt is blur, .*asks 'vivid colors.*as in preset t2v",
        ),
        ("wan-2.2-t2v-a14b", "performance", {"negative_prompt": None}, "pipeline.negative_prompt is None"),
        ("gpt-oss-120b", "performance", {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": None}, None),
        ("gpt-oss-120b", "performance", {"top_p": 0.5}, "pipeline.top_p is 0.5.*--set pipeline.top_p=1.0"),
        ("gpt-oss-120b", "performance", {"top_p": None}, "pipeline.top_p is None"),
        ("gpt-oss-120b", "performance", {"top_k": 1}, "pipeline.top_k is 1, .*asks None .*--set pipeline.top_k=null"),
        ("llama2-70b-99.9", "performance", {"max_new_tokens": 16}, "max_new_tokens is 16.*asks 1024"),
        ("llama2-70b-99.9", "accuracy", {"do_sample": True}, "do_sample is True.*asks False"),
        ("llama2-70b-99.9", "accuracy", {"do_sample": False, "temperature": 1.0, "max_new_tokens": 1024}, None),
        ("llama2-70b-99.9", "accuracy", {"temperature": 0.7}, "pipeline.temperature is 0.7.*--set pipeline.temperature=0.0"),
        ("llama2-70b-99.9", "accuracy", {"temperature": 0.0}, None),
        ("deepseek-r1", "performance", {"max_new_tokens": 16}, "max_new_tokens is 16.*asks 20000"),
        ("llama3.1-8b", "performance", {"max_new_tokens": 16}, "max_new_tokens is 16.*asks 128"),
        ("llama3.1-8b", "performance", {"do_sample": True}, "do_sample is True"),
        ("llama3.1-8b", "performance", {"enable_prefix_caching": True}, "prohibits caching .*--set pipeline.enable_prefix_caching=0"),
        ("llama3.1-8b", "performance", {"mm_processor_cache_gb": 4.0}, "pipeline.mm_processor_cache_gb is 4.0"),
        ("llama3.1-8b", "performance", {"enable_prefix_caching": False, "mm_processor_cache_gb": 0.0}, None),
    ],
)
def test_answers_made_otherwise_are_refused(name: str, mode: str, options: dict[str, Any], told: str | None) -> None:
    config = apply_mlperf_rules(_config(name, mode=mode))
    if told is None:
        check_generation(config, SimpleNamespace(**options))
    else:
        with pytest.raises(ConfigError, match=told):
            check_generation(config, SimpleNamespace(**options))


@pytest.mark.parametrize("preset", SCENARIOS)
def test_the_presets_pipelines_make_answers_by_the_rules(preset: str) -> None:
    changes = ["pipeline.max_new_tokens=32768"] if "gpt-oss" in preset else []
    for mode, given in (("performance", []), ("accuracy", changes)):
        config = apply_mlperf_rules(load_config(None, preset, given, mode=mode))
        check_generation(config, make("pipelines", config.pipeline_name, config.pipeline_options))


@pytest.mark.parametrize("cache", ["first_block", {"name": "first_block", "threshold": 0.1}])
def test_what_is_not_as_the_reference_does_it_is_told(cache: str | dict[str, Any]) -> None:
    own_noise = "a clip starts from noise of its own seed; the reference starts all from one latent, fixed_latent.pt, and seed 42"
    wan = benchmark("wan-2.2-t2v-a14b", "v6.1")
    assert differences_from_reference(wan, {}) == differences_from_reference(wan, {"cache": "none"}) == [own_noise]
    told = differences_from_reference(wan, {"cache": cache})
    assert told[1].startswith("pipeline.cache is first_block: parts of the denoiser's work are left out")
    assert differences_from_reference(benchmark("llama2-70b-99.9", "v6.1"), {}) == []


def test_a_report_names_what_is_not_as_the_reference_does_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = "the reference starts all from one latent, fixed_latent.pt"
    config = {"workload": "t2v", "pipeline": {"name": "toy_t2v"}, "benchmark": "wan-2.2-t2v-a14b"}
    for rules, count in (("mlperf-v6.1", 1), ("quick", 0)):
        report = build_report(write_run(tmp_path / rules, [Sample(0, "a red square")], [record(0)], **config, rules=rules))
        assert len(report.data["notes"]) == count
        write_html(report)
        print_summary(report)
        assert all(told in note for note in report.data["notes"])
        assert (told in (tmp_path / rules / "report.html").read_text("utf-8")) == bool(count)
        assert (told in " ".join(capsys.readouterr().err.split())) == bool(count)


def test_what_the_scenario_is_held_to_stands_in_the_run_folder(tmp_path: Path) -> None:
    config = apply_mlperf_rules(_config("llama3.1-8b", "interactive", "mlperf"))
    assert config.rules == f"mlperf-{embedded_round()}"
    assert (config.limits.target_ttft_s, config.limits.target_tpot_s) == (0.5, 0.03)
    assert (config.load.min_duration_s, config.load.target_percentile) == (600, 0.99)
    write_config(tmp_path, config)
    again = parse_config(read_yaml(tmp_path / "config.yaml"), "config.yaml")
    assert again == config == apply_mlperf_rules(again)


KEPT = {
    "effective_scenario": "Server",
    "effective_test_mode": "PerformanceOnly",
    "effective_qsl_rng_seed": 2085463073848966840,
    "effective_sample_index_rng_seed": 2747215439041700203,
    "effective_schedule_rng_seed": 16159082839903944936,
    "qsl_reported_total_count": 6396,
    "effective_min_duration_ms": 600000,
    "effective_min_query_count": 100,
    "effective_sample_concatenate_permutation": True,
    "effective_target_latency_percentile": 0.99,
    "requested_use_token_latencies": True,
    "requested_server_ttft_latency": 3_000_000_000,
    "requested_server_tpot_latency": 80_000_000,
}


def _write_log(folder: Path, values: dict[str, Any], error: str = "") -> None:
    lines = [{"key": key, "value": value, "metadata": {"is_error": False}} for key, value in values.items()]
    lines += [{"key": "error_runtime", "value": error, "metadata": {"is_error": True}}] if error else []
    text = "".join(f":::MLLOG {json.dumps(line)}\n" for line in lines)
    (folder / "mlperf_log_detail.txt").write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, None),
        ({"effective_schedule_rng_seed": 1}, "effective_schedule_rng_seed is 1, and 16159082839903944936 is asked"),
        ({"effective_min_duration_ms": 599_999}, "effective_min_duration_ms is 599999, at least 600000 is asked"),
        ({"qsl_reported_total_count": 64}, "qsl_reported_total_count is 64"),
        ({"requested_server_tpot_latency": 80_000_001}, "requested_server_tpot_latency is 80000001 ns, at most 80000000"),
        ({"requested_server_tpot_latency": 70_000_000}, None),
        ({"effective_sample_concatenate_permutation": False}, "permutation is False"),
        ({"effective_target_latency_percentile": 0.9}, "percentile is 0.9"),
        ({"effective_test_mode": "AccuracyOnly"}, "mode is AccuracyOnly"),
        ({"requested_use_token_latencies": False}, "token_latencies is False"),
    ],
)
def test_a_departure_shows_in_loadgens_own_log(tmp_path: Path, change: dict[str, Any], told: str | None) -> None:
    _write_log(tmp_path, KEPT | change)
    found = departures(tmp_path, benchmark("gpt-oss-120b", "v6.1"), "server", "performance")
    assert [told in one for one in found if told] == [True] * len(found)
    assert bool(found) == bool(told)


def test_errors_of_loadgen_and_a_missing_log_are_departures(tmp_path: Path) -> None:
    found = benchmark("gpt-oss-120b", "v6.1")
    assert "cannot be told" in departures(tmp_path, found, "server", "performance")[0]
    _write_log(tmp_path, KEPT, "a sample was completed twice")
    assert departures(tmp_path, found, "server", "performance") == [
        "LoadGen logged 1 errors in the performance test, first: a sample was completed twice"
    ]


def test_every_notice_says_that_nothing_was_verified() -> None:
    quick = parse_config({"workload": "llm", "pipeline": {"name": "toy_llm"}}, "t")
    ours = apply_mlperf_rules(_config("wan-2.2-t2v-a14b", "single_stream"))
    assert UNVERIFIED == "Result not verified by MLCommons Association."
    assert notice(quick).startswith("Not an MLPerf\u2122 result")
    assert notice(ours).startswith("Unverified MLPerf\u2122 v6.1 Inference wan-2.2-t2v-a14b SingleStream. ")
    assert all(UNVERIFIED in notice(config) for config in (quick, ours))
    assert notices([ours, ours]) == notice(ours)
    assert "may only be compared" in notices([quick, ours])


def test_a_quick_run_shows_the_gates_of_the_last_round_that_had_its_benchmark() -> None:
    rounds = [shown_benchmark(_config(name, rules="quick")) for name in ("llama2-70b-99", "llama2-70b-99.9")]
    assert [found and found.round for found in rounds] == ["v6.0", "v6.1"]
