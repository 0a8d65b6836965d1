"""MLPerf LoadGen: its settings from a RunConfig, one test, and what its summary says.

LoadGen keeps state per process, so a process runs one test. By the suite's own rules its seeds come from the run's seed; by
MLPerf's it is set up from the mlperf.conf that it has embedded, a user.conf that is left beside its logs, and the seeds of
the round.
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

OFFLINE_HEADROOM = 1.5  # over the warm-up's rate, so that a run that speeds up still lasts the minimum duration
OFFLINE_EXTRA = 1.1  # times the expected rate is what LoadGen asks for in the minimum duration
LIBRARY, ORDER, SCHEDULE = -2, -3, -4  # where a sample's index stands when LoadGen's own seeds are drawn
NO_LIMIT_NS = 10**15  # twelve days
LOADGEN_SCENARIOS = {
    "offline": "Offline",
    "server": "Server",
    "interactive": "Server",
    "single_stream": "SingleStream",
    "multi_stream": "MultiStream",
}
SERVER_SHARE = 0.7  # of the warm-up's rate, where the server's target is `auto`


class LoadTest:
    """One LoadGen test in a thread of its own.

    streams: tokens come one by one, so that LoadGen counts them and holds a server to limits on them.
    on_issue(ids, indices): called on LoadGen's thread with LoadGen's own ids and the sample of each; it must return at once.
    audit: settings of a compliance test, which LoadGen lays over all others; it logs answers in performance mode then, as they tell.
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
        self._shows_answers = mode == "accuracy" or bool(audit)  # LoadGen looks at them
        asked_for = bool(self._audit.get("use_token_latencies"))
        self._by_token = streams and (config.scenario == "offline" or config.limits.by_token or asked_for)
        self._rules = scenario_rules(config)
        if self._rules is not None:
            self._by_token = benchmark_of(config).by_token or asked_for
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
        """When the server scenario scheduled its query of that number, seconds from the test's start; else None."""
        if not self._has_schedule:
            return None
        if number >= len(self._schedule):
            self._schedule = server_schedule(self._seeds().schedule, self.target_qps, max(1024, 2 * number)).tolist()
        return self._schedule[number]

    def first_tokens(self, tokens: Sequence[tuple[int, int]]) -> None:
        """Tell LoadGen that these queries, by its own ids, have their first token."""
        heard = self._config.is_server or (self._config.scenario != "offline" and self._audit)
        if not self._by_token or not heard or not tokens:
            return
        import mlperf_loadgen as lg

        if self._shows_answers:
            lg.FirstTokenComplete(_responses([(i, token.to_bytes(4, "little", signed=True), 1) for i, token in tokens]))
        else:
            lg.FirstTokenComplete([lg.QuerySampleResponse(i, _NOTHING, 0, 1) for i, _ in tokens])

    def complete(self, answers: Sequence[tuple[int, bytes | str, int]]) -> None:
        """Tell LoadGen that these queries are answered: its own id, token ids or a digest in hex for the accuracy log, tokens."""
        import mlperf_loadgen as lg

        if self._shows_answers:
            contents = ((i, bytes.fromhex(content) if isinstance(content, str) else content, n) for i, content, n in answers)
            lg.QuerySamplesComplete(_responses(list(contents)))
        else:
            lg.QuerySamplesComplete([lg.QuerySampleResponse(i, _NOTHING, 0, num_tokens) for i, _, num_tokens in answers])

    def _run(self) -> None:
        import mlperf_loadgen as lg

        def nothing(*_: object) -> None:
            """Workers hold the whole data set and flush nothing."""

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
        """LoadGen's audit.config, which is there in a compliance test only."""
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
        if scenario == "offline" and self._rules is None:  # at least once through the data set
            s.min_query_count = max(load.min_query_count, self._num_samples)
        s.offline_expected_qps = self.target_qps / OFFLINE_EXTRA
        s.server_target_qps = self.target_qps
        s.use_token_latencies = self._by_token
        if self._rules is None or not limits.by_token:  # mlperf.conf's is 0 beside limits on tokens
            s.server_target_latency_ns = _nanoseconds(limits.target_latency_s)
        s.ttft_latency, s.tpot_latency = _nanoseconds(limits.target_ttft_s), _nanoseconds(limits.target_tpot_s)
        s.server_target_latency_percentile = load.target_percentile
        s.single_stream_expected_latency_ns = round(1e9 / self.target_qps)
        s.multi_stream_expected_latency_ns = round(load.target_latency_s * 1e9)
        s.multi_stream_target_latency_percentile = load.target_percentile
        s.multi_stream_samples_per_query = load.samples_per_query
        s.qsl_rng_seed, s.sample_index_rng_seed, s.schedule_rng_seed = self._seeds()
        return s

    def _read_mlperf_conf(self, s: Any, rules: ScenarioRules) -> None:
        """What LoadGen has embedded for the benchmark, and a user.conf that says what a submission may set of it."""
        path, scenario, load = self._folder / "user.conf", LOADGEN_SCENARIOS[self._config.scenario], self._config.load
        rate = {
            "SingleStream": f"target_latency = {max(1, round(1000 / self.target_qps))}",
            "Offline": f"target_qps = {self.target_qps / OFFLINE_EXTRA!r}",
        }.get(scenario, f"target_qps = {self.target_qps!r}")
        lines = (rate, f"min_duration = {round(load.min_duration_s * 1000)}", f"min_query_count = {load.min_query_count}")
        path.write_text("".join(f"*.{scenario}.{line}\n" for line in lines), encoding="utf-8")
        if error := s.FromConfig(str(path), rules.loadgen_model, scenario):
            raise RuntimeError(f"it cannot be set up for {rules.loadgen_model} {scenario} from {path}: error {error}")
        if self._mode == "performance":  # as many as there are, where mlperf.conf has no section for the scenario
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
    """LoadGen's own structures for (id, content, tokens). They hold raw pointers, so they keep the contents alive."""
    import mlperf_loadgen as lg

    responses = _Responses()
    for loadgen_id, content, num_tokens in answers:
        buffer = array.array("B", content)
        address, length = buffer.buffer_info()
        responses.append(lg.QuerySampleResponse(loadgen_id, address, length, num_tokens))
        responses.buffers.append(buffer)
    return responses


_NOTHING = 0  # the address of an answer that LoadGen does not look at: in performance mode it logs none


class _Responses(list[Any]):
    """QuerySampleResponses and what they point to."""

    def __init__(self) -> None:
        super().__init__()
        self.buffers: list[array.array[int]] = []


def target_qps(config: RunConfig, samples_per_s: float) -> float:
    """The rate LoadGen is told: the one given, else from the warm-up's samples a second over all ranks."""
    if config.load.target_qps != "auto":
        return float(config.load.target_qps)
    return samples_per_s * {"offline": OFFLINE_HEADROOM, "server": SERVER_SHARE, "interactive": SERVER_SHARE}.get(config.scenario, 1.0)


def read_summary(folder: Path) -> dict[str, str]:
    """mlperf_log_summary.txt as {name: value}; empty where LoadGen wrote none."""
    path = folder / "mlperf_log_summary.txt"
    if not path.exists():
        return {}
    pairs = re.findall(r"^\s*\*?\s*([^:\n]+?)\s*:[ \t]*(.*?)\s*$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: value for name, value in pairs if value}
