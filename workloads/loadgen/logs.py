"""Readers of LoadGen's logs: mlperf_log_detail.txt, one `:::MLLOG {...}` a line, and mlperf_log_accuracy.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict

import msgspec

from configs.decode import read_json, reading

Number = Annotated[float, msgspec.Meta(ge=-1e30, le=1e30)]
_PREFIX = b":::MLLOG "
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


class _Values(TypedDict, total=False):
    """The numbers among the values that are read."""

    result_samples_per_second: Number
    result_completed_samples_per_sec: Number
    early_stopping_latency_ss: Number
    early_stopping_latency_ms: Number
    result_max_latency_ns: Number
    effective_min_duration_ms: Number
    effective_min_sample_count: Number
    effective_min_query_count: Number
    requested_server_target_latency_ns: Number
    requested_server_ttft_latency: Number
    requested_server_tpot_latency: Number


class _Metadata(msgspec.Struct):
    is_error: bool


class _Entry(msgspec.Struct):
    """A line of the detail log."""

    key: str
    value: Any
    metadata: _Metadata


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
    with reading(path):
        lines = path.read_bytes().splitlines()
    decode = msgspec.json.Decoder(_Entry).decode
    for number, line in enumerate(lines, 1):
        if not line.startswith(_PREFIX):
            continue
        with reading(f"{path}, line {number}, which is not a log entry of LoadGen,"):
            entry = decode(line.removeprefix(_PREFIX))
        values[entry.key] = entry.value
        if entry.metadata.is_error:
            errors.append(str(entry.value))
    with reading(path):
        msgspec.convert(values, _Values)
    return LoadGenLog(path, values, errors)


def read_answers(path: Path) -> list[Logged]:
    """Raises ConfigError where the file is missing or damaged."""
    return read_json(path, list[Logged])
