"""The server's routes, and what holds for all of them: errors in OpenAI's form, the key, refusals while the model is loaded."""

from __future__ import annotations

import asyncio
import hmac
import uuid
from collections.abc import Awaitable, Callable
from importlib.metadata import version

from aiohttp import web

from configs.errors import describe
from configs.output import say
from pipelines.serving.errors import BadRequestError
from pipelines.serving.observation import Observation
from pipelines.serving.state import OBSERVATION, WARNINGS, ServerState
from pipelines.serving.text_routes import TextRoutes
from pipelines.serving.tokenize_routes import TokenizeRoutes
from pipelines.serving.video_routes import VideoRoutes

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MAX_BODY_BYTES = 64 * 2**20  # images are part of the body
ALWAYS = ("/health", "/version", "/metrics")  # answered while the model is loaded, and without a key
OBSERVED = ("/v1/chat/completions", "/v1/completions", "/v1/videos", "/v1/videos/generations")
RETRY_S = 2


def make_app(state: ServerState, key: str | None = None) -> web.Application:
    """The routes for the pipeline. key: the bearer token that clients must send."""

    @web.middleware
    async def checked(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            _check_key(request, key)
            if state.running is None and request.path not in ALWAYS:
                raise BadRequestError("the model is being loaded; try again later", code="loading", status=503)
            return await _observed(state, request, handler)
        except BadRequestError as error:
            headers = {"Retry-After": str(RETRY_S)} if error.status == 503 else {}
            return web.json_response(error.body(), status=error.status, headers=headers)

    async def set_headers(request: web.Request, response: web.StreamResponse) -> None:
        response.headers["Server"] = f"triptych/{version('triptych')}"
        if warnings := request.get(WARNINGS):
            response.headers["Warning"] = ", ".join(warnings)

    app = web.Application(middlewares=[checked], client_max_size=MAX_BODY_BYTES)
    app.on_response_prepare.append(set_headers)
    app.add_routes(_Facts(state).routes())
    if {"llm", "vlm"} & set(state.pipeline.workloads):
        app.add_routes([*TextRoutes(state).routes(), *TokenizeRoutes(state).routes()])
    if {"t2v", "i2v"} & set(state.pipeline.workloads):
        app.add_routes(VideoRoutes(state).routes())
    try:
        from pipelines.serving.metrics_route import MetricsRoute
    except ImportError:
        say("there is no /metrics: pip install prometheus-client")
    else:
        app.add_routes(MetricsRoute(state).routes())
    return app


def _check_key(request: web.Request, key: str | None) -> None:
    token = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if key is not None and request.path not in ALWAYS and not hmac.compare_digest(token.encode(errors="replace"), key.encode()):
        raise BadRequestError("this server needs its API key: Authorization: Bearer KEY", code="invalid_api_key", status=401)


async def _observed(state: ServerState, request: web.Request, handler: Handler) -> web.StreamResponse:
    """Handle a request, observing one that asks for an answer. Raises BadRequestError whatever goes wrong before a response began."""
    if request.path not in OBSERVED or request.method != "POST":
        return await _handled(request, handler)
    observation = request[OBSERVATION] = Observation(state.observers, f"request-{uuid.uuid4().hex}", request.path)
    try:
        response = await _handled(request, handler)
    except BadRequestError as error:
        observation.end("failed" if error.status >= 500 else "refused", str(error))
        raise
    except (asyncio.CancelledError, ConnectionError):
        observation.end("cancelled")
        raise
    if not observation.goes_on:
        observation.end("failed" if observation.problem else "done", observation.problem)
    return response


async def _handled(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except (BadRequestError, ConnectionError):
        raise
    except web.HTTPException as error:
        paths = sorted({resource.canonical for resource in request.app.router.resources()})
        problem = f"{request.method} {request.path}: {error.reason}; known: {', '.join(paths)}"
        raise BadRequestError(problem, status=error.status) from None
    except RecursionError:
        raise BadRequestError("the body is nested too deeply") from None
    except Exception as error:  # the server continues
        say(f"{request.method} {request.path} failed: {describe(error)}")
        raise BadRequestError(describe(error), code="server_failed", status=500) from error


class _Facts:
    """What is served, and whether it is ready."""

    def __init__(self, state: ServerState) -> None:
        self._state = state

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/models", self.models),
            web.get("/v1/models/{id:.+}", self.model),
            web.get("/health", self.health),
            web.get("/version", self.version),
        ]

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [self._describe()]})

    async def model(self, request: web.Request) -> web.Response:
        if (name := request.match_info["id"]) != self._state.model:
            raise BadRequestError(f"there is no model {name!r}; known: {self._state.model}", "model", "model_not_found", 404)
        return web.json_response(self._describe())

    async def health(self, _: web.Request) -> web.Response:
        if self._state.running is None:
            return web.json_response({"status": "loading"}, status=503, headers={"Retry-After": str(RETRY_S)})
        return web.json_response({"status": "ok"})

    async def version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": version("triptych")})

    def _describe(self) -> dict[str, object]:
        pipeline = self._state.pipeline
        facts: dict[str, object] = {"id": self._state.model, "object": "model", "created": 0, "owned_by": "triptych"}
        if (context := getattr(pipeline, "context_length", None)) is not None:
            facts["max_model_len"] = context
        return {**facts, "effective": dict(pipeline.effective())}
