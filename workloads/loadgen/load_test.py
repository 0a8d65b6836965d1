"""One MLPerf LoadGen test: its settings from a RunConfig, its thread, its summary.

LoadGen keeps state per process, so a process runs one test. Under the suite's own rules LoadGen's seeds come from the run's seed. Under
MLPerf's rules they are the round's, and the settings come from the mlperf.conf that LoadGen has embedded and from a user.conf that is
written beside its logs.
Source of field meanings: mlcommons/inference, loadgen/test_settings.h.
"""

from __future__ import annotations

import array
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.run_config import RunConfig
from workloads.loadgen.server_schedule import server_schedule
from workloads.mlperf.rules import ScenarioRules, Seeds, seeds
from workloads.mlperf.run_rules import benchmark_of, scenario_rules
from workloads.records import query_seed

# LoadGen generates all queries before the test, for the minimum duration at the expected rate, and a test that runs out of them ends
# early and is INVALID. In offline every sample takes time, so the headroom is small, and a test that was too short is run again
# (pipelines/launcher/session.py). Streams stop at the minimum duration whatever is left, so theirs is large.
OFFLINE_HEADROOM = 1.5  # times the warm-up's rate
STREAM_HEADROOM = 8.0  # times the warm-up's rate; LoadGen doubles it
MAX_STREAM_QUERIES = 500_000  # with headroom; LoadGen holds each in some 200 bytes
SERVER_SHARE = 0.7  # of the warm-up's rate
OFFLINE_SLACK = 1.1  # LoadGen's own factor on the expected rate (kSlack)
LIBRARY, ORDER, SCHEDULE = -2, -3, -4  # in place of a sample's index, to draw LoadGen's three seeds
NO_LIMIT_NS = 10**15  # twelve days
LOADGEN_SCENARIOS = {
    "offline": "Offline",
    "server": "Server",
    "interactive": "Server",
    "single_stream": "SingleStream",
    "multi_stream": "MultiStream",
}


class LoadTest:
    """One LoadGen test in a thread of its own.

    samples_per_s: the warm-up's rate over all ranks, from which the number of queries follows.
    streams: tokens come one by one, so that LoadGen counts them and applies a server's token limits.
    on_issue(ids, indices): called on LoadGen's thread with LoadGen's own ids and the sample of each; it must return at once.
    audit: settings of a compliance test, which override all others. LoadGen then logs answers in performance mode too.
    """

    def __init__(
        self,
        config: RunConfig,
        mode: str,
        num_samples: int,
        samples_per_s: float,
        streams: bool,
        folder: Path,
        on_issue: Callable[[list[int], list[int]], None],
        audit: Mapping[str, int] | None = None,
    ) -> None:
        self._config, self._mode, self._num_samples = config, mode, num_samples
        self._folder, self._on_issue = folder, on_issue
        self._audit = {k: v for k, v in (audit or {}).items() if streams or k != "use_token_latencies"}
        self._logs_answers = mode == "accuracy" or bool(audit)
        audits_tokens = bool(self._audit.get("use_token_latencies"))
        self._by_token = streams and (config.scenario == "offline" or config.limits.by_token or audits_tokens)
        self._rules = scenario_rules(config)
        if self._rules is not None:
            self._by_token = benchmark_of(config).by_token or audits_tokens
        self.target_qps = target_qps(config, samples_per_s)
        self._thread = threading.Thread(target=self._run, name="loadgen", daemon=True)
        self._has_schedule = config.is_server and mode == "performance"
        self._schedule: list[float] = []
        self.error: str | None = None

    def start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self.scheduled_s(int(1.2 * self.target_qps * self._config.load.min_duration_s))  # drawn before the clock starts
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def join(self, timeout_s: float) -> bool:
        self._thread.join(timeout_s)
        return not self.running

    def scheduled_s(self, number: int) -> float | None:
        """Scheduled time of the query of that number in the server scenario, in seconds from the test's start; None in other scenarios."""
        if not self._has_schedule:
            return None
        if number >= len(self._schedule):
            self._schedule = server_schedule(self._seeds().schedule, self.target_qps, max(1024, 2 * number)).tolist()
        return self._schedule[number]

    def first_tokens(self, tokens: Sequence[tuple[int, int]]) -> None:
        """Report first tokens to LoadGen: its own query id and the token's id."""
        expected = self._config.is_server or (self._config.scenario != "offline" and self._audit)  # else LoadGen logs an error
        if not self._by_token or not expected or not tokens:
            return
        import mlperf_loadgen as lg

        if self._logs_answers:
            lg.FirstTokenComplete(_responses([(i, token.to_bytes(4, "little", signed=True), 1) for i, token in tokens]))
        else:
            response = lg.QuerySampleResponse
            lg.FirstTokenComplete([response(i, _NOTHING, 0, 1) for i, _ in tokens])

    def complete(self, answers: Sequence[tuple[int, bytes | str, int]]) -> None:
        """Report answers to LoadGen: its own query id, content for the accuracy log (token ids, or a digest in hex), number of tokens."""
        import mlperf_loadgen as lg

        if self._logs_answers:
            contents = ((i, bytes.fromhex(content) if isinstance(content, str) else content, n) for i, content, n in answers)
            lg.QuerySamplesComplete(_responses(list(contents)))
        else:
            response = lg.QuerySampleResponse
            lg.QuerySamplesComplete([response(i, _NOTHING, 0, num_tokens) for i, _, num_tokens in answers])

    def _run(self) -> None:
        import mlperf_loadgen as lg

        def nothing(*_: object) -> None:
            """Workers hold the whole data set, and nothing needs flushing."""

        sut = lg.ConstructFastSUT(self._on_issue, nothing)
        qsl = lg.ConstructQSL(self._num_samples, self._num_samples, nothing, nothing)
        try:
            lg.StartTestWithLogSettings(sut, qsl, self._settings(), self._log_settings(), str(self._audit_config()))
        except Exception as error:
            self.error = f"LoadGen stopped: {error}"
        finally:
            lg.DestroyQSL(qsl)
            lg.DestroyFastSUT(sut)

    def _audit_config(self) -> Path:
        """Path of LoadGen's audit.config; the file exists in a compliance test only."""
        path = self._folder / "audit.config"
        if self._audit:
            path.write_text("".join(f"*.*.{name} = {value}\n" for name, value in self._audit.items()), encoding="utf-8")
        return path

    def _settings(self) -> Any:
        import mlperf_loadgen as lg

        load, scenario, limits = self._config.load, self._config.scenario, self._config.limits
        s = lg.TestSettings()
        if self._rules is not None:
            self._read_mlperf_conf(s, self._rules)
        s.scenario = getattr(lg.TestScenario, LOADGEN_SCENARIOS[scenario])
        s.mode = {"performance": lg.TestMode.PerformanceOnly, "accuracy": lg.TestMode.AccuracyOnly}[self._mode]
        s.min_duration_ms = round(load.min_duration_s * 1000)
        s.min_query_count = load.min_query_count
        if scenario == "offline" and self._rules is None:  # the whole data set at least once
            s.min_query_count = max(load.min_query_count, self._num_samples)
        s.offline_expected_qps = self.target_qps / OFFLINE_SLACK
        s.server_target_qps = self.target_qps
        # What is due while Python holds LoadGen's thread is issued in one call; each keeps its schedule. No published MLPerf run does so.
        s.server_coalesce_queries = self._rules is None
        s.use_token_latencies = self._by_token
        if self._rules is None or not limits.by_token:  # with token limits mlperf.conf has 0 here
            s.server_target_latency_ns = _nanoseconds(limits.target_latency_s)
        s.ttft_latency, s.tpot_latency = _nanoseconds(limits.target_ttft_s), _nanoseconds(limits.target_tpot_s)
        s.server_target_latency_percentile = load.target_percentile
        s.single_stream_expected_latency_ns = round(1e9 / self.target_qps)
        s.multi_stream_expected_latency_ns = round(1e9 * load.samples_per_query / self.target_qps)
        s.multi_stream_target_latency_percentile = load.target_percentile
        s.multi_stream_samples_per_query = load.samples_per_query
        s.qsl_rng_seed, s.sample_index_rng_seed, s.schedule_rng_seed = self._seeds()
        return s

    def _read_mlperf_conf(self, s: Any, rules: ScenarioRules) -> None:
        """Read LoadGen's embedded mlperf.conf for the benchmark, and a user.conf with the settings that a submission may choose."""
        path, scenario, load = self._folder / "user.conf", LOADGEN_SCENARIOS[self._config.scenario], self._config.load
        rate = {
            "SingleStream": f"target_latency = {max(1, round(1000 / self.target_qps))}",
            "Offline": f"target_qps = {self.target_qps / OFFLINE_SLACK!r}",
        }.get(scenario, f"target_qps = {self.target_qps!r}")
        lines = (rate, f"min_duration = {round(load.min_duration_s * 1000)}", f"min_query_count = {load.min_query_count}")
        path.write_text("".join(f"*.{scenario}.{line}\n" for line in lines), encoding="utf-8")
        if error := s.FromConfig(str(path), rules.loadgen_model, scenario):
            raise RuntimeError(f"no settings for {rules.loadgen_model} {scenario} in {path}: error {error}")
        if self._mode == "performance":  # the whole data set, also where mlperf.conf has no section for the scenario
            s.performance_sample_count_override = self._num_samples

    def _seeds(self) -> Seeds:
        if self._rules is not None:
            return seeds(benchmark_of(self._config).round)
        return Seeds(*(query_seed(self._config.seed, purpose) for purpose in (LIBRARY, ORDER, SCHEDULE)))

    def _log_settings(self) -> Any:
        import mlperf_loadgen as lg

        output = lg.LogOutputSettings()
        output.outdir = str(self._folder)
        output.copy_summary_to_stdout = False
        log = lg.LogSettings()
        log.log_output = output
        log.enable_trace = False
        return log


def _nanoseconds(limit_s: float | None) -> int:
    return NO_LIMIT_NS if limit_s is None else round(limit_s * 1e9)


def _responses(answers: Sequence[tuple[int, bytes, int]]) -> _Responses:
    """LoadGen's own structures for (id, content, tokens). They hold raw pointers, so the list keeps the contents alive."""
    import mlperf_loadgen as lg

    responses = _Responses()
    for loadgen_id, content, num_tokens in answers:
        buffer = array.array("B", content)
        address, length = buffer.buffer_info()
        responses.append(lg.QuerySampleResponse(loadgen_id, address, length, num_tokens))
        responses.buffers.append(buffer)
    return responses


_NOTHING = 0  # address of an answer in performance mode, where LoadGen reads none


class _Responses(list[Any]):
    """QuerySampleResponses and the buffers that they point to."""

    def __init__(self) -> None:
        super().__init__()
        self.buffers: list[array.array[int]] = []


def target_qps(config: RunConfig, samples_per_s: float) -> float:
    """The expected rate that LoadGen gets, in samples a second: the configured one, else from the warm-up's rate over all ranks."""
    if config.load.target_qps != "auto":
        return float(config.load.target_qps)
    if config.is_server:
        return samples_per_s * SERVER_SHARE
    if config.scenario == "offline":
        return samples_per_s * OFFLINE_HEADROOM
    most = MAX_STREAM_QUERIES / (2 * config.load.min_duration_s)
    return max(samples_per_s, min(samples_per_s * STREAM_HEADROOM, most))


def read_summary(folder: Path) -> dict[str, str]:
    """mlperf_log_summary.txt as {name: value}; empty if LoadGen wrote none."""
    path = folder / "mlperf_log_summary.txt"
    if not path.exists():
        return {}
    pairs = re.findall(r"^\s*\*?\s*([^:\n]+?)\s*:[ \t]*(.*?)\s*$", path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return {name: value for name, value in pairs if value}
