"""The description of the system in an MLPerf submission, systems/SYSTEM.json: from each run's system.json and from --describe.

Measured fields cannot be typed in: a value of --describe that contradicts them is refused, and so are runs made on different hardware.
Software may differ between runs, and all versions are listed. For a run against a server (pipeline endpoint), the client's machine is
described.
Source of the fields: mlcommons/inference at b66003e1, tools/submission/submission_checker/constants.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.decode import read_json
from configs.errors import ConfigError, unknown
from metrics.base import Run
from metrics.report.load_run import load_run
from workloads.run_folder.outcome import SystemFacts, read_system

MEANINGFUL = (  # fields that must not be empty
    *("division", "submitter", "system_type", "status", "system_name", "number_of_nodes", "host_processor_model_name"),
    *("host_processors_per_node", "host_processor_core_count", "host_memory_capacity", "host_memory_configuration"),
    *("host_storage_capacity", "host_storage_type", "host_networking", "host_network_card_count", "host_networking_topology"),
    *("accelerators_per_node", "accelerator_model_name", "accelerator_memory_capacity", "accelerator_host_interconnect"),
    *("accelerator_memory_configuration", "accelerator_interconnect", "cooling", "framework", "operating_system"),
    "other_software_stack",
)
OTHERS = (  # fields that may be empty
    *("host_processor_frequency", "host_processor_caches", "host_processor_interconnect", "accelerator_frequency"),
    *("accelerator_interconnect_topology", "accelerator_on-chip_memories", "hw_notes", "sw_notes", "system_type_detail"),
)
HARDWARE = (  # measured; must be the same in all runs of a system
    *("number_of_nodes", "host_processor_model_name", "host_processor_core_count", "host_memory_capacity"),
    *("accelerators_per_node", "accelerator_model_name", "accelerator_memory_capacity"),
)
SOFTWARE = ("framework", "other_software_stack", "operating_system")  # measured; listed for every run


def measure(run: Run) -> dict[str, str]:
    """HARDWARE and SOFTWARE of one run. Raises ConfigError if its system.json is missing or damaged."""
    try:
        return _fields(run, read_system(run.folder))
    except KeyError as error:
        raise ConfigError(f"{run.folder / 'system.json'} is damaged: it has no {error}, so the run's hardware is unknown.") from None


def _fields(run: Run, system: SystemFacts) -> dict[str, str]:
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
    """The number of ranks of the run. outcome.json lists one rank of each replica."""
    return max((len(o.get("ranks", ())) for o in run.outcome.values()), default=1) * run.config.parallel.size


def measure_system(runs: Sequence[Run]) -> dict[str, str]:
    """The measured fields of the system of all runs. Raises ConfigError naming the field in which two runs differ."""
    each = [measure(run) for run in runs]
    if problem := next(hardware_differences([(str(run.folder), fields) for run, fields in zip(runs, each, strict=True)]), None):
        raise ConfigError(f"{problem}. A submission describes one system: submit each system separately.")
    return {field: each[0][field] for field in HARDWARE} | {field: "; ".join(dict.fromkeys(m[field] for m in each)) for field in SOFTWARE}


def hardware_differences(each: Sequence[tuple[str, Mapping[str, str]]]) -> Iterator[str]:
    """Fields in which a run's hardware differs from the first run's. each: the runs' names and measured fields."""
    for (first, expected), (name, fields) in ((each[0], other) for other in each[1:]):
        for field in HARDWARE:
            if fields[field] != expected[field]:
                yield f"run {name!r} was made on other hardware than {first!r}: {field} is {fields[field]!r} and {expected[field]!r}"


def describe(known: Mapping[str, str], given: Mapping[str, str], described: Mapping[str, str]) -> dict[str, str]:
    """The content of systems/SYSTEM.json. known: measured. given: from the command line. described: from --describe.

    Fields without a value are empty; the check lists them. Raises ConfigError if `described` contradicts `known` or `given`.
    """
    for field, value in described.items():
        if field in known and value != known[field]:
            raise ConfigError(
                f"--describe has {value!r} for {field}, but the runs measured {known[field]!r}. Leave measured fields out; use hw_notes or "
                "sw_notes for remarks."
            )
        if field in ("division", "submitter") and value != given[field]:
            raise ConfigError(f"--describe has {value!r} for {field}, but --{field} is {given[field]!r}. Leave it out of the file.")
    default = {"system_type": "datacenter"}
    return {field: str({**default, **given, **described, **known}.get(field, "")) for field in (*MEANINGFUL, *OTHERS)}


def contradictions(fields: Mapping[str, Any], runs: Sequence[Path]) -> Iterator[str]:
    """Contradictions between a description and its runs, or between the runs' hardware. fields: the content of systems/SYSTEM.json."""
    each = []
    for folder in runs:
        try:
            each.append((folder.name, measure(load_run(folder))))
        except ConfigError as error:
            yield str(error)
    if not each:
        return
    yield from hardware_differences(each)
    for field in (*HARDWARE, *SOFTWARE):
        value, measured = str(fields.get(field, "")), list(dict.fromkeys(known[field] for _, known in each))
        same = value in measured if field in HARDWARE else set(value.split("; ")) == set(measured)
        if field in fields and not same:
            yield f"{field} is {value!r}, but the runs measured {'; '.join(measured)!r}"


def read_description(path: Path) -> dict[str, str]:
    """Read the file of --describe. Raises ConfigError naming an unknown field."""
    values = read_json(path, dict[str, Any], 'it must hold fields of the system\'s description, such as {"cooling": "liquid"}')
    for field in values:
        if field not in (*MEANINGFUL, *OTHERS):
            raise ConfigError(f"{path} has an {unknown('field', field, (*MEANINGFUL, *OTHERS))}")
    return {field: str(value) for field, value in values.items()}


def _span(sizes: Sequence[int]) -> str:
    """The memory of accelerators: one size, or the smallest and the largest."""
    return " to ".join(dict.fromkeys(f"{size / 2**30:.0f} GiB" for size in (min(sizes), max(sizes)))) if sizes else "N/A"
