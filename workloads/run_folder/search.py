"""search.json: the search for the highest rate that is still VALID."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from configs.errors import ConfigError


class Probe(msgspec.Struct, frozen=True):
    """One test at one rate. Seconds are at the limited percentile; None where not measured. full: of full length; other tests are
    shorter."""

    target_qps: float
    verdict: Literal["VALID", "INVALID"]
    completed_per_s: float | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None
    latency_s: float | None = None
    folder: str = ""
    full: bool = False


class Search(msgspec.Struct, frozen=True):
    """limits: seconds by name. max_valid_qps: None if no rate was VALID. confirmed: by a test of full length."""

    limits: dict[str, float | None]
    probes: list[Probe]
    max_valid_qps: float | None = None
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
    try:
        return msgspec.json.decode(path.read_bytes(), type=Search)
    except (msgspec.DecodeError, msgspec.ValidationError, OSError) as error:
        raise ConfigError(f"{path} is damaged: {error}; remove it for a report without the search") from None
