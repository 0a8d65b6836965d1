"""The state that all routes of a server share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipelines.base import Pipeline
from pipelines.serving.engine import Engine


@dataclass(frozen=True, slots=True)
class ServerState:
    """model: the name that clients use. videos: the folder for files."""

    pipeline: Pipeline
    engine: Engine
    model: str
    videos: Path
