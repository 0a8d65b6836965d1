"""`suite.py serve`: a pipeline behind OpenAI's HTTP interface, so that other people's clients can measure it."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import os
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import ConfigError, RunError
from configs.registry import make
from configs.run_config import RunConfig
from pipelines.base import Pipeline, StreamingPipeline
from pipelines.distributed.ranks import check_process_count, join_ranks
from workloads.base import Workload
from workloads.records import Query, query_seed

if TYPE_CHECKING:
    from aiohttp import web

    from pipelines.serving.state import Served

MAX_BODY = 64 * 2**20  # bytes: images come in the body
CLOSING_S = 2.0  # how long answers on their way may take when the server is stopped


def serve(config: RunConfig, host: str, port: int, api_key_env: str | None, videos: Path | None) -> None:
    """Serve the config's pipeline until Ctrl-C. port: 0 for any free one. videos: the folder they go to; a temporary one where None.

    A line on stderr for people and one of JSON on stdout for programs say when it is ready. Raises ConfigError for what a user can mend.
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
        raise ConfigError("suite.py serve has no route by which an image comes to a video model; serve workload t2v, vlm or llm")
    pipeline.workload = config.workload
    if isinstance(pipeline, StreamingPipeline):
        pipeline.speaks = True
    try:
        pipeline.load(join_ranks(config).device)
        if fallbacks := [] if config.allow_fallback else pipeline.fallbacks():
            raise RunError(f"what was asked for is not in force: {'; '.join(fallbacks)}; change the option, or name it in allow_fallback")
        _warm_up(config, workload, pipeline)
        with tempfile.TemporaryDirectory(prefix="triptych-videos-") as temporary:
            if videos is not None:
                videos.mkdir(parents=True, exist_ok=True)
            asyncio.run(_run(config, pipeline, host, port, key, videos or Path(temporary)))
    finally:
        pipeline.close()


def make_app(served: Served, key: str | None = None) -> web.Application:
    """The routes that fit the pipeline. key: what clients have to send as a bearer token."""
    from aiohttp import web

    from pipelines.serving.errors import BadRequestError
    from pipelines.serving.text_routes import TextRoutes
    from pipelines.serving.video_routes import VideoRoutes

    @web.middleware
    async def in_openais_words(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> web.StreamResponse:
        try:
            given = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if key is not None and request.path != "/health" and not hmac.compare_digest(given.encode(), key.encode()):
                raise BadRequestError("this server wants its API key: Authorization: Bearer KEY", code="invalid_api_key", status=401)
            return await handler(request)
        except BadRequestError as error:
            return web.json_response(error.body(), status=error.status)
        except web.HTTPException as error:
            paths = sorted({resource.canonical for resource in request.app.router.resources()})
            problem = BadRequestError(f"{request.method} {request.path}: {error.reason}; known: {', '.join(paths)}", status=error.status)
            return web.json_response(problem.body(), status=error.status)

    async def models(_: web.Request) -> web.Response:
        shown = {
            "id": served.model,
            "object": "model",
            "created": 0,
            "owned_by": "triptych",
            "effective": dict(served.pipeline.effective()),
        }
        return web.json_response({"object": "list", "data": [shown]})

    async def health(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def sign(_: web.Request, response: web.StreamResponse) -> None:
        response.headers["Server"] = f"triptych/{version('triptych')}"

    app = web.Application(middlewares=[in_openais_words], client_max_size=MAX_BODY)
    app.on_response_prepare.append(sign)
    app.add_routes([web.get("/v1/models", models), web.get("/health", health)])
    if {"llm", "vlm"} & set(served.pipeline.workloads):
        app.add_routes(TextRoutes(served).routes())
    if "t2v" in served.pipeline.workloads:
        app.add_routes(VideoRoutes(served).routes())
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
        raise ConfigError(f"--host {host} lets others reach this server; give --api-key-env NAME, a variable with the key that they need")
    return key


def _warm_up(config: RunConfig, workload: Workload, pipeline: Pipeline) -> None:
    """Batches of the workload's own samples, as before a run. Raises RunError where none of the last is answered."""
    samples = list(workload.samples())[: pipeline.batch_size]
    queries = [Query(-1 - i, s.index, query_seed(config.seed, s.index)) for i, s in enumerate(samples)]
    for _ in range(config.warmup_batches):
        answers = pipeline.generate(samples, queries)
    if all(answer.error for answer in answers):
        raise RunError(f"warm-up failed: {answers[0].error}")


async def _run(config: RunConfig, pipeline: Pipeline, host: str, port: int, key: str | None, videos: Path) -> None:
    from aiohttp import web

    from pipelines.serving.engine import Engine
    from pipelines.serving.state import Served

    stopped = asyncio.Event()
    for one in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(one, stopped.set)
    engine = Engine(pipeline)
    model = str(config.pipeline_options.get("model", getattr(pipeline, "model", None)) or config.pipeline_name)
    runner = web.AppRunner(make_app(Served(pipeline, engine, model, videos), key), handler_cancellation=True, shutdown_timeout=CLOSING_S)
    try:
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise ConfigError(f"--host {host} --port {port} cannot be listened on: {error.strerror}; give others") from None
        _say_ready(config, pipeline, model, runner.addresses[0])
        await stopped.wait()
        print("suite: stopping", file=sys.stderr, flush=True)
    finally:
        await asyncio.to_thread(engine.close)
        await runner.cleanup()


def _say_ready(config: RunConfig, pipeline: Pipeline, model: str, address: Any) -> None:
    host, port = address[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    print(f"suite: {config.pipeline_name} serves model {model!r} at {url}/v1; Ctrl-C ends it", file=sys.stderr, flush=True)
    line = {"url": url, "model": model, "pipeline": config.pipeline_name, "effective": dict(pipeline.effective())}
    print(json.dumps(line), flush=True)
