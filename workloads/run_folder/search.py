"""search.json: the search for the highest rate that is still VALID."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from configs.decode import read_json
from workloads.records import Seconds
from workloads.run_folder.outcome import Rate


class Probe(msgspec.Struct, frozen=True):
    """One test at one rate. Seconds are at the limited percentile; None where not measured. full: of full length; other tests are
    shorter."""

    target_qps: Rate
    verdict: Literal["VALID", "INVALID"]
    completed_per_s: Annotated[float, Meta(ge=0, le=1e12)] | None = None
    ttft_s: Seconds | None = None
    tpot_s: Seconds | None = None
    latency_s: Seconds | None = None
    folder: str = ""
    full: bool = False


class Search(msgspec.Struct, frozen=True):
    """limits: seconds by name. max_valid_qps: None if no rate was VALID. confirmed: by a test of full length."""

    limits: dict[str, Seconds | None]
    probes: list[Probe]
    max_valid_qps: Rate | None = None
    confirmed: bool = False

    @property
    def effective_limits(self) -> dict[str, float]:
        """Limits by `ttft`, `tpot` or `latency`, however the file names them; latency only without token limits."""
        named = {name.removeprefix("target_").removesuffix("_s"): limit for name, limit in self.limits.items() if limit is not None}
        by_token: dict[str, float] = {name: named[name] for name in ("ttft", "tpot") if name in named}
        return by_token or {name: limit for name, limit in named.items() if name == "latency"}


def read_search(folder: Path) -> Search | None:
    """The run folder's search; None if there was none. Raises ConfigError if its file is damaged."""
    path = folder / "search.json"
    if not path.exists():
        return None
    return read_json(path, Search, "remove it for a report without the search")
