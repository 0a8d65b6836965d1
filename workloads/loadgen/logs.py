"""Readers of LoadGen's logs: mlperf_log_detail.txt, one `:::MLLOG {...}` a line, and mlperf_log_accuracy.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from configs.errors import ConfigError

_PREFIX = ":::MLLOG "
SCORES = {  # LoadGen's own figure of each scenario; latencies are in nanoseconds
    "Offline": "result_samples_per_second",
    "Server": "result_completed_samples_per_sec",
    "SingleStream": "early_stopping_latency_ss",
    "MultiStream": "early_stopping_latency_ms",
}


@dataclass(frozen=True)
class LoadGenLog:
    """A detail log. values: by key, the last one of each. errors: texts of the entries that LoadGen marked as errors."""

    path: Path
    values: dict[str, Any]
    errors: list[str]

    @property
    def scenario(self) -> str:
        return str(self.values.get("effective_scenario"))

    @property
    def valid(self) -> bool:
        return bool(self.values.get("result_validity") == "VALID")

    @property
    def why_invalid(self) -> str:
        """LoadGen's own reason."""
        return " ".join(str(self.values.get("result_invalid_reason") or "LoadGen gives no reason").split())

    @property
    def score(self) -> float | None:
        """LoadGen's own figure of the scenario; None where it has none, as with too few queries."""
        value = self.values.get(SCORES.get(self.scenario, ""))
        return float(value) if value else None

    @property
    def speed(self) -> float | None:
        """Samples a second; of streams, the inverse of the latency at their percentile."""
        score = self.score
        return score if score is None or self.scenario in ("Offline", "Server") else 1e9 / score


class Logged(msgspec.Struct):
    """One answer of mlperf_log_accuracy.json.

    seq_id: number of the query. data: the answer, in hexadecimal. token_data: the token that was reported as the first, in hexadecimal.
    token_count: the reported number of tokens; None where LoadGen does not count them.
    """

    seq_id: int
    qsl_idx: int
    data: str = ""
    token_data: str | None = None
    token_count: int | None = None


def read_detail(path: Path) -> LoadGenLog:
    """Raises ConfigError where the log is missing or a line of it is damaged."""
    values: dict[str, Any] = {}
    errors = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.startswith(_PREFIX):
            continue
        try:
            entry = json.loads(line.removeprefix(_PREFIX))
            values[entry["key"]] = entry["value"]
            if entry["metadata"]["is_error"]:
                errors.append(str(entry["value"]))
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"{path}, line {number} is not a log entry of LoadGen: {line[:80]!r}") from None
    return LoadGenLog(path, values, errors)


def read_answers(path: Path) -> list[Logged]:
    """Raises ConfigError where the file is missing or damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Logged])
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
