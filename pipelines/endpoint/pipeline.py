"""Any OpenAI-compatible server, or several: vLLM, SGLang, TensorRT-LLM, `transformers serve`, `suite.py serve`, video servers."""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from configs.errors import ConfigError, first_line, unknown
from configs.registry import register
from pipelines.base import Event, StreamingPipeline
from workloads.records import Query, Sample

if TYPE_CHECKING:
    import torch

PATHS = {"chat": "chat/completions", "completions": "completions", "videos": "videos", "video_generations": "videos/generations"}
WORKLOADS = {"chat": ("llm", "vlm"), "completions": ("llm",), "videos": ("t2v",), "video_generations": ("t2v",)}
TEXT_OPTIONS = ("max_new_tokens", "top_p", "top_k", "system_prompt", "tokenizer")
VIDEO_OPTIONS = (
    "num_frames",
    "height",
    "width",
    "num_inference_steps",
    "guidance_scale",
    "guidance_scale_2",
    "negative_prompt",
    "video_folder",
)
POSITIVE = ("concurrency", "max_new_tokens", "top_k", "timeout_s", "connect_timeout_s", "back_off_s", "poll_s")
NOT_NEGATIVE = ("retries", "batch_size", "temperature")
NOT_REPORTED = "not known: the server does not report it"


@register("endpoint")
@dataclass
class Endpoint(StreamingPipeline):
    """Options that are None are not sent, so the server's defaults apply.

    url: of the server, with or without the path of `api`, or several, among which `dispatch` distributes. api: chat
    (/v1/chat/completions), completions (bare prompts), video_generations (/v1/videos/generations, which returns the video) or videos
    (/v1/videos, polled every poll_s). model: by default the only one that /v1/models lists. stream: tokens as they come; without it, the
    first token counts when the whole answer arrives. temperature: 0 takes the likeliest token; otherwise every query sends its seed.
    Options of videos
    have diffusers' names. extra: further fields of every request's body.
    concurrency: connections to each url. batch_size: queries taken at the same time; 0 means one for each connection. Waiting for a
    connection is the stage `client_queue`. timeout_s: of one query, from its connection on, retries included; keep it below the run's
    answer_timeout_s. retries: further tries where a connection is refused or the status is 429 or 5xx, none by default, after back_off_s,
    doubled each time; that time counts. tls_verify: false, or a file with the authorities to trust. api_key_env: the variable that holds
    the key.
    count_by: how tokens are counted: by the server's `usage`, the `deltas` of a stream, or a `tokenizer`, a folder or hub name.
    video_folder: of videos that the server returns by path. repeats: `alone` where the server promises the same answer to the same query
    whatever else it runs; the run then checks that.
    dispatch: which url gets the next query. connect_timeout_s: of the connection alone. back_off_s: time before the first retry. poll_s:
    time between two requests for the state of a video. tokenizer: a folder or hub name, for `count_by: tokenizer`. num_frames: of a clip.
    height, width: in pixels. num_inference_steps: denoising steps. guidance_scale: weight of the prompt. guidance_scale_2: the same for
    the second expert. negative_prompt: what the guidance pass is conditioned on. system_prompt: sent before every prompt. max_new_tokens:
    the longest answer, in tokens. top_k: sample among this many of the likeliest tokens. top_p: sample among the likeliest tokens that
    reach this share together.
    """

    url: str | list[str] = "http://127.0.0.1:8000"
    api: Literal["chat", "completions", "videos", "video_generations"] = "chat"
    model: str | None = None
    stream: bool = True
    max_new_tokens: int | None = None
    temperature: float | None = 0.0
    top_p: float | None = None
    top_k: int | None = None
    system_prompt: str | None = None
    num_frames: int | None = None
    height: int | None = None
    width: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_scale_2: float | None = None
    negative_prompt: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    dispatch: Literal["least_tokens", "shortest_queue", "round_robin"] = "least_tokens"
    concurrency: int = 32
    batch_size: int = 0
    timeout_s: float = 100.0
    connect_timeout_s: float = 10.0
    retries: int = 0
    back_off_s: float = 0.5
    poll_s: float = 0.1
    tls_verify: bool | str = True
    api_key_env: str | None = None
    count_by: Literal["usage", "deltas", "tokenizer"] = "usage"
    tokenizer: str | None = None
    video_folder: str | None = None
    repeats: Literal["alone", "in_batch", "never"] = "never"

    workloads: ClassVar[tuple[str, ...]] = ("llm", "vlm", "t2v")

    _client: Any = field(default=None, init=False, repr=False)
    _facts: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self.workloads = WORKLOADS[self.api]  # type: ignore[misc]  # one run uses one api
        for name in (*POSITIVE, *NOT_NEGATIVE):
            value = getattr(self, name)
            if value is not None and (value < 0 or (value == 0 and name in POSITIVE)):
                limit = "positive" if name in POSITIVE else "at least 0"
                raise ConfigError(f"pipeline 'endpoint': {name} must be {limit}, got {value}")
        makes_videos = "t2v" in self.workloads
        for name in TEXT_OPTIONS if makes_videos else VIDEO_OPTIONS:
            if getattr(self, name) is not None:
                raise ConfigError(f"pipeline 'endpoint': {name} has no effect with api: {self.api}; leave it out")
        if (self.count_by == "tokenizer") != (self.tokenizer is not None):
            raise ConfigError("pipeline 'endpoint': count_by: tokenizer and option tokenizer need each other; give both")
        if self.count_by == "deltas" and not self.stream:
            raise ConfigError("pipeline 'endpoint': count_by: deltas needs stream: true")
        if (self.width is None) != (self.height is None):
            raise ConfigError("pipeline 'endpoint': width and height need each other; give both")
        if self.api_key_env is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.api_key_env):
            raise ConfigError("pipeline 'endpoint': api_key_env is not the name of a variable; give a name, never the key itself")
        self._urls = [_base(url, PATHS[self.api]) for url in ([self.url] if isinstance(self.url, str) else self.url)]
        if not self._urls:
            raise ConfigError("pipeline 'endpoint': url is empty; give one, such as http://127.0.0.1:8000")
        self.batch_size = self.batch_size or self.concurrency * len(self._urls)

    def load(self, device: torch.device) -> None:
        from pipelines.endpoint.client import Client, Connections

        connections = Connections(
            tuple(self._urls),
            self.dispatch,
            self.concurrency,
            self.timeout_s,
            self.connect_timeout_s,
            self.retries,
            self.back_off_s,
            self.tls_verify,
        )
        self._client = Client(connections, self._key())
        servers = self._client.models()
        names = ", ".join(dict.fromkeys(one.server for one in servers))
        self._facts = {"server": names, "model": self._choose_model([one.models for one in servers])}
        self._client.api = self._make_api()

    def submit(self, samples: Sequence[Sample], queries: Sequence[Query]) -> None:
        self._client.submit(samples, queries)

    def step(self, timeout_s: float) -> Sequence[Event]:
        events: list[Event] = self._client.step(timeout_s)
        return events

    def watch(self, descriptor: int | None) -> None:
        self._client.watch(descriptor)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def effective(self) -> Mapping[str, str]:
        counts = {"usage": "the server's usage", "deltas": "deltas of the stream", "tokenizer": f"tokenizer {self.tokenizer}"}[
            self.count_by
        ]
        sent = {
            name: getattr(self, name) for name in ("temperature", "top_p", "top_k", "max_new_tokens") if getattr(self, name) is not None
        }
        requested = ", ".join(f"{k} {v:g}" for k, v in sent.items()) or "nothing: the server's own defaults"
        of_texts = {"sampling": f"requested {requested}", "token_counts": counts, "streamed": str(self.stream)}
        return {
            **self._facts,
            "api": self.api,
            "urls": ", ".join(self._urls),
            "connections": f"{self.concurrency} each" + (f", {self.dispatch}" if len(self._urls) > 1 else ""),
            "retries": f"{self.retries}" + (f", after {self.back_off_s:g} s, doubling" if self.retries else ""),
            "tls": "not verified" if self.tls_verify is False else "verified where the url is https",
            **({} if "t2v" in self.workloads else of_texts),
            **dict.fromkeys(("dtype", "attention", "quantisation", "cache"), NOT_REPORTED),
        }

    def count_tokens(self, text: str) -> int | None:
        return self._client.api.count_tokens(text) if self.count_by == "tokenizer" else None

    def _key(self) -> str | None:
        if self.api_key_env is None:
            return None
        if not (key := os.environ.get(self.api_key_env)):
            raise ConfigError(f"pipeline 'endpoint': api_key_env names {self.api_key_env!r}, which is not set in the environment, or empty")
        if not (key.isascii() and key.isprintable()):
            raise ConfigError(
                f"pipeline 'endpoint': the variable {self.api_key_env!r} has a line end or a character that no header can hold"
            )
        return key

    def _choose_model(self, listed: Sequence[Sequence[str] | None]) -> str:
        """The model that requests name. listed: the models of each server; None where it has no list."""
        known = sorted({name for names in listed for name in names or ()})
        if self.model is not None:
            if known and self.model not in known:
                raise ConfigError(f"pipeline 'endpoint': the server has {unknown('model', self.model, known)}")
            return self.model
        if len(known) == 1:
            return known[0]
        if not known and "t2v" in self.workloads:
            return "not named"
        listing = f"lists {', '.join(known)}" if known else "lists no models"
        raise ConfigError(f"pipeline 'endpoint': the server {listing}; name one: --set pipeline.model=NAME")

    def _make_api(self) -> Any:
        model = None if self._facts["model"] == "not named" else self._facts["model"]
        if "t2v" in self.workloads:
            from pipelines.endpoint.videos import VideoApi

            names = ("negative_prompt", "num_frames", "num_inference_steps", "guidance_scale", "guidance_scale_2")
            settings = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
            size = {"size": f"{self.width}x{self.height}"} if self.width else {}
            fixed = ({"model": model} if model else {}) | settings | size | self.extra
            return VideoApi(fixed, self.api == "videos", self.poll_s, self.video_folder)
        from pipelines.endpoint.text import TextApi

        sampling = {"max_tokens": self.max_new_tokens, "temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        fixed = {"model": model, **{k: v for k, v in sampling.items() if v is not None}}
        if self.stream:
            fixed |= {"stream": True, **({"stream_options": {"include_usage": True}} if self.count_by == "usage" else {})}
        return TextApi(fixed | self.extra, self.api == "chat", self.system_prompt, self.count_by, self._load_tokenizer())

    def _load_tokenizer(self) -> Any:
        if self.tokenizer is None:
            return None
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(self.tokenizer)
        except Exception as error:  # transformers and the hub raise many kinds
            raise ConfigError(f"pipeline 'endpoint': tokenizer {self.tokenizer!r} cannot be loaded: {first_line(error)}") from error


def _base(url: str, path: str) -> str:
    """The url up to /v1, without it. Raises ConfigError where it is not an address, contains a password, or ends in another api's path."""
    parts = urllib.parse.urlsplit(url)
    if parts.username or parts.password:
        raise ConfigError("pipeline 'endpoint': url contains a user or a password; give the key by api_key_env")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or not _has_port(parts):
        raise ConfigError(f"pipeline 'endpoint': url is {url!r}; write it as http://HOST:PORT or https://HOST")
    base = url.rstrip("/").removesuffix(f"/v1/{path}").removesuffix("/v1")
    for api, other in PATHS.items():
        if base.endswith(f"/{other}"):
            raise ConfigError(f"pipeline 'endpoint': url is {url!r}, the path of api: {api}; end it before /v1, or set that api")
    return base


def _has_port(parts: urllib.parse.SplitResult) -> bool:
    """Whether the port, where there is one, is a number that a port can have."""
    try:
        return parts.port is None or parts.port > 0
    except ValueError:
        return False
