"""RunConfig: what a run is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from configs.required_versions import checked
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
    """One launch: which samples, which pipeline, asked how, judged by what."""

    workload: str
    scenario: Scenario = "offline"
    mode: Mode = "performance"
    rules: Rules = Field("quick", description="what VALID means: the suite's short runs, or a round of MLPerf, which fills in `load`")
    benchmark: str | None = Field(None, description="the MLPerf benchmark that this is, by its name in a submission: its gates are shown")
    gate: dict[str, float] | None = Field(
        None, description="what figures must reach, such as {exact_match: 0.9}, whatever the rules; the workload's own where not given"
    )
    seed: int = Field(42, ge=0, lt=2**63)
    dataset: dict[str, Any] = Field(default_factory=dict, description="options of the workload")
    pipeline: dict[str, Any] = Field(description="`name` and the options of that pipeline")
    metrics: list[str] | None = Field(None, description="names; the workload's own where not given")
    load: LoadSettings = Field(default_factory=LoadSettings)  # type: ignore[arg-type]
    parallel: ParallelSettings = Field(default_factory=ParallelSettings)  # type: ignore[arg-type]
    dispatch: DispatchSettings = Field(default_factory=DispatchSettings)  # type: ignore[arg-type]
    truth: TruthSettings = Field(default_factory=TruthSettings)  # type: ignore[arg-type]
    power: PowerSettings = Field(default_factory=PowerSettings)  # type: ignore[arg-type]
    warmup_batches: int = Field(2, ge=1, description="batches each rank answers before the clock starts")
    device: Literal["auto", "cpu"] = "auto"
    num_threads: int | None = Field(None, ge=1, description="CPU threads a rank; torch's own choice where not given")
    heartbeat_timeout_s: float = Field(20.0, gt=1, description="a rank silent for this long counts as dead")
    answer_timeout_s: float | None = Field(
        None, gt=0, description="a rank that has queries and answers none for so long hangs; by default 120, or 10 of the longest batches"
    )
    report_videos: int = Field(48, ge=0, description="videos to embed in report.html")
    allow_fallback: list[Fallback] = Field(
        default_factory=list, description="differences between what was asked for and what is in force that are accepted, by name"
    )
    canaries: dict[Canary, Annotated[float, Field(ge=0, le=1)] | Literal["off"]] = Field(
        default_factory=dict, description="signs by name: the share of answers that may show one, or off; the report lists them"
    )
    require: dict[str, str] = Field(
        default_factory=dict,
        description="versions of packages that must be in force on every rank, such as {torch: '2.13', diffusers: '>=0.42'}",
    )
    variant: str | None = Field(None, description="the preset's variant that is laid over it")

    @field_validator("allow_fallback", mode="before")
    @classmethod
    def _was_a_switch(cls, value: object) -> object:
        """Run folders of older versions say `false`."""
        return [] if value is False else value

    @field_validator("canaries", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: object) -> object:
        """YAML reads `off` as false."""
        return {k: "off" if v is False else v for k, v in value.items()} if isinstance(value, Mapping) else value

    @field_validator("require", mode="before")
    @classmethod
    def _are_versions(cls, value: object) -> object:
        return checked(value)

    @property
    def by_mlperf(self) -> bool:
        return self.rules != "quick"

    @property
    def is_server(self) -> bool:
        """Whether queries come at random times, at a rate: the server scenario, or interactive."""
        return self.scenario in ("server", "interactive")

    @property
    def limits(self) -> Limits:
        """What this run's scenario holds the answers to; nothing in scenarios without limits."""
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
