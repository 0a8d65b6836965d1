"""What an MLPerf submission says of its system: systems/SYSTEM.json, from each run's own system.json and, for the rest, from --describe.

What was measured is not typed in: a told value that is another is refused, and so are runs of other hardware under one system. Software
may differ by run, and all of it is named. Of a run that asks a server (pipeline endpoint), the machine that asked is what is described.
Source of the fields: mlcommons/inference at b66003e1, tools/submission/submission_checker/constants.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.errors import ConfigError, unknown
from metrics.base import Run
from metrics.report.load_run import load_run

MEANINGFUL = (  # fields of a system's description that must say something
    *("division", "submitter", "system_type", "status", "system_name", "number_of_nodes", "host_processor_model_name"),
    *("host_processors_per_node", "host_processor_core_count", "host_memory_capacity", "host_memory_configuration"),
    *("host_storage_capacity", "host_storage_type", "host_networking", "host_network_card_count", "host_networking_topology"),
    *("accelerators_per_node", "accelerator_model_name", "accelerator_memory_capacity", "accelerator_host_interconnect"),
    *("accelerator_memory_configuration", "accelerator_interconnect", "cooling", "framework", "operating_system"),
    "other_software_stack",
)
OTHERS = (  # and those that may be empty
    *("host_processor_frequency", "host_processor_caches", "host_processor_interconnect", "accelerator_frequency"),
    *("accelerator_interconnect_topology", "accelerator_on-chip_memories", "hw_notes", "sw_notes", "system_type_detail"),
)
HARDWARE = (  # measured, and the same in all runs of a system
    *("number_of_nodes", "host_processor_model_name", "host_processor_core_count", "host_memory_capacity"),
    *("accelerators_per_node", "accelerator_model_name", "accelerator_memory_capacity"),
)
SOFTWARE = ("framework", "other_software_stack", "operating_system")  # measured, and named of every run


def measured(run: Run) -> dict[str, str]:
    """HARDWARE and SOFTWARE of one run. Raises ConfigError where its system.json is missing or damaged."""
    file = run.folder / "system.json"
    try:
        return _measured(run, _read_json(file, "what the run was made on is not known"))
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{file} is damaged ({type(error).__name__}: {error}): what the run was made on is not known") from None


def _measured(run: Run, system: Mapping[str, Any]) -> dict[str, str]:
    accelerators, packages = system["accelerators"], system["packages"]
    nodes = -(-num_devices(run) // len(accelerators)) if accelerators else 1
    software = {"ROCm": system["rocm"], "CUDA": system["cuda"], "Python": system["python"], "LoadGen": packages.get("mlcommons_loadgen")}
    engines = {name: packages.get(name) for name in ("torch", "transformers", "diffusers", "accelerate", "vllm")}
    return {
        "number_of_nodes": str(nodes),
        "host_processor_model_name": str(system["processor"]),
        "host_processor_core_count": f"{system['num_cpus']} (as the operating system counts them)",
        "host_memory_capacity": f"{system['memory_bytes'] / 2**30:.0f} GiB",
        "accelerators_per_node": str(len(accelerators)),
        "accelerator_model_name": ", ".join(sorted({a["name"] for a in accelerators})) or "N/A",
        "accelerator_memory_capacity": _span([a["memory_bytes"] for a in accelerators]),
        "framework": ", ".join(f"{k} {v}" for k, v in engines.items() if v),
        "other_software_stack": ", ".join(f"{k} {v}" for k, v in software.items() if v),
        "operating_system": str(system["os"]),
    }


def num_devices(run: Run) -> int:
    """Ranks of the run: outcome.json lists one for each replica."""
    return max((len(o.get("ranks", ())) for o in run.outcome.values()), default=1) * run.config.parallel.size


def of_all(runs: Sequence[Run]) -> dict[str, str]:
    """What was measured of the system that all these runs were made on. Raises ConfigError naming the field in which two of them differ."""
    each = [measured(run) for run in runs]
    if told := next(unlike([(str(run.folder), found) for run, found in zip(runs, each, strict=True)]), None):
        raise ConfigError(f"{told}; a submission's results are of one system: submit each system by itself")
    return {field: each[0][field] for field in HARDWARE} | {field: "; ".join(dict.fromkeys(m[field] for m in each)) for field in SOFTWARE}


def unlike(each: Sequence[tuple[str, Mapping[str, str]]]) -> Iterator[str]:
    """Where a run's hardware is not that of the first: each one's name and what was measured of it."""
    for (first, before), (name, found) in ((each[0], other) for other in each[1:]):
        for field in HARDWARE:
            if found[field] != before[field]:
                yield f"run {name!r} was made on other hardware than {first!r}: {field} is {found[field]!r} and {before[field]!r}"


def describe(known: Mapping[str, str], given: Mapping[str, str], told: Mapping[str, str]) -> dict[str, str]:
    """systems/SYSTEM.json. known: what was measured. given: what the command line says. told: --describe, for the rest.

    What nobody says is empty, and the check names it. Raises ConfigError where `told` contradicts either of the others.
    """
    for field, value in told.items():
        if field in known and value != known[field]:
            raise ConfigError(
                f"--describe says {field} is {value!r}, and the runs say {known[field]!r}: what was measured is not typed in; leave it out "
                "(hw_notes and sw_notes are for what is to be said beside it)"
            )
        if field in ("division", "submitter") and value != given[field]:
            raise ConfigError(f"--describe says {field} is {value!r}, and --{field} is {given[field]!r}; leave it out of the file")
    default = {"system_type": "datacenter"}
    return {field: str({**default, **given, **told, **known}.get(field, "")) for field in (*MEANINGFUL, *OTHERS)}


def contradictions(fields: Mapping[str, Any], runs: Sequence[Path]) -> Iterator[str]:
    """Where a description that is there is not what its runs say, or these are of unlike hardware. fields: systems/SYSTEM.json."""
    each = []
    for folder in runs:
        try:
            each.append((folder.name, measured(load_run(folder))))
        except ConfigError as error:
            yield str(error)
    if not each:
        return
    yield from unlike(each)
    for field in (*HARDWARE, *SOFTWARE):
        value, found = str(fields.get(field, "")), list(dict.fromkeys(known[field] for _, known in each))
        same = value in found if field in HARDWARE else set(value.split("; ")) == set(found)
        if field in fields and not same:
            yield f"{field} is told as {value!r}, and the runs say {'; '.join(found)!r}"


def read_told(path: Path) -> dict[str, str]:
    """The file of --describe. Raises ConfigError naming a field that MLPerf has not."""
    values = _read_json(path, 'it holds fields of the system\'s description, such as {"cooling": "liquid"}')
    for field in values:
        if field not in (*MEANINGFUL, *OTHERS):
            raise ConfigError(f"{path} has an {unknown('field', field, (*MEANINGFUL, *OTHERS))}")
    return {field: str(value) for field, value in values.items()}


def _span(sizes: Sequence[int]) -> str:
    """Of accelerators' memories: one, or the smallest and the largest."""
    return " to ".join(dict.fromkeys(f"{size / 2**30:.0f} GiB" for size in (min(sizes), max(sizes)))) if sizes else "N/A"


def _read_json(path: Path, what: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): {what}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is no JSON object: {what}")
    return found
