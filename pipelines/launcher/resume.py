"""Resumes an accuracy run that was interrupted: what it still has to answer, and whether its answers can be those of an unbroken run.

Records of queries that failed, and of videos that never reached the disk, move to records.failed.jsonl: kept, but not counted.
Answers depend on the run's seed and the sample alone, so the number of ranks may differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from configs.load_config import parse_config, read_yaml
from configs.run_config import RunConfig
from pipelines.devices.system import system_facts
from pipelines.launcher.conductor.job import Rest
from pipelines.launcher.provenance import run_parts, suite_commit, write_manifest
from workloads.records import Record, Sample
from workloads.run_folder.files import check_unlocked, prompt_set_hash, read_run, write_bytes, write_outcome
from workloads.run_folder.manifest import changes, plugin_changes, read_manifest
from workloads.run_folder.outcome import read_system

DECISIVE = (
    "workload",
    "seed",
    "dataset",
    "pipeline",
    "parallel",
    "device",
    "num_threads",
)  # that answers depend on


def resumed_config(folder: Path) -> RunConfig:
    """The run's own configuration. Raises ConfigError where it cannot be resumed."""
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"{str(folder)!r} is not a run folder: it has no config.yaml. Give --resume a folder that a run wrote.")
    config = parse_config(read_yaml(folder / "config.yaml"), str(folder / "config.yaml"))
    if config.mode == "performance":
        raise ConfigError(f"{str(folder)!r} is a performance run: its figures come from one uninterrupted load. Start a new run.")
    return config


def prepare_rest(folder: Path, config: RunConfig, samples: Sequence[Sample]) -> Rest | None:
    """What is left to answer; None where nothing is. Moves the Records that do not count. For rank 0, which has claimed the
    folder.

    Raises ConfigError, naming the difference, where the answers would not be those of the interrupted run.
    """
    check_unlocked(folder)
    _, stored, records, outcome = read_run(folder)
    for difference in _differences(folder, config, samples, stored):
        raise ConfigError(f"run {str(folder)!r} cannot be resumed: {difference}")
    compared_above = ("config.yaml", "system.json")  # by their content
    if edited := [name for name in changes(folder).changed if name not in compared_above]:
        raise ConfigError(f"run {str(folder)!r} cannot be resumed: {edited[0]} was modified after the run was given up")
    if config.mode == "both" and (aborted := outcome.get("performance", {"aborted": "it did not finish"}).get("aborted")):
        raise ConfigError(f"run {str(folder)!r} cannot be resumed: its performance test was given up ({aborted}). Start a new run.")
    finished: dict[int, Record] = {}
    for record in records:
        if record.mode == "accuracy" and record.status == "done" and (record.media is None or (folder / record.media).is_file()):
            finished.setdefault(record.sample_index, record)
    write_manifest(folder, config, samples)  # not sealed any more
    _keep(folder, [r.mode != "accuracy" or finished.get(r.sample_index) is r for r in records])
    earlier_records = [r for r in records if r.mode == "accuracy"]
    (folder / "issued-accuracy.u32").unlink(missing_ok=True)
    last = outcome.get("accuracy")
    earlier: list[Any] = [*last.pop("earlier", []), last] if last else []
    missing = [sample.index for sample in samples if sample.index not in finished]
    if not missing:
        if last is None or last["aborted"]:
            ended = {
                "aborted": None,
                "num_issued": len(samples),
                "num_done": len(samples),
                "num_failed": 0,
                "ranks": (last or {}).get("ranks", []),
            }
            write_outcome(folder, "accuracy", ended | {"earlier": earlier})
        return None
    return Rest(
        missing,
        len(finished),
        max((r.query_id for r in earlier_records), default=-1) + 1,
        max((r.completed_s for r in finished.values()), default=0.0),
        _unused_logs(folder),
        earlier,
    )


def _differences(folder: Path, config: RunConfig, samples: Sequence[Sample], stored: Sequence[Sample]) -> Iterator[str]:
    """What differs from the run's beginning, in words; what matters most comes first."""
    try:
        manifest, system = read_manifest(folder), read_system(folder)
        began = {name: manifest["config"][name] for name in DECISIVE}
        decisive = _decisive(system)
        prompt_set, commit = manifest["prompt_set_sha256"], manifest["suite_commit"]
    except (ConfigError, ValueError, KeyError) as error:
        yield f"its beginning cannot be read from manifest.json and system.json ({error})"
        return
    now = config.model_dump()
    yield from _changes("config.yaml: ", began, {name: now[name] for name in DECISIVE})
    if prompt_set_hash(samples) != prompt_set:
        if len(samples) != len(stored):
            yield f"the prompt set now has {len(samples)} prompts, but samples.jsonl has {len(stored)}"
        for new, old in zip(samples, stored, strict=False):
            if (new.prompt, new.images) != (old.prompt, old.images):
                yield f"prompt {new.index} of the prompt set is now {new.prompt!r}, but {old.prompt!r} in samples.jsonl"
        yield "the prompt set differs from the one that it began with"
    yield from plugin_changes(folder, run_parts(config))
    yield from _changes("", decisive, _decisive(system_facts()))
    yield from _changes("", {"the suite's commit": commit}, {"the suite's commit": suite_commit()})


def _decisive(system: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of system.json that answers depend on; the kinds of accelerators, not their number."""
    kinds = sorted({a["name"] for a in system["accelerators"]})
    place = {"accelerators": kinds} if kinds else {"processor": system["processor"]}
    return {"package": system["packages"], "rocm": system["rocm"], "cuda": system["cuda"], **place}


def _changes(path: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _changes(f"{path}{name}.", old, new)
        elif old != new:
            yield f"{path}{name} is now {new!r}, but was {old!r} when the run began"


def _keep(folder: Path, kept: Sequence[bool]) -> None:
    """Move the other lines of records.jsonl to records.failed.jsonl, which may hold lines twice after a crash; drop a partial last line."""
    path = folder / "records.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)[: len(kept)]
    with (folder / "records.failed.jsonl").open("ab") as failed:
        failed.writelines(line for line, stays in zip(lines, kept, strict=True) if not stays)
    write_bytes(path, b"".join(line for line, stays in zip(lines, kept, strict=True) if stays))


def _unused_logs(folder: Path) -> str:
    """A new folder for LoadGen's logs of this attempt; in them, a sample's index is its place among the missing samples."""
    number = 1
    while (folder / (name := "accuracy" if number == 1 else f"accuracy-{number}")).exists():
        number += 1
    return name
