"""The parts of a RunConfig: load, latency limits, parallelism, dispatch, truth checks and power measurement."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Scenario = Literal["offline", "server", "interactive", "single_stream", "multi_stream"]
Mode = Literal["performance", "accuracy", "both"]
Rules = Literal["quick", "mlperf", "mlperf-v6.0", "mlperf-v6.1"]  # mlperf: the round of the installed LoadGen

# Requested settings that a run may accept a fallback for, by the name of their check (metrics/validity/effective_settings.py).
EffectiveSetting = Literal["dtype", "attention", "quantisation", "cache", "compile", "parallel", "packages", "steps", "size", "option"]
Fallback = Literal[EffectiveSetting, "client_lag"]

# Canaries (metrics/validity/canaries.py) that a run can switch off or give a tolerance, by name.
Canary = Literal[
    "nan",
    "black",
    "frozen",
    "noise",
    "repeated_frames",
    "upscaled",
    "identical",
    "unreadable",
    "empty",
    "looping",
    "cut_off",
    "echo",
    "utf8",
]


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)  # also of texts such as "inf", which become numbers


class Limits(Settings):
    """Latency limits at `target_percentile`, for the server, interactive and multi_stream scenarios. None: no such limit.

    With a limit on tokens the latency of the whole answer is not judged, as in MLPerf's token mode.
    """

    target_latency_s: float | None = Field(None, gt=0, description="of the whole answer, from its scheduled time")
    target_ttft_s: float | None = Field(None, gt=0, description="time to first token, from the scheduled time")
    target_tpot_s: float | None = Field(None, gt=0, description="time per output token after the first")

    @property
    def by_token(self) -> bool:
        return self.target_ttft_s is not None or self.target_tpot_s is not None


NO_LIMITS = Limits.model_validate({})


class LoadSettings(Settings):
    """LoadGen's settings. A test lasts until both min_duration_s and min_query_count are reached.

    The defaults are the suite's own `quick` rules: enough for a verdict within two minutes, where MLPerf requires 600 seconds.
    """

    min_duration_s: float = Field(10.0, ge=0.1, description="least duration of the timed part")
    min_query_count: int = Field(64, ge=1, description="least number of queries, or of samples in the offline scenario")
    target_qps: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        "auto", description="offline: expected samples a second; server: queries a second; auto: from the warm-up"
    )
    target_latency_s: float = Field(10.0, gt=0, description="server and multi_stream: latency limit")
    target_ttft_s: float | None = Field(None, gt=0, description="server, with streamed tokens: limit of the time to first token")
    target_tpot_s: float | None = Field(None, gt=0, description="server, with streamed tokens: limit of the time per output token")
    interactive: Limits | None = Field(None, description="limits of the interactive scenario, which is server with tighter limits")
    target_percentile: float = Field(0.90, gt=0, lt=1, description="share of queries that must meet the limit")
    samples_per_query: int = Field(4, ge=1, description="multi_stream: samples in each query")


class ParallelSettings(Settings):
    """How many ranks share one copy of the model, a replica: tensor x context x cfg. One rank by default."""

    tensor: int = Field(1, ge=1, description="ranks that split every layer's weights")
    context: int = Field(1, ge=1, description="ranks that split every clip's tokens")
    context_kind: Literal["ulysses", "ring"] = Field("ulysses", description="how attention is split over them: by heads, or in a ring")
    cfg: Literal[1, 2] = Field(1, description="2: the two guidance passes of a step run on two ranks")

    @property
    def size(self) -> int:
        """Ranks of one replica."""
        return self.tensor * self.context * self.cfg

    @property
    def active(self) -> tuple[str, ...]:
        """Names of the axes above 1."""
        return tuple(name for name in ("tensor", "context", "cfg") if getattr(self, name) > 1)


class DispatchSettings(Settings):
    """Which replica gets which query; see pipelines/distributed/dispatch.py."""

    policy: Literal["least_tokens", "shortest_queue", "round_robin"] = Field(
        "least_tokens", description="server and interactive: which replica gets a query; elsewhere replicas pull queries"
    )
    max_in_flight: int | None = Field(
        None, ge=1, description="most queries that a streaming replica holds at once; by default its batch_size"
    )
    port: int | None = Field(None, ge=1, lt=2**16, description="several nodes: the conductor's TCP port; by default any free one")


class TruthSettings(Settings):
    """Timed queries that the ranks answer again after the test, to check the timed answers; see pipelines/launcher/replay.py."""

    replays: int = Field(3, ge=0, description="queries that each rank answers again, one at a time; 0: none, and the report says so")
    max_s: float = Field(20.0, gt=0, description="no further replay starts after so many seconds; one always runs")


class PowerSettings(Settings):
    """Sampling of power and energy during a test; see pipelines/launcher/worker/power_sampler.py."""

    sample: Literal["auto", "always", "never"] = Field("auto", description="auto: on devices with a meter; always: refuse other devices")
    interval_s: float = Field(0.1, ge=0.01, le=1, description="seconds between two samples")
    powercap: str = Field("/sys/class/powercap", description="where Linux shows the CPUs' energy counters")
