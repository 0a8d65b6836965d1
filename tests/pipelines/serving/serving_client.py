"""A client of a server over a pipeline, and pipelines that record or limit what they get."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from aiohttp.test_utils import TestClient, TestServer

from pipelines.base import Pipeline, Response, StreamingPipeline
from pipelines.serving.app import make_app
from pipelines.serving.engine import Engine
from pipelines.serving.state import ServerState
from pipelines.toy.llm import ToyLLM
from workloads.llm import Language
from workloads.records import Query, Sample

PROMPT = Language(num_prompts=1).samples()[0].prompt


class Recorder(Pipeline):
    """Answers with the prompt, and records its batches. Each batch waits until `gate` is set."""

    workloads: ClassVar[tuple[str, ...]] = ("llm",)
    batch_size = 4

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = threading.Event()

    def load(self, device: Any) -> None: ...

    def generate(self, samples: Sequence[Sample], queries: Sequence[Query]) -> Sequence[Response]:
        self.batches.append([s.prompt for s in samples])
        if "break" in self.batches[-1]:
            raise RuntimeError("out of memory")
        self.gate.wait(5)
        return [Response(error="too long") if s.prompt == "long" else Response(text=s.prompt, num_units=1) for s in samples]


@dataclass
class Limited(ToyLLM):
    """A toy with the options of real engines."""

    max_new_tokens: int = 64
    do_sample: bool = False
    temperature: float = 1.0
    system_prompt: str | None = "be brief"
    chat: bool = True


def with_client(
    pipeline: Pipeline, use: Callable[[TestClient[Any, Any]], Awaitable[Any]], key: str | None = None, videos: Path = Path()
) -> Any:
    """What `use` returns when called with a client of a server over the pipeline."""

    async def run() -> Any:
        if isinstance(pipeline, StreamingPipeline):
            pipeline.speaks = True
        engine = Engine(pipeline)
        try:
            async with TestClient(TestServer(make_app(ServerState(pipeline, "toy", videos, engine), key))) as client:
                return await use(client)
        finally:
            await asyncio.to_thread(engine.close)

    return asyncio.run(run())


def chat(prompt: str = PROMPT, **more: Any) -> dict[str, Any]:
    return {"model": "toy", "messages": [{"role": "user", "content": prompt}], **more}


async def post(client: TestClient[Any, Any], body: Any, path: str = "/v1/chat/completions") -> tuple[int, Any]:
    async with client.post(path, json=body) as answer:
        return answer.status, await answer.json()
