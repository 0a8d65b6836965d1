"""Whether an MLPerf submission holds, more strictly than the official checker: every refusal names the file and the reason.

The official one (mlcommons/inference, tools/submission/submission_checker, at b66003e1) looks at the duration that was set and not at the
one that was met, never at LoadGen's own verdict, and believes what accuracy.txt says. Here LoadGen must say VALID, nothing in its logs may
be an error, and accuracy is computed again from the answers in the run folder that DIR/runs.json names; a result without one is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from metrics.mlperf.submission.check_result import Place, Refusal, check_result, read_object, run_folder
from metrics.mlperf.submission.files import FOLDERS, SCENARIOS
from metrics.mlperf.submission.system import MEANINGFUL, OTHERS, contradictions
from workloads.mlperf.benchmarks import benchmark
from workloads.mlperf.rules import Benchmark
from workloads.mlperf.run_rules import embedded_round

MAX_FILE_BYTES = 50 * 2**20


def check(root: Path, round_: str | None = None) -> list[Refusal]:
    """All there is to refuse; empty where it holds. Raises ConfigError where the folder holds no submission."""
    known = _runs_of(root)
    round_ = round_ or known.get("round") or embedded_round()
    found: list[Refusal] = []
    divisions = [d for d in _folders(root) if d.name in ("closed", "open", "network")]
    if not divisions:
        raise ConfigError(f"{str(root)!r} holds no submission: it has no folder 'closed' or 'open'")
    for division in divisions:
        if division.name == "network":
            found.append(Refusal("network", "results over a network are not known to this check"))
            continue
        for submitter in _folders(division):
            found += _submitter(root, submitter, division.name, round_, known.get("results", {}))
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.stat().st_size > MAX_FILE_BYTES:
            found.append(Refusal(path.relative_to(root).as_posix(), f"{path.stat().st_size / 2**20:.0f} MiB, at most 50 are allowed"))
    return found


def _submitter(root: Path, base: Path, division: str, round_: str, runs: Mapping[str, Any]) -> Iterator[Refusal]:
    here = base.relative_to(root).as_posix()
    if not (base / "src").is_dir() or not any((base / "src").iterdir()):
        yield Refusal(f"{here}/src", "missing or empty: it must hold the code of the runs")
    systems = _folders(base / "results")
    if not systems:
        yield Refusal(f"{here}/results", "missing or empty")
    mapping = read_object(base / "model_mapping.json") if division == "open" else None
    for system in systems:
        description = base / "systems" / f"{system.name}.json"
        yield from _system(root, description, division, base.name)
        yield from _same_system(root, system, description, runs)
        for model in _folders(system):
            name = str((mapping or {}).get(model.name, model.name))
            try:
                rules = benchmark(name, round_)
            except ConfigError as error:
                yield Refusal(model.relative_to(root).as_posix(), str(error))
                continue
            yield from _scenarios(root, model, rules, division)
            for folder in _folders(model):
                if SCENARIOS.get(folder.name) in {s.scenario for s in rules.scenarios}:
                    of = rules.of(SCENARIOS[folder.name])
                    yield from check_result(Place(root, folder, division, rules, of, runs.get(folder.relative_to(root).as_posix(), {})))


def _scenarios(root: Path, model: Path, rules: Benchmark, division: str) -> Iterator[Refusal]:
    here = model.relative_to(root).as_posix()
    there = {folder.name for folder in _folders(model)}
    known = {FOLDERS[s.scenario] for s in rules.scenarios}
    for name in sorted(there - known):
        yield Refusal(f"{here}/{name}", f"{rules.name} has no such scenario in {rules.round}; it has {', '.join(sorted(known))}")
    if division == "open":
        return
    for scenario in rules.required:
        if FOLDERS[scenario] not in there:
            yield Refusal(here, f"scenario {FOLDERS[scenario]} is missing, which {rules.round} requires")
    optional = [FOLDERS[scenario] for scenario in rules.optional]
    if optional and not there & set(optional):
        yield Refusal(here, f"one of {' or '.join(optional)} is missing, which {rules.round} requires")


def _system(root: Path, path: Path, division: str, submitter: str) -> Iterator[Refusal]:
    here = path.relative_to(root).as_posix()
    fields = read_object(path)
    if fields is None:
        yield Refusal(here, "missing or no JSON")
        return
    for name, value in (("division", division), ("submitter", submitter)):
        if fields.get(name) != value:
            yield Refusal(here, f"{name} is {fields.get(name)!r}, and the path says {value!r}")
    if missing := [f for f in (*MEANINGFUL, *OTHERS) if f not in fields]:
        yield Refusal(here, f"without the fields {', '.join(missing)}")
    if empty := [f for f in MEANINGFUL if f in fields and not str(fields[f]).strip()]:
        yield Refusal(here, f"fields that say nothing: {', '.join(empty)}; give them by --describe FILE.json")


def _same_system(root: Path, system: Path, description: Path, runs: Mapping[str, Any]) -> Iterator[Refusal]:
    """Whether all runs of the system were made on the same hardware, and its description is of that; as far as the runs are there."""
    here = description.relative_to(root).as_posix()
    of = [tests for result, tests in runs.items() if result.startswith(f"{system.relative_to(root).as_posix()}/")]
    folders = sorted({folder for tests in of for told in tests.values() if (folder := run_folder(root, told)) is not None})
    for told in contradictions(read_object(description) or {}, folders):
        yield Refusal(here, told)


def _runs_of(root: Path) -> dict[str, Any]:
    return read_object(root / "runs.json") or {}


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir()) if path.is_dir() else []


def print_refusals(root: Path, refusals: Sequence[Refusal], echo: Callable[[str], None]) -> None:
    """One line each."""
    echo(f"{'REFUSED' if refusals else 'OK'}  submission {root}" + (f": {len(refusals)} reasons" if refusals else ""))
    for refusal in refusals:
        echo(f"  {refusal.file}: {refusal.reason}")
