"""Checks an MLPerf submission, more strictly than the official checker. Every refusal names the file and the reason.

The official checker (mlcommons/inference, tools/submission/submission_checker, at b66003e1) checks the duration that was set but not the
one that was reached, ignores LoadGen's own verdict, and trusts accuracy.txt. Here LoadGen's verdict must be VALID, its logs must have no
error, and accuracy is computed again from the answers in the run folder that DIR/runs.json names. A result without a run folder is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from configs.decode import read_json
from configs.errors import ConfigError
from metrics.mlperf.submission.check_result import Refusal, Result, Source, Sources, check_result, read_object, run_folder
from metrics.mlperf.submission.files import FOLDERS, SCENARIOS
from metrics.mlperf.submission.system import MEANINGFUL, OTHERS, contradictions
from workloads.mlperf.benchmarks import benchmark
from workloads.mlperf.rules import Benchmark
from workloads.mlperf.run_rules import embedded_round

MAX_FILE_BYTES = 50 * 2**20


def check(root: Path, round_: str | None = None) -> list[Refusal]:
    """Return all refusals; empty if the submission is correct. Raises ConfigError if the folder holds no submission."""
    sources: Sources = {}
    refusals: list[Refusal] = []
    try:
        sources = read_json(root / "runs.json", Sources) if (root / "runs.json").exists() else sources
    except ConfigError as error:
        refusals.append(Refusal("runs.json", str(error)))
    round_ = round_ or sources.get("round") or embedded_round()
    divisions = [d for d in _folders(root) if d.name in ("closed", "open", "network")]
    if not divisions:
        raise ConfigError(f"{str(root)!r} holds no submission: it has no folder 'closed' or 'open'.")
    for division in divisions:
        if division.name == "network":
            refusals.append(Refusal("network", "this check does not support results over a network"))
            continue
        for submitter in _folders(division):
            refusals += _check_submitter(root, submitter, division.name, round_, sources.get("results", {}))
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.stat().st_size > MAX_FILE_BYTES:
            refusals.append(
                Refusal(path.relative_to(root).as_posix(), f"{path.stat().st_size / 2**20:.0f} MiB; at most 50 MiB are allowed")
            )
    return refusals


def _check_submitter(root: Path, base: Path, division: str, round_: str, runs: Mapping[str, Mapping[str, Source]]) -> Iterator[Refusal]:
    here = base.relative_to(root).as_posix()
    if not (base / "src").is_dir() or not any((base / "src").iterdir()):
        yield Refusal(f"{here}/src", "missing or empty; it must hold the code of the runs")
    systems = _folders(base / "results")
    if not systems:
        yield Refusal(f"{here}/results", "missing or empty")
    mapping = read_object(base / "model_mapping.json") if division == "open" else None
    for system in systems:
        description = base / "systems" / f"{system.name}.json"
        yield from _check_system(root, description, division, base.name)
        yield from _check_hardware(root, system, description, runs)
        for model in _folders(system):
            name = str((mapping or {}).get(model.name, model.name))
            try:
                rules = benchmark(name, round_)
            except ConfigError as error:
                yield Refusal(model.relative_to(root).as_posix(), str(error))
                continue
            yield from _check_scenarios(root, model, rules, division)
            for folder in _folders(model):
                if SCENARIOS.get(folder.name) in {s.scenario for s in rules.scenarios}:
                    scenario = rules.of(SCENARIOS[folder.name])
                    own_runs = runs.get(folder.relative_to(root).as_posix(), {})
                    yield from check_result(Result(root, folder, division, rules, scenario, own_runs))


def _check_scenarios(root: Path, model: Path, rules: Benchmark, division: str) -> Iterator[Refusal]:
    here = model.relative_to(root).as_posix()
    present = {folder.name for folder in _folders(model)}
    known = {FOLDERS[s.scenario] for s in rules.scenarios}
    for name in sorted(present - known):
        yield Refusal(f"{here}/{name}", f"{rules.name} has no such scenario in {rules.round}; known: {', '.join(sorted(known))}")
    if division == "open":
        return
    for scenario in rules.required:
        if FOLDERS[scenario] not in present:
            yield Refusal(here, f"{rules.round} requires scenario {FOLDERS[scenario]}, which is missing")
    optional = [FOLDERS[scenario] for scenario in rules.optional]
    if optional and not present & set(optional):
        yield Refusal(here, f"{rules.round} requires {' or '.join(optional)}; both are missing")


def _check_system(root: Path, path: Path, division: str, submitter: str) -> Iterator[Refusal]:
    here = path.relative_to(root).as_posix()
    fields = read_object(path)
    if fields is None:
        yield Refusal(here, "missing, or not a JSON object")
        return
    for name, value in (("division", division), ("submitter", submitter)):
        if fields.get(name) != value:
            yield Refusal(here, f"{name} is {fields.get(name)!r}, but the path has {value!r}")
    if missing := [f for f in (*MEANINGFUL, *OTHERS) if f not in fields]:
        yield Refusal(here, f"missing fields: {', '.join(missing)}")
    if empty := [f for f in MEANINGFUL if f in fields and not str(fields[f]).strip()]:
        yield Refusal(here, f"empty fields: {', '.join(empty)}; fill them in with --describe FILE.json")


def _check_hardware(root: Path, system: Path, description: Path, runs: Mapping[str, Mapping[str, Source]]) -> Iterator[Refusal]:
    """Check that all available runs of the system were made on the same hardware, and that the description matches it."""
    here = description.relative_to(root).as_posix()
    prefix = f"{system.relative_to(root).as_posix()}/"
    sources = [source for result, tests in runs.items() if result.startswith(prefix) for source in tests.values()]
    folders = sorted({folder for source in sources if (folder := run_folder(root, source)) is not None})
    for problem in contradictions(read_object(description) or {}, folders):
        yield Refusal(here, problem)


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir()) if path.is_dir() else []


def print_refusals(root: Path, refusals: Sequence[Refusal], echo: Callable[[str], None]) -> None:
    """Print one line for each refusal."""
    echo(f"{'REFUSED' if refusals else 'OK'}  submission {root}" + (f": {len(refusals)} reasons" if refusals else ""))
    for refusal in refusals:
        echo(f"  {refusal.file}: {refusal.reason}")
