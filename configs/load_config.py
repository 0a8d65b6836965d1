"""Builds a RunConfig from a preset or YAML file, its scenarios and variants, `--set` and the command line's options."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from configs.decode import check_json_values
from configs.errors import ConfigError, unknown
from configs.registry import explain, find, names
from configs.run_config import RunConfig
from configs.settings import (
    Canary,
    DispatchSettings,
    Fallback,
    LoadSettings,
    Mode,
    ParallelSettings,
    PowerSettings,
    Rules,
    Scenario,
    TruthSettings,
)
from configs.yaml_text import read_yaml_text

CONFIGS = Path(__file__).parent
PRESETS = CONFIGS / "presets"


def load_config(workload: str | None, config: str | None, changes: Sequence[str] = (), **given: Any) -> RunConfig:
    """Return the configuration that the command line describes.

    config: a YAML file or a preset (`t2v/embedded`); by default the workload's `embedded` preset.
    changes: `a.b=value` from `--set`, with the value read as YAML. given: options of the command line; None means not given.
    Later ones win: the file's own values; its `scenarios: {offline: {pipeline: {...}}}` for the scenario that is run; its
    `variants: {shrunk: {...}}` for the one that `variant` names; changes; given. A `pipeline` of another name replaces the whole pipeline,
    since its options are those of another plugin.
    Raises ConfigError naming the file or option and the fix.
    """
    if config is None:
        if workload is None:
            raise ConfigError(f"nothing to run: give --workload NAME or --config FILE; known workloads: {', '.join(names('workloads'))}")
        if workload not in names("workloads"):
            raise ConfigError(unknown("workload", workload, names("workloads")))
        config = f"{workload}/embedded"
    if config in presets() or Path(config).suffix in (".yaml", ".yml"):
        path = PRESETS / f"{config}.yaml" if config in presets() else Path(config)
        values = read_yaml(path)
    elif config == f"{workload}/embedded":  # a workload from a plugin, which has no preset
        path, values = Path("--workload"), {"pipeline": {"name": find("workloads", str(workload)).default_pipeline}}
    else:
        raise ConfigError(unknown("preset", config, presets()) + "; the name of a file must end in .yaml")
    if workload is not None:
        if config is not None and values.get("workload", workload) != workload:
            raise ConfigError(f"--workload {workload} contradicts {path} (workload: {values['workload']}); give one of them")
        values["workload"] = workload
    given = {k: v for k, v in given.items() if v is not None}
    values, variant = _split_off_variant(values, given.get("variant"), str(path))
    changed = copy.deepcopy(merge(values, variant))
    for change in changes:
        apply_change(changed, change)
    scenario = given.get("scenario", changed.get("scenario", RunConfig.model_fields["scenario"].default))
    values = merge(for_scenario(values, str(scenario), str(path)), for_scenario(variant, str(scenario), f"{path}, variants"))
    for change in changes:
        apply_change(values, change)
    return parse_config(values | given, str(path))


def for_scenario(values: Mapping[str, Any], scenario: str, source: str) -> dict[str, Any]:
    """Merge the values that `scenarios` holds for this scenario into the others, and drop `scenarios`."""
    rest = {k: v for k, v in values.items() if k != "scenarios"}
    overlays = values.get("scenarios", {})
    if not isinstance(overlays, Mapping) or not all(isinstance(v, Mapping) for v in overlays.values()):
        raise ConfigError(f"{source}: 'scenarios' must map scenarios to options, such as {{offline: {{pipeline: {{batch_size: 8}}}}}}")
    for name in overlays:
        if name not in get_args(Scenario):
            raise ConfigError(f"{source}: 'scenarios' has an {unknown('scenario', name, get_args(Scenario))}")
    return merge(rest, overlays.get(scenario, {}))


def _split_off_variant(values: Mapping[str, Any], name: str | None, source: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the values without `variants`, and those of the variant of that name; empty where name is None."""
    rest = {k: v for k, v in values.items() if k != "variants"}
    variants = values.get("variants", {})
    if not isinstance(variants, Mapping) or not all(isinstance(v, Mapping) for v in variants.values()):
        raise ConfigError(f"{source}: 'variants' must map names to options, such as {{small: {{pipeline: {{batch_size: 1}}}}}}")
    if name is None:
        return rest, {}
    if name not in variants:
        if not variants:
            raise ConfigError(f"{source} has no variants; leave out --variant {name}")
        raise ConfigError(f"{source} has an {unknown('variant', name, variants)}")
    return rest, dict(variants[name])


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both mappings in one, mapping by mapping; `above` wins."""
    merged = dict(below)
    for key, value in above.items():
        under = below.get(key)
        if not isinstance(under, Mapping) or not isinstance(value, Mapping):
            merged[key] = value
        elif key == "pipeline" and value.get("name", under.get("name")) != under.get("name"):
            merged[key] = value  # another plugin, with options of its own
        else:
            merged[key] = merge(under, value)
    return merged


def parse_config(values: Mapping[str, Any], source: str) -> RunConfig:
    """Check the values and build the RunConfig. Raises ConfigError naming the option, its value and what is allowed."""
    check_json_values(values, source)
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
            f"{source}: option 'allow_fallback' must be a list of names, got {allowed_names!r:.80}, such as --set allow_fallback=[dtype]; "
            f"known: {', '.join(get_args(Fallback))}"
        )
    for name in allowed_names:
        if name not in get_args(Fallback):
            raise ConfigError(f"{source}: 'allow_fallback' has {unknown('name', name, get_args(Fallback))}")
    canaries = values.get("canaries")
    for name in canaries if isinstance(canaries, Mapping) else ():
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
            f"{source}: scenario 'interactive' requires limits of its own; add load.interactive, such as "
            "--set load.interactive.target_ttft_s=0.5 --set load.interactive.target_tpot_s=0.03"
        )
    if not isinstance(config.pipeline.get("name"), str):
        raise ConfigError(f"{source}: 'pipeline' names no plugin; write 'pipeline: {{name: NAME, ...}}' or --set pipeline.name=NAME")
    return config


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping. Raises ConfigError with the line that does not parse."""
    try:
        values = read_yaml_text(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"config file {str(path)!r} does not exist; presets: {', '.join(presets())}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {str(path)!r} cannot be read: {error}") from None
    except ValueError as error:
        raise ConfigError(f"config file {str(path)!r} is not YAML: {error}") from None
    if not isinstance(values, dict):
        kind = "nothing" if values is None else f"a {type(values).__name__}"
        raise ConfigError(f"config file {str(path)!r} must hold a mapping such as 'workload: t2v', got {kind}")
    return values


def apply_change(values: dict[str, Any], change: str) -> None:
    """Apply one `--set a.b=value` in place."""
    key, sign, text = change.partition("=")
    if not sign or not key:
        raise ConfigError(f"--set {change!r:.200} must have the form name=value, such as pipeline.num_inference_steps=4")
    try:
        value = read_yaml_text(text)
    except ValueError as error:
        raise ConfigError(f"--set {change!r:.200}: the value is not YAML: {error}") from None
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {change!r:.200}: {parent!r} is a single value without options")
    values[last] = value


def presets() -> list[str]:
    """Names of the shipped presets, such as `t2v/embedded`."""
    return sorted(str(p.relative_to(PRESETS).with_suffix("")) for p in PRESETS.glob("*/*.yaml"))
