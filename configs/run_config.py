"""RunConfig: what a run is. Built from a preset or a YAML file, changed by `--set` and the command line's own options."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from configs.errors import ConfigError, unknown
from configs.registry import explain, find, names
from configs.required_versions import checked

Scenario = Literal["offline", "server", "interactive", "single_stream", "multi_stream"]
Mode = Literal["performance", "accuracy", "both"]
Rules = Literal["quick", "mlperf", "mlperf-v6.0", "mlperf-v6.1"]  # mlperf: the round of the installed LoadGen

# What was asked for and may not be in force: the truth checks that a run can be let off, by name (metrics/validity/truth_checks.py).
Fallback = Literal["dtype", "attention", "quantisation", "cache", "compile", "parallel", "packages", "steps", "option"]

# Canaries (metrics/validity/canaries.py) that a run can be excused from, or be given a tolerance for, by name.
Canary = Literal["nan", "black", "frozen", "noise", "identical", "unreadable", "empty", "looping", "cut_off", "utf8"]

CONFIGS = Path(__file__).parent
PRESETS = CONFIGS / "presets"


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(_Settings):
    """What the answers of a server or interactive run must keep to, at `target_percentile`. None: no such limit.

    Where a token limit is given, the latency of the whole answer is not judged, as in MLPerf's token mode.
    """

    target_latency_s: float | None = Field(None, gt=0, description="the whole answer, from its scheduled time")
    target_ttft_s: float | None = Field(None, gt=0, description="time to first token, from the scheduled time")
    target_tpot_s: float | None = Field(None, gt=0, description="time per output token after the first")

    @property
    def by_token(self) -> bool:
        return self.target_ttft_s is not None or self.target_tpot_s is not None


_NO_LIMITS = Limits.model_validate({})


class LoadSettings(_Settings):
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


class ParallelSettings(_Settings):
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


class DispatchSettings(_Settings):
    """Which replica is given which query; see pipelines/distributed/dispatch.py."""

    policy: Literal["least_tokens", "shortest_queue", "round_robin"] = Field(
        "least_tokens", description="server and interactive: who gets a query; elsewhere replicas pull what they have room for"
    )
    max_in_flight: int | None = Field(
        None, ge=1, description="queries that a streaming replica holds at most; its batch_size where not given"
    )
    port: int | None = Field(None, ge=1, lt=2**16, description="several nodes: the conductor's TCP port; any free one where not given")


class TruthSettings(_Settings):
    """What the ranks answer again after the clock has stopped, to check the timed answers; pipelines/launcher/replay.py."""

    replays: int = Field(3, ge=0, description="timed answers that each rank gives again, one at a time; 0: none, and the report says so")
    max_s: float = Field(20.0, gt=0, description="no further one is begun after so many seconds; one always is")


class PowerSettings(_Settings):
    """Whether power and energy are sampled while a test lasts; pipelines/launcher/worker/power_sampler.py."""

    sample: Literal["auto", "always", "never"] = Field("auto", description="auto: where the device tells; always: or the run is refused")
    interval_s: float = Field(0.1, ge=0.01, le=1, description="seconds between two looks")
    powercap: str = Field("/sys/class/powercap", description="where Linux shows processors' energy counters")


class RunConfig(_Settings):
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
            return self.load.interactive or _NO_LIMITS
        if self.scenario in ("server", "multi_stream"):
            load = self.load
            return Limits(target_latency_s=load.target_latency_s, target_ttft_s=load.target_ttft_s, target_tpot_s=load.target_tpot_s)
        return _NO_LIMITS

    @property
    def pipeline_name(self) -> str:
        return str(self.pipeline["name"])

    @property
    def pipeline_options(self) -> dict[str, Any]:
        return {k: v for k, v in self.pipeline.items() if k != "name"}


def load_config(workload: str | None, config: str | None, changes: Sequence[str] = (), **given: Any) -> RunConfig:
    """The run that the command line describes.

    config: a YAML file or a preset (`t2v/embedded`); the workload's `embedded` preset where None.
    changes: `a.b=value` from `--set`, value read as YAML. given: options of the command line; None means not given.
    A file's `scenarios: {offline: {pipeline: {...}}}` is laid over the rest of it where that scenario is run, and over both of them, where
    `variant` names it, one of its `variants: {shrunk: {...}}`. A `pipeline` of another name takes no options from the one below.
    Raises ConfigError naming the file or option and the fix.
    """
    if config is None:
        if workload is None:
            raise ConfigError(f"say what to run: --workload NAME or --config FILE; workloads: {', '.join(names('workloads'))}")
        if workload not in names("workloads"):
            raise ConfigError(unknown("workload", workload, names("workloads")))
        config = f"{workload}/embedded"
    if config in presets() or Path(config).suffix in (".yaml", ".yml"):
        path = PRESETS / f"{config}.yaml" if config in presets() else Path(config)
        values = read_yaml(path)
    elif config == f"{workload}/embedded":  # a workload from a plugin, which has no preset
        path, values = Path("--workload"), {"pipeline": {"name": find("workloads", str(workload)).default_pipeline}}
    else:
        raise ConfigError(unknown("preset", config, presets()) + "; a file's name ends in .yaml")
    if workload is not None:
        if config is not None and values.get("workload", workload) != workload:
            raise ConfigError(f"--workload {workload} and {path} (workload: {values['workload']}) disagree; give one of them")
        values["workload"] = workload
    given = {k: v for k, v in given.items() if v is not None}
    values, over = _variant(values, given.get("variant"), str(path))
    changed = copy.deepcopy(_laid_over(values, over))
    for change in changes:
        apply_change(changed, change)
    scenario = given.get("scenario", changed.get("scenario", RunConfig.model_fields["scenario"].default))
    values = _laid_over(for_scenario(values, str(scenario), str(path)), for_scenario(over, str(scenario), f"{path}, variants"))
    for change in changes:
        apply_change(values, change)
    return parse_config(values | given, str(path))


def for_scenario(values: Mapping[str, Any], scenario: str, source: str) -> dict[str, Any]:
    """The values with what `scenarios` says of that scenario laid over them, mapping by mapping."""
    rest = {k: v for k, v in values.items() if k != "scenarios"}
    overlays = values.get("scenarios", {})
    if not isinstance(overlays, Mapping) or not all(isinstance(v, Mapping) for v in overlays.values()):
        raise ConfigError(
            f"{source}: 'scenarios' must map scenarios to options, such as 'scenarios: {{offline: {{pipeline: {{batch_size: 8}}}}}}'"
        )
    for name in overlays:
        if name not in get_args(Scenario):
            raise ConfigError(f"{source}: 'scenarios' has an {unknown('scenario', name, get_args(Scenario))}")
    return _laid_over(rest, overlays.get(scenario, {}))


def _variant(values: Mapping[str, Any], name: str | None, source: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values without `variants`, and what the one that is asked for says."""
    rest = {k: v for k, v in values.items() if k != "variants"}
    variants = values.get("variants", {})
    if not isinstance(variants, Mapping) or not all(isinstance(v, Mapping) for v in variants.values()):
        raise ConfigError(f"{source}: 'variants' must map names to options, as in 'variants: {{small: {{pipeline: {{batch_size: 1}}}}}}'")
    if name is None:
        return rest, {}
    if name not in variants:
        if not variants:
            raise ConfigError(f"{source} has no variants, so that --variant {name} names none; leave it out")
        raise ConfigError(f"{source} has an {unknown('variant', name, variants)}")
    return rest, dict(variants[name])


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        under = below.get(key)
        if not isinstance(under, Mapping) or not isinstance(value, Mapping):
            merged[key] = value
        elif key == "pipeline" and value.get("name", under.get("name")) != under.get("name"):
            merged[key] = value  # another one, whose options are its own
        else:
            merged[key] = _laid_over(under, value)
    return merged


def parse_config(values: Mapping[str, Any], source: str) -> RunConfig:
    """Check the values. Raises ConfigError naming the option, its value and what is allowed."""
    for key in values:
        if key not in RunConfig.model_fields:
            raise ConfigError(f"{source} has {unknown('option', key, RunConfig.model_fields)}")
    parts = (
        *(("load", LoadSettings), ("parallel", ParallelSettings), ("dispatch", DispatchSettings), ("truth", TruthSettings)),
        ("power", PowerSettings),
    )
    for part, settings in parts:
        inner = values.get(part)
        for key in inner if isinstance(inner, Mapping) else ():
            if key not in settings.model_fields:
                raise ConfigError(f"{source} has {unknown('option', f'{part}.{key}', [f'{part}.{k}' for k in settings.model_fields])}")
    allowed_names = values.get("allow_fallback") or []
    if not isinstance(allowed_names, list):
        raise ConfigError(
            f"{source}: option 'allow_fallback' is {allowed_names!r}; name what may differ, such as --set allow_fallback=[dtype]; "
            f"known: {', '.join(get_args(Fallback))}"
        )
    for name in allowed_names:
        if name not in get_args(Fallback):
            raise ConfigError(f"{source}: 'allow_fallback' has {unknown('name', name, get_args(Fallback))}")
    loosened = values.get("canaries")
    for name in loosened if isinstance(loosened, Mapping) else ():
        if name not in get_args(Canary):
            raise ConfigError(f"{source}: 'canaries' has an {unknown('name', name, get_args(Canary))}")
    for key, allowed in (("scenario", get_args(Scenario)), ("mode", get_args(Mode)), ("rules", get_args(Rules))):
        if key in values and values[key] not in allowed:
            raise ConfigError(f"{source}: {unknown(key, values[key], allowed)}")
    try:
        config = RunConfig.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(f"{source}: {explain(error)}") from None
    if config.scenario == "interactive" and config.load.interactive is None and not config.by_mlperf:
        raise ConfigError(
            f"{source}: scenario 'interactive' needs its own limits; add load.interactive, such as "
            "--set load.interactive.target_ttft_s=0.5 --set load.interactive.target_tpot_s=0.03"
        )
    if not isinstance(config.pipeline.get("name"), str):
        raise ConfigError(f"{source}: 'pipeline' names no plugin; write 'pipeline: {{name: NAME, ...}}' or --set pipeline.name=NAME")
    return config


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping. Raises ConfigError with the line where it does not parse."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"config file {str(path)!r} does not exist; presets: {', '.join(presets())}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {str(path)!r} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"config file {str(path)!r} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        kind = "nothing" if values is None else f"a {type(values).__name__}"
        raise ConfigError(f"config file {str(path)!r} holds {kind}; it must hold a mapping such as 'workload: t2v'")
    return values


def apply_change(values: dict[str, Any], change: str) -> None:
    """Apply one `--set a.b=value` in place."""
    key, sign, text = change.partition("=")
    if not sign or not key:
        raise ConfigError(f"--set {change!r} is not of the form name=value, such as pipeline.num_inference_steps=4")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {change!r}: the value is not YAML: {' '.join(str(error).split())}") from None
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {change!r}: {parent!r} is a single value and has no options")
    values[last] = value


def presets() -> list[str]:
    """Names of the shipped presets, such as `t2v/embedded`."""
    return sorted(str(p.relative_to(PRESETS).with_suffix("")) for p in PRESETS.glob("*/*.yaml"))
