"""The state that all routes of a server share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from pipelines.base import Pipeline
from pipelines.serving.engine import Engine
from pipelines.serving.observation import Observation, Observers

OBSERVATION = web.RequestKey("observation", Observation)  # of a request that asks for an answer
WARNINGS = web.RequestKey("warnings", list[str])


@dataclass(slots=True)
class ServerState:
    """model: the name that clients use. videos: the folder for files. running: the engine; None while the pipeline is loaded."""

    pipeline: Pipeline
    model: str
    videos: Path
    running: Engine | None = None
    observers: Observers = field(default_factory=Observers)

    @property
    def engine(self) -> Engine:
        assert self.running is not None  # the middleware refuses requests before
        return self.running
