"""What rank 0 sends to the conductor's process: one test, and what a resumed test still has to answer."""

from __future__ import annotations

from typing import Any

import msgspec


class Rest(msgspec.Struct):
    """What a resumed accuracy test still has to answer, and what its earlier attempts came to.

    first_id, began_s: the number of its first query, and its time on the clock of the earlier attempts. logs: folder of LoadGen's logs.
    """

    samples: list[int]
    num_kept: int
    first_id: int
    began_s: float
    logs: str
    earlier: list[dict[str, Any]] = []


class JobSpec(msgspec.Struct):
    """One test. config: RunConfig.model_dump()."""

    config: dict[str, Any]
    mode: str
    num_samples: int
    world_size: int  # in replicas
    folder: str
    noun: str
    show_progress: bool
    streams: bool = False  # tokens come one by one
    host: str | None = None  # the name by which other nodes reach this one; None on a single node
    port: int | None = None
    rest: Rest | None = None
    audit: dict[str, int] | None = None  # LoadGen's settings of a compliance test
