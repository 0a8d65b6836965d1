"""search.json: how the highest rate was found that is still VALID."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from configs.errors import ConfigError


class Probe(msgspec.Struct, frozen=True):
    """One run at one rate. Seconds are at the percentile that is limited; None where nothing was measured.

    full: it was as long as a run has to be, where others were shorter.
    """

    target_qps: float
    verdict: Literal["VALID", "INVALID"]
    completed_per_s: float | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None
    latency_s: float | None = None
    folder: str = ""
    full: bool = False


class Search(msgspec.Struct, frozen=True):
    """limits: seconds by name. max_valid_qps: None where no rate was VALID. confirmed: by a run of full length."""

    limits: dict[str, float | None]
    probes: list[Probe]
    max_valid_qps: float | None = None
    confirmed: bool = False

    @property
    def limits_in_force(self) -> dict[str, float]:
        """By `ttft`, `tpot` or `latency`, whichever way they are written; latency only where no token is limited."""
        named = {name.removeprefix("target_").removesuffix("_s"): limit for name, limit in self.limits.items() if limit is not None}
        by_token: dict[str, float] = {name: named[name] for name in ("ttft", "tpot") if name in named}
        return by_token or {name: limit for name, limit in named.items() if name == "latency"}


def read_search(folder: Path) -> Search | None:
    """The run folder's search; None where there was none. Raises ConfigError where its file is damaged."""
    path = folder / "search.json"
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Search)
    except (msgspec.DecodeError, msgspec.ValidationError, OSError) as error:
        raise ConfigError(f"{path} is damaged: {error}; remove it to have the report without the search") from None
