"""`suite.py serve`: a pipeline behind OpenAI's HTTP interface, so that other clients can measure it."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from configs.errors import ConfigError, RunError
from configs.output import print_line, say
from configs.registry import make
from configs.run_config import RunConfig
from pipelines.base import Pipeline, StreamingPipeline
from pipelines.distributed.ranks import check_process_count, join_ranks
from pipelines.models.response_check import ResponseCheck
from workloads.base import Workload, read_samples
from workloads.records import Query, query_seed


def serve(config: RunConfig, host: str, port: int, api_key_env: str | None, videos: Path | None, log: Path | None = None) -> None:
    """Serve the config's pipeline until Ctrl-C. port: 0 for any free one. videos: the folder for files; a temporary one where None.

    log: a file for a JSON line a request. The port is bound before the model is loaded. When ready, prints a line on stderr for people
    and a JSON line on stdout for programs. Raises ConfigError for a user's mistakes.
    """
    key = _key(host, api_key_env)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or config.parallel.size > 1:
        raise ConfigError("suite.py serve runs on one rank: start it with python, without parallel.*; for more devices start several")
    try:
        import aiohttp.web  # noqa: F401
    except ImportError:
        raise ConfigError("suite.py serve needs aiohttp: pip install 'triptych[endpoint]'") from None
    from pipelines.serving.app import make_app
    from pipelines.serving.engine import Engine
    from pipelines.serving.http_thread import HttpThread, bind, url_of
    from pipelines.serving.observation import RequestLog
    from pipelines.serving.state import ServerState

    check_process_count()
    workload: Workload = make("workloads", config.workload, config.dataset)
    pipeline: Pipeline = make("pipelines", config.pipeline_name, config.pipeline_options)
    if config.workload not in pipeline.workloads:
        raise ConfigError(f"pipeline {config.pipeline_name!r} answers {', '.join(pipeline.workloads)}, not workload {config.workload!r}")
    pipeline.workload, pipeline.takes_options = config.workload, True
    if isinstance(pipeline, StreamingPipeline):
        pipeline.speaks = True
    model = str(config.pipeline_options.get("model", getattr(pipeline, "model", None)) or config.pipeline_name)
    with contextlib.ExitStack() as stack:
        folder = videos or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="triptych-videos-")))
        folder.mkdir(parents=True, exist_ok=True)
        state = ServerState(pipeline, model, folder)
        if log is not None:
            requests = RequestLog(log)
            state.observers.calls.append(requests)
            stack.callback(requests.close)
        listening = stack.enter_context(bind(host, port))
        http = HttpThread(lambda: make_app(state, key), listening)
        stack.callback(http.close)
        stack.callback(pipeline.close)
        say(f"{url_of(listening)} is bound; {config.pipeline_name} is loading model {model!r}")
        _load(config, workload, pipeline)
        engine = state.running = Engine(pipeline)
        stack.callback(engine.close)
        with _stop_signals() as stopped:
            say(f"{config.pipeline_name} serves model {model!r} at {url_of(listening)}/v1; Ctrl-C ends it")
            line = {"url": url_of(listening), "model": model, "pipeline": config.pipeline_name, "effective": dict(pipeline.effective())}
            print_line(line)
            stopped.wait()
            say("stopping")


def _key(host: str, api_key_env: str | None) -> str | None:
    key = os.environ.get(api_key_env, "") if api_key_env else None
    if key == "":
        raise ConfigError(f"--api-key-env names {api_key_env!r}, which is not set in the environment, or empty")
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback and key is None:
        raise ConfigError(f"--host {host} opens this server to other machines; give --api-key-env NAME, a variable with its key")
    return key


def _load(config: RunConfig, workload: Workload, pipeline: Pipeline) -> None:
    """Load the model, and run batches of the workload's samples, as before a run. Raises RunError where the last has no usable answer."""
    pipeline.load(join_ranks(config).device)
    if fallbacks := [] if config.allow_fallback else pipeline.fallbacks():
        raise RunError(f"requested settings are not effective: {'; '.join(fallbacks)}; change the option, or set allow_fallback: true")
    samples = read_samples(workload, config.workload)[: pipeline.batch_size]
    queries = [Query(-1 - i, s.index, query_seed(config.seed, s.index)) for i, s in enumerate(samples)]
    check = ResponseCheck(pipeline, config.allow_fallback)
    for _ in range(config.warmup_batches):
        began = time.perf_counter()
        answers = check.batch(pipeline.generate(samples, queries), len(queries), time.perf_counter() - began)
    if problem := check.first_problem or check.size_problem(answers):
        raise RunError(f"warm-up failed: {problem}")
    if all(answer.error for answer in answers):
        raise RunError(f"warm-up failed: {answers[0].error}")


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set. While the model is loaded they end the process."""
    stopped = threading.Event()
    before = {one: signal.signal(one, lambda *_: stopped.set()) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
