"""python -m tests.fuzz --count 20000 --seed 1: damaged inputs of every kind; a table on stderr, one JSON line on stdout.

Findings are stored, and read again by: python -m tests.fuzz --replay outputs/fuzz/FILE
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.every_target import every_target
from tests.fuzz.fuzzing import Counts, Finding, Target, check_inputs, fuzz, read_one


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="damaged inputs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="targets whose name contains this")
    parser.add_argument("--keep", type=Path, default=Path("outputs/fuzz"), help="where findings are stored")
    parser.add_argument("--replay", type=Path, help="read a stored finding again, and show its traceback")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        targets = [t for t in every_target(Path(place)) if not given.only or given.only in t.name]
        if given.replay is not None:
            sys.exit(_replay(given.replay, targets))
        began = time.process_time()
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            wrong = check_inputs(targets)
            counts = fuzz(targets, given.count, given.seed)
    counts.findings[:0] = wrong
    files = [_store(given.keep, number, finding) for number, finding in enumerate(counts.findings)]
    _print_table(targets, counts)
    line = {
        "inputs": given.count,
        "seed": given.seed,
        "read": counts.read.total(),
        "refused": counts.refused.total(),
        "findings": len(counts.findings),
        "places": len(counts.by_place),
        "cpu_s": round(time.process_time() - began, 1),
        "stored": [str(file) for file in files[:20]],
    }
    print(json.dumps(line))
    sys.exit(1 if counts.findings else 0)


def _print_table(targets: list[Target], counts: Counts) -> None:
    print(f"{'target':32} {'read':>6} {'refused':>8} {'findings':>9} {'CPU s':>6}", file=sys.stderr)
    for target in targets:
        found = sum(finding.target == target.name for finding in counts.findings)
        print(
            f"{target.name:32} {counts.read[target.name]:6} {counts.refused[target.name]:8} {found:9} {counts.cpu_s[target.name]:6.1f}",
            file=sys.stderr,
        )
    for place, findings in counts.by_place.items():
        first = findings[0]
        print(f"{len(findings):5} x {place}\n        e.g. {first.target}, {first.input_name}: {first.error[:200]}", file=sys.stderr)


def _store(keep: Path, number: int, finding: Finding) -> Path:
    """The input under its target and name, from which `--replay` reads both."""
    keep.mkdir(parents=True, exist_ok=True)
    file = keep / f"{number:05}@{finding.target}@{finding.input_name.replace('/', '+')}"
    file.write_bytes(finding.content)
    return file


def _replay(file: Path, targets: list[Target]) -> int:
    _, target_name, input_name = file.name.split("@", 2)
    target = next(t for t in targets if t.name == target_name)
    findings = read_one(target, input_name.replace("+", "/"), file.read_bytes())
    for finding in findings:
        print(finding.trace or finding.error, file=sys.stderr)
    return 1 if findings else 0


if __name__ == "__main__":
    main()
