"""/metrics, for Prometheus: counters and times of requests under vLLM's names, and what vLLM has no name for under `triptych:`.

Source of the names: docs.vllm.ai, "Production Metrics". A dashboard for vLLM reads them.
"""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from pipelines.serving.observation import Seen
from pipelines.serving.state import ServerState

FIRST_TOKEN_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
PER_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
REQUEST_S = (0.01, 0.03, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 240.0, 480.0, 960.0)
TOKENS = tuple(m * 10**e for e in range(5) for m in (1, 2, 5))
MODEL = ("model_name",)


class MetricsRoute:
    def __init__(self, state: ServerState) -> None:
        self._state, self._registry = state, CollectorRegistry()
        gauges = {
            "vllm:num_requests_running": ("Requests that the engine runs.", lambda: state.running.num_running if state.running else 0),
            "vllm:num_requests_waiting": ("Requests that wait for the engine.", lambda: state.running.num_waiting if state.running else 0),
            "triptych:loading": ("1 while the model is loaded, 0 when requests are answered.", lambda: int(state.running is None)),
        }
        for name, (what, read) in gauges.items():
            Gauge(name, what, MODEL, registry=self._registry).labels(state.model).set_function(read)
        self._prompt_tokens = Counter("vllm:prompt_tokens", "Tokens of prompts.", MODEL, registry=self._registry).labels(state.model)
        self._output_tokens = Counter("vllm:generation_tokens", "Tokens of answers.", MODEL, registry=self._registry).labels(state.model)
        by_reason, by_status = (*MODEL, "finished_reason"), (*MODEL, "status")
        self._success = Counter("vllm:request_success", "Requests answered.", by_reason, registry=self._registry)
        self._ended = Counter("triptych:requests", "Requests ended: done, refused, failed, cancelled.", by_status, registry=self._registry)
        self._first_token = self._histogram("time_to_first_token_seconds", "From a request to its first token.", FIRST_TOKEN_S)
        self._per_token = self._histogram("request_time_per_output_token_seconds", "Of a request, after its first.", PER_TOKEN_S)
        self._whole = self._histogram("e2e_request_latency_seconds", "From a request to its end.", REQUEST_S)
        self._num_prompt = self._histogram("request_prompt_tokens", "Tokens of a request's prompt.", TOKENS)
        self._num_output = self._histogram("request_generation_tokens", "Tokens of a request's answers.", TOKENS)
        state.observers.calls.append(self._count)

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/metrics", self.metrics)]

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def _histogram(self, name: str, what: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"vllm:{name}", what, MODEL, registry=self._registry, buckets=buckets).labels(self._state.model)

    def _count(self, seen: Seen) -> None:
        self._ended.labels(self._state.model, seen.status).inc()
        if seen.status != "done":
            return
        self._whole.observe(seen.done_s)
        self._success.labels(self._state.model, seen.finish_reason or "stop").inc()
        if seen.first_token_s is not None:
            self._first_token.observe(seen.first_token_s)
        if (tpot_s := seen.tpot_s) is not None:
            self._per_token.observe(tpot_s)
        if seen.num_output_tokens:
            self._prompt_tokens.inc(seen.num_input_tokens)
            self._output_tokens.inc(seen.num_output_tokens)
            self._num_prompt.observe(seen.num_input_tokens)
            self._num_output.observe(seen.num_output_tokens)
