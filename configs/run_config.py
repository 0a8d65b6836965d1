"""RunConfig: everything that defines a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from configs.required_versions import check_versions
from configs.settings import (
    NO_LIMITS,
    Canary,
    DispatchSettings,
    Fallback,
    Limits,
    LoadSettings,
    Mode,
    ParallelSettings,
    PowerSettings,
    Rules,
    Scenario,
    Settings,
    TruthSettings,
)


class RunConfig(Settings):
    """One launch: its data set, pipeline, load, and what it is judged by."""

    workload: str
    scenario: Scenario = "offline"
    mode: Mode = "performance"
    rules: Rules = Field("quick", description="what VALID means: the suite's own short runs, or a round of MLPerf, which fills in `load`")
    benchmark: str | None = Field(None, description="the MLPerf benchmark, by its name in a submission; the report shows its gates")
    gate: dict[str, float] | None = Field(
        None, description="values that figures must reach under any rules, such as {exact_match: 0.9}; by default the workload's own"
    )
    seed: int = Field(42, ge=0, lt=2**63)
    dataset: dict[str, Any] = Field(default_factory=dict, description="options of the workload")
    pipeline: dict[str, Any] = Field(description="`name` and the options of that pipeline")
    metrics: list[str] | None = Field(None, description="names of metrics; by default the workload's own")
    load: LoadSettings = Field(default_factory=LoadSettings)  # type: ignore[arg-type]
    parallel: ParallelSettings = Field(default_factory=ParallelSettings)  # type: ignore[arg-type]
    dispatch: DispatchSettings = Field(default_factory=DispatchSettings)  # type: ignore[arg-type]
    truth: TruthSettings = Field(default_factory=TruthSettings)  # type: ignore[arg-type]
    power: PowerSettings = Field(default_factory=PowerSettings)  # type: ignore[arg-type]
    warmup_batches: int = Field(2, ge=1, description="batches that each rank answers before the test")
    device: Literal["auto", "cpu"] = "auto"
    num_threads: int | None = Field(None, ge=1, description="CPU threads of a rank; by default torch decides")
    heartbeat_timeout_s: float = Field(20.0, gt=1, description="a rank counts as dead after so many seconds without a heartbeat")
    answer_timeout_s: float | None = Field(
        None, gt=0, description="a rank with queries hangs if it answers none for so long; by default 120, or 10 times its longest batch"
    )
    report_videos: int = Field(48, ge=0, description="videos to embed in report.html")
    allow_fallback: list[Fallback] = Field(
        default_factory=list, description="differences between requested and effective settings that are accepted, by name"
    )
    canaries: dict[Canary, Annotated[float, Field(ge=0, le=1)] | Literal["off"]] = Field(
        default_factory=dict, description="by canary: the share of answers that may trigger it, or off; the report lists these exceptions"
    )
    require: dict[str, str] = Field(
        default_factory=dict,
        description="package versions that every rank must have, such as {torch: '2.13', diffusers: '>=0.42'}",
    )
    engine_because: str | None = Field(None, description="why this pipeline, where the suite chose it; the suite writes this itself")
    variant: str | None = Field(None, description="the variant of the preset that is merged into it")

    @field_validator("allow_fallback", mode="before")
    @classmethod
    def _from_switch(cls, value: object) -> object:
        """Older run folders hold `false`, from when this was a switch."""
        return [] if value is False else value

    @field_validator("canaries", mode="before")
    @classmethod
    def _off_from_yaml(cls, value: object) -> object:
        """YAML reads `off` as false."""
        return {k: "off" if v is False else v for k, v in value.items()} if isinstance(value, Mapping) else value

    @field_validator("require", mode="before")
    @classmethod
    def _check_versions(cls, value: object) -> object:
        return check_versions(value)

    @property
    def by_mlperf(self) -> bool:
        return self.rules != "quick"

    @property
    def is_server(self) -> bool:
        """Whether queries arrive at random times at a given rate: in the server and interactive scenarios."""
        return self.scenario in ("server", "interactive")

    @property
    def limits(self) -> Limits:
        """The latency limits of this run's scenario; none in offline and single_stream."""
        if self.scenario == "interactive":
            return self.load.interactive or NO_LIMITS
        if self.scenario in ("server", "multi_stream"):
            load = self.load
            return Limits(target_latency_s=load.target_latency_s, target_ttft_s=load.target_ttft_s, target_tpot_s=load.target_tpot_s)
        return NO_LIMITS

    @property
    def pipeline_name(self) -> str:
        return str(self.pipeline["name"])

    @property
    def pipeline_options(self) -> dict[str, Any]:
        return {k: v for k, v in self.pipeline.items() if k != "name"}
