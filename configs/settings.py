"""The parts of a RunConfig: how LoadGen asks, what answers must keep to, how ranks share the work, what is checked and measured."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Scenario = Literal["offline", "server", "interactive", "single_stream", "multi_stream"]
Mode = Literal["performance", "accuracy", "both"]
Rules = Literal["quick", "mlperf", "mlperf-v6.0", "mlperf-v6.1"]  # mlperf: the round of the installed LoadGen

# What was asked for and may not be in force: the truth checks that a run can be let off, by name (metrics/validity/truth_checks.py).
Fallback = Literal["dtype", "attention", "quantisation", "cache", "compile", "parallel", "packages", "steps", "option"]

# Canaries (metrics/validity/canaries.py) that a run can be excused from, or be given a tolerance for, by name.
Canary = Literal["nan", "black", "frozen", "noise", "identical", "unreadable", "empty", "looping", "cut_off", "utf8"]


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(Settings):
    """What the answers of a server or interactive run must keep to, at `target_percentile`. None: no such limit.

    Where a token limit is given, the latency of the whole answer is not judged, as in MLPerf's token mode.
    """

    target_latency_s: float | None = Field(None, gt=0, description="the whole answer, from its scheduled time")
    target_ttft_s: float | None = Field(None, gt=0, description="time to first token, from the scheduled time")
    target_tpot_s: float | None = Field(None, gt=0, description="time per output token after the first")

    @property
    def by_token(self) -> bool:
        return self.target_ttft_s is not None or self.target_tpot_s is not None


NO_LIMITS = Limits.model_validate({})


class LoadSettings(Settings):
    """How LoadGen asks. Counts and durations are lower limits; whichever takes longer decides.

    The defaults are the suite's own `quick` rules: enough for a verdict within two minutes, not MLPerf's 600 seconds.
    """

    min_duration_s: float = Field(10.0, ge=0.1, description="the measured part lasts at least this long")
    min_query_count: int = Field(64, ge=1, description="queries, or samples in the offline scenario")
    target_qps: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        "auto", description="offline: expected samples a second; server: queries a second; auto: from the warm-up"
    )
    target_latency_s: float = Field(10.0, gt=0, description="server and multi_stream: latency limit")
    target_ttft_s: float | None = Field(None, gt=0, description="server, where tokens are streamed: limit of the time to first token")
    target_tpot_s: float | None = Field(None, gt=0, description="server, where tokens are streamed: limit of the time per output token")
    interactive: Limits | None = Field(None, description="the limits of the interactive scenario, which is server with tighter ones")
    target_percentile: float = Field(0.90, gt=0, lt=1, description="the share of queries that must meet the limit")
    samples_per_query: int = Field(4, ge=1, description="multi_stream: samples in each query")


class ParallelSettings(Settings):
    """How many ranks hold one copy of the model, a replica, together: tensor x context x cfg. One rank where nothing is set."""

    tensor: int = Field(1, ge=1, description="ranks that split every layer's weights")
    context: int = Field(1, ge=1, description="ranks that split every clip's tokens")
    context_kind: Literal["ulysses", "ring"] = Field("ulysses", description="how they attend to each other: by heads, or in a ring")
    cfg: Literal[1, 2] = Field(1, description="2: the two guidance passes of a step on two ranks")

    @property
    def size(self) -> int:
        """Ranks of one replica."""
        return self.tensor * self.context * self.cfg

    @property
    def in_force(self) -> tuple[str, ...]:
        """Names of those above 1."""
        return tuple(name for name in ("tensor", "context", "cfg") if getattr(self, name) > 1)


class DispatchSettings(Settings):
    """Which replica is given which query; see pipelines/distributed/dispatch.py."""

    policy: Literal["least_tokens", "shortest_queue", "round_robin"] = Field(
        "least_tokens", description="server and interactive: who gets a query; elsewhere replicas pull what they have room for"
    )
    max_in_flight: int | None = Field(
        None, ge=1, description="queries that a streaming replica holds at most; its batch_size where not given"
    )
    port: int | None = Field(None, ge=1, lt=2**16, description="several nodes: the conductor's TCP port; any free one where not given")


class TruthSettings(Settings):
    """What the ranks answer again after the clock has stopped, to check the timed answers; pipelines/launcher/replay.py."""

    replays: int = Field(3, ge=0, description="timed answers that each rank gives again, one at a time; 0: none, and the report says so")
    max_s: float = Field(20.0, gt=0, description="no further one is begun after so many seconds; one always is")


class PowerSettings(Settings):
    """Whether power and energy are sampled while a test lasts; pipelines/launcher/worker/power_sampler.py."""

    sample: Literal["auto", "always", "never"] = Field("auto", description="auto: where the device tells; always: or the run is refused")
    interval_s: float = Field(0.1, ge=0.01, le=1, description="seconds between two looks")
    powercap: str = Field("/sys/class/powercap", description="where Linux shows processors' energy counters")
