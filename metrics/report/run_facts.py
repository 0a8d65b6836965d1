"""What runs can differ in: requested and effective settings, prompts, devices, versions; and titles that tell runs apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from metrics.base import Run
from metrics.report.report import Report
from workloads.run_folder.manifest import Manifest, read_manifest
from workloads.run_folder.outcome import SystemFacts, read_system

WITHOUT_EFFECT = ("workload", "scenario", "report_videos", "heartbeat_timeout_s", "answer_timeout_s")  # or shown elsewhere


def facts(report: Report) -> dict[str, Any]:
    """Facts by name, most interesting first: requested and effective settings, prompts, hardware, versions."""
    run = report.run
    settings = {k: v for k, v in run.config.model_dump().items() if k not in WITHOUT_EFFECT}
    found = dict(_flat("", settings))
    # `in force: ` is part of names in compare.json and audit.json
    found |= {f"in force: {name}": value for name, value in report.data["effective"].items()}
    manifest, system = _manifest(run.folder), _system(run.folder)
    found |= {"prompts": str(manifest.get("prompt_set_sha256"))[:12], "devices": num_devices(run), "hardware": hardware(run)}
    found |= {name: digest[:12] for name, digest in manifest.get("files", {}).items() if name.startswith("plugins/")}
    found |= {"suite": manifest.get("suite_commit"), **{name: system.get(name) for name in ("python", "rocm", "cuda")}}
    return found | dict(_flat("", system.get("packages", {})))


def different_facts(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, list[Any]]:
    """name -> [before, after]; None where one side does not have it."""
    return {name: [before.get(name), after.get(name)] for name in dict.fromkeys((*before, *after)) if before.get(name) != after.get(name)}


def num_devices(run: Run) -> int:
    """Ranks, each with its own device; 0 where the run does not name them."""
    return len(run.ranks) * run.config.parallel.size  # of a replica, one rank answers


def hardware(run: Run) -> str:
    """The name of the accelerator, or of the CPU where no accelerator was used."""
    system = _system(run.folder)
    names = sorted({str(a.get("name")) for a in system.get("accelerators") or []})
    if not names or any(str(rank["device"]).startswith("cpu") for rank in run.ranks):
        return str(system.get("processor") or "unknown")
    return ", ".join(names)


def model_name(run: Run) -> str:
    """The model's name without a path; the pipeline's where it has no option `model`."""
    options = run.config.pipeline_options
    if run.has_random_weights:
        return f"{Path(str(options.get('architecture'))).name}{', shrunk' if options.get('shrink') else ''} (random weights)"
    return Path(str(options.get("model") or run.config.pipeline_name)).name


def titles(reports: Sequence[Report]) -> list[str]:
    """A title for each: its workload, and what distinguishes it from others of the same workload: model, scenario, name of the run."""
    parts = [[_panel(r.run), model_name(r.run), r.run.config.scenario.replace("_", " "), str(r.data["run"])] for r in reports]
    found = [part[0] for part in parts]
    for i, part in enumerate(parts):
        alike = [other for j, other in enumerate(parts) if j != i and other[0] == part[0]]
        for place in (1, 2, 3):
            if alike and any(other[place] != part[place] for other in alike):
                found[i] += f" {part[place]}"
                alike = [other for other in alike if other[place] == part[place]]
    return found


def _panel(run: Run) -> str:
    """The workload; with random weights also the model, even where it is not needed to distinguish runs."""
    return f"{run.config.workload} {model_name(run)}" if run.has_random_weights else run.config.workload


def _flat(path: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{path}{name}.", value)
        else:
            yield f"{path}{name}", value


def _manifest(folder: Path) -> Manifest:
    try:
        return read_manifest(folder)
    except ValueError:
        return {"files": {}}


def _system(folder: Path) -> SystemFacts:
    try:
        return read_system(folder)
    except ConfigError:
        return {}
