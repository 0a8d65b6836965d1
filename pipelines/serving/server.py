"""`suite.py serve`: a pipeline behind OpenAI's HTTP interface, so that other clients can measure it."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import os
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import ConfigError, RunError
from configs.output import print_line, say
from configs.registry import make
from configs.run_config import RunConfig
from pipelines.base import Pipeline, StreamingPipeline
from pipelines.distributed.ranks import check_process_count, join_ranks
from pipelines.models.response_check import ResponseCheck
from workloads.base import Workload, read_samples
from workloads.records import Query, query_seed

if TYPE_CHECKING:
    from aiohttp import web

    from pipelines.serving.state import ServerState

MAX_BODY_BYTES = 64 * 2**20  # images are part of the body
CLOSING_S = 2.0  # time for responses in progress when the server is stopped


def serve(config: RunConfig, host: str, port: int, api_key_env: str | None, videos: Path | None) -> None:
    """Serve the config's pipeline until Ctrl-C. port: 0 for any free one. videos: the folder for files; a temporary one where None.

    When ready, prints a line on stderr for people and a JSON line on stdout for programs. Raises ConfigError for a user's mistakes.
    """
    key = _key(host, api_key_env)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or config.parallel.size > 1:
        raise ConfigError("suite.py serve runs on one rank: start it with python, without parallel.*; for more devices start several")
    try:
        import aiohttp.web  # noqa: F401
    except ImportError:
        raise ConfigError("suite.py serve needs aiohttp: pip install 'triptych[endpoint]'") from None
    check_process_count()
    workload: Workload = make("workloads", config.workload, config.dataset)
    pipeline: Pipeline = make("pipelines", config.pipeline_name, config.pipeline_options)
    if config.workload not in pipeline.workloads:
        raise ConfigError(f"pipeline {config.pipeline_name!r} answers {', '.join(pipeline.workloads)}, not workload {config.workload!r}")
    if config.workload == "i2v":
        raise ConfigError("suite.py serve has no route for the image of a video; serve workload t2v, vlm or llm")
    pipeline.workload = config.workload
    if isinstance(pipeline, StreamingPipeline):
        pipeline.speaks = True
    try:
        pipeline.load(join_ranks(config).device)
        if fallbacks := [] if config.allow_fallback else pipeline.fallbacks():
            raise RunError(f"requested settings are not effective: {'; '.join(fallbacks)}; change the option, or set allow_fallback: true")
        _warm_up(config, workload, pipeline)
        with tempfile.TemporaryDirectory(prefix="triptych-videos-") as temporary:
            if videos is not None:
                videos.mkdir(parents=True, exist_ok=True)
            asyncio.run(_run(config, pipeline, host, port, key, videos or Path(temporary)))
    finally:
        pipeline.close()


def make_app(state: ServerState, key: str | None = None) -> web.Application:
    """The routes for the pipeline. key: the bearer token that clients must send."""
    from aiohttp import web

    from pipelines.serving.errors import BadRequestError
    from pipelines.serving.text_routes import TextRoutes
    from pipelines.serving.video_routes import VideoRoutes

    @web.middleware
    async def openai_errors(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> web.StreamResponse:
        try:
            token = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if key is not None and request.path != "/health" and not hmac.compare_digest(token.encode(), key.encode()):
                raise BadRequestError("this server needs its API key: Authorization: Bearer KEY", code="invalid_api_key", status=401)
            return await handler(request)
        except BadRequestError as error:
            return web.json_response(error.body(), status=error.status)
        except web.HTTPException as error:
            paths = sorted({resource.canonical for resource in request.app.router.resources()})
            problem = BadRequestError(f"{request.method} {request.path}: {error.reason}; known: {', '.join(paths)}", status=error.status)
            return web.json_response(problem.body(), status=error.status)

    async def models(_: web.Request) -> web.Response:
        model = {
            "id": state.model,
            "object": "model",
            "created": 0,
            "owned_by": "triptych",
            "effective": dict(state.pipeline.effective()),
        }
        return web.json_response({"object": "list", "data": [model]})

    async def health(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def set_server_header(_: web.Request, response: web.StreamResponse) -> None:
        response.headers["Server"] = f"triptych/{version('triptych')}"

    app = web.Application(middlewares=[openai_errors], client_max_size=MAX_BODY_BYTES)
    app.on_response_prepare.append(set_server_header)
    app.add_routes([web.get("/v1/models", models), web.get("/health", health)])
    if {"llm", "vlm"} & set(state.pipeline.workloads):
        app.add_routes(TextRoutes(state).routes())
    if "t2v" in state.pipeline.workloads:
        app.add_routes(VideoRoutes(state).routes())
    return app


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


def _warm_up(config: RunConfig, workload: Workload, pipeline: Pipeline) -> None:
    """Run batches of the workload's samples, as before a run. Raises RunError where the last one has no answer that can be used."""
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


async def _run(config: RunConfig, pipeline: Pipeline, host: str, port: int, key: str | None, videos: Path) -> None:
    from aiohttp import web

    from pipelines.serving.engine import Engine
    from pipelines.serving.state import ServerState

    stopped = asyncio.Event()
    for one in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(one, stopped.set)
    engine = Engine(pipeline)
    model = str(config.pipeline_options.get("model", getattr(pipeline, "model", None)) or config.pipeline_name)
    runner = web.AppRunner(
        make_app(ServerState(pipeline, engine, model, videos), key), handler_cancellation=True, shutdown_timeout=CLOSING_S
    )
    try:
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise ConfigError(f"--host {host} --port {port} cannot be used: {error.strerror}; give others") from None
        _print_ready(config, pipeline, model, runner.addresses[0])
        await stopped.wait()
        say("stopping")
    finally:
        await asyncio.to_thread(engine.close)
        await runner.cleanup()


def _print_ready(config: RunConfig, pipeline: Pipeline, model: str, address: Any) -> None:
    host, port = address[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    say(f"{config.pipeline_name} serves model {model!r} at {url}/v1; Ctrl-C ends it")
    line = {"url": url, "model": model, "pipeline": config.pipeline_name, "effective": dict(pipeline.effective())}
    print_line(line)
