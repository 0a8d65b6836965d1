"""What all routes of a server share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipelines.base import Pipeline
from pipelines.serving.engine import Engine


@dataclass(frozen=True, slots=True)
class Served:
    """model: the name by which clients ask for it. videos: the folder that they are written to."""

    pipeline: Pipeline
    engine: Engine
    model: str
    videos: Path
