"""Mutation testing: how many of 60 small faults, put into the code one at a time, make a test fail?

    python -m tests.mutants choose --output mutants.json                      # a new list; tests/mutants/mutants.json holds 60
    python -m tests.mutants find tests/mutants/mutants.json --tree ../other           # where they are in that checkout
    python -m tests.mutants run tests/mutants/mutants.json --output results.jsonl     # the tests against each; one to two hours

A fault (a mutant) changes a sign, a bound or a number, or drops a line. It is known by its function and its statement, not by its file, so
that the same list can be run before and after files are moved. Where a statement has been reworded, `find` and `run` print the most similar
one and what the fault makes of it. Look at these by eye; where one is wrong, write the new function and statement into the list.

`run` works in a copy of what git tracks. It first runs the whole suite once, to learn how long each test takes and which tests execute
which mutated statement; OUTPUT.reached.json keeps that. Then it puts in each mutant by itself and runs the tests that execute it, the
quickest first, until one fails or --budget-s is spent; a crash and a test that never ends count as failures, a test that fails without the
mutant too does not. OUTPUT gets a line for each mutant; after Ctrl-C the same command carries on. A table and one JSON line come last. Use
the Python of the environment that has the suite.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from tests.mutants.mutations import Mutant, Place, choose, locate, mutated, noted, units

ROOT = Path(__file__).parents[2]
VERDICTS = ("caught", "survived", "not reached", "not found")
GROUP = r"@[\w-]+$"  # which xdist appends to a test's name
SUITE_S = 3 * 3600  # the whole suite, at most
HANGS_S = 300  # beyond three times what the tests took before; a suite run in a test may itself take 240 s until it is stopped
# A module of the copy: notes which test executes which mutant, and, as a plugin of pytest, how each test ends.
RECORDER = """\
import json, os
FOLDER, SEEN = {folder!r}, set()
def hit(*numbers):
    for pair in ((number, os.environ.get("PYTEST_CURRENT_TEST", "")) for number in numbers):
        if pair not in SEEN:
            SEEN.add(pair)
            keep("hits", pair)
def keep(name, values):
    with open(os.path.join(FOLDER, name), "a", encoding="utf-8") as file:
        file.write(json.dumps(values) + chr(10))
def pytest_runtest_logreport(report):
    if "PYTEST_XDIST_WORKER" not in os.environ:
        keep("reports", (report.nodeid, report.duration, report.outcome))
"""


class Reached(NamedTuple):
    """tests: by mutant's number, as text. seconds: by test, of those that passed."""

    tests: dict[str, list[str]]
    seconds: dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("command", choices=("choose", "find", "run"))
    parser.add_argument("list", type=Path, nargs="?", help="find, run: the file that `choose` wrote")
    parser.add_argument("--tree", type=Path, default=ROOT, help="the checkout; default: this one")
    parser.add_argument("--output", type=Path, required="find" not in sys.argv, help="choose: the list; run: results")
    parser.add_argument("--seed", type=int, default=60, help="choose: of the draw")
    parser.add_argument("--count", type=int, default=60, help="choose: how many, a fifth of each subject")
    parser.add_argument("--budget-s", type=float, default=120.0, help="run: of tests for each mutant, by their time without it")
    parser.add_argument("--workers", type=int, default=2, help="run: processes for the run of the whole suite")
    parser.add_argument("--marks", default="", help="run: with these tests alone, as in pytest's -m; 'not slow' for those of make test")
    given = parser.parse_args()
    if given.command == "choose":
        chosen = [asdict(mutant) for mutant in choose(given.tree, given.seed, given.count)]
        given.output.write_text(json.dumps(chosen, indent=1) + "\n", encoding="utf-8")
        return
    if given.list is None:
        parser.error(f"{given.command} needs the file that `choose` wrote")
    mutants = [Mutant(**values) for values in json.loads(given.list.read_text(encoding="utf-8"))]
    if given.command == "find":
        print(f"found {len(find(mutants, given.tree))} of {len(mutants)}")
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it, and so would what tests start
    with tempfile.TemporaryDirectory(prefix="triptych-mutants-") as folder, contextlib.suppress(KeyboardInterrupt):
        run(mutants, given.tree, given.output.resolve(), given.budget_s, ["-n", str(given.workers), "-m", given.marks], Path(folder))
    conclude(mutants, _read_lines(given.output))


def find(mutants: Sequence[Mutant], tree: Path) -> dict[int, Place]:
    """Place by number. Prints those that are not word for word as in the list."""
    everything, found = units(tree), dict[int, Place]()
    for mutant in mutants:
        place = locate(mutant, everything)
        if place:
            found[mutant.number] = place
        if place is None or place.likeness < 1:
            print(f"{mutant.number}: {mutant.file}, {mutant.function}:\n  {mutant.before}\n  -> {mutant.after}")
            unit, after = (place.unit, place.after) if place else (None, "")
            print(f"  is now in {unit.file}, {unit.function}:\n  {unit.text}\n  -> {after}" if unit else "  is not found", flush=True)
    return found


def run(mutants: Sequence[Mutant], tree: Path, output: Path, budget_s: float, options: Sequence[str], folder: Path) -> None:
    copy = _copy(tree, folder)
    places = find(mutants, copy)
    kept = output.with_name(f"{output.name}.reached.json")
    if not kept.is_file():
        kept.write_text(json.dumps(_learn(copy, places, options)._asdict()), encoding="utf-8")
    reached = Reached(**json.loads(kept.read_text(encoding="utf-8")))
    done = {line["number"] for line in _read_lines(output)}
    for mutant in mutants:
        if mutant.number in done:
            continue
        begin, place = time.monotonic(), places.get(mutant.number)
        result = _judge(copy, place, mutant.number, reached, budget_s) if place else {"verdict": "not found"}
        line = asdict(mutant) | {"likeness": place.likeness if place else 0.0} | result | {"took_s": round(time.monotonic() - begin, 1)}
        with output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{mutant.number}: {mutant.function}: {result['verdict']} {result.get('by', '')} ({line['took_s']} s)", flush=True)


def _copy(tree: Path, folder: Path) -> Path:
    """What git tracks, in a repository of its own. Raises RuntimeError where Python would import the suite from somewhere else."""
    copy = folder / "tree"
    for name in _git(tree, "ls-files", "-z").split("\0"):
        if name and (tree / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(tree / name, copy / name)
    (copy / "mutant_recorder.py").write_text(RECORDER.format(folder=str(folder)), encoding="utf-8")
    _git(copy, "init", "--quiet")
    _git(copy, "add", "--all")
    _git(copy, "-c", "user.name=mutants", "-c", "user.email=mutants@localhost", "commit", "--quiet", "--message", "copy")
    words = [sys.executable, "-c", "import metrics.base; print(metrics.base.__file__)"]
    where = subprocess.run(words, cwd=folder, env=_env(copy), capture_output=True, text=True, check=True).stdout.strip()
    if not Path(where).is_relative_to(copy):
        raise RuntimeError(f"Python imports {where}, not the copy in {copy}")
    return copy


def _git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout


def _env(copy: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}


def _learn(copy: Path, places: dict[int, Place], options: Sequence[str]) -> Reached:
    """Run the whole suite once, with the execution of every mutated unit noted."""
    texts, naming = noted(copy, places)
    originals = {file: (copy / file).read_text(encoding="utf-8") for file in texts}
    print(f"running the whole suite, with notes in {len(texts)} files", flush=True)
    for file, text in texts.items():
        _write(copy, file, text)
    _pytest(copy, (), SUITE_S, ["--dist", "loadgroup", *options])
    for file, text in originals.items():
        _write(copy, file, text)
    seconds, unfit = _tests(copy)
    failed = sorted(test for test, outcome in unfit.items() if outcome == "failed")
    print(f"{len(seconds)} tests passed; left out, since they fail without a mutant: {', '.join(failed) or 'none'}", flush=True)
    reached: dict[int, set[str]] = {number: {t for t in seconds if number in naming.get(t.partition("::")[0], ())} for number in places}
    for number, current in _read_lines(copy.parent / "hits"):
        test, _, phase = current.rpartition(" ")
        # What a shared fixture executes, it executes for the first of its tests only.
        reached[number] |= (
            {re.sub(GROUP, "", test)} if phase != "(setup)" else {t for t in seconds if t.startswith(test.partition("::")[0])}
        )
    return Reached({str(number): sorted(tests & seconds.keys()) for number, tests in reached.items()}, seconds)


def _write(copy: Path, file: str, text: str) -> None:
    (copy / file).write_text(text, encoding="utf-8")
    for compiled in (copy / file).parent.glob(f"__pycache__/{Path(file).stem}.*.pyc"):
        compiled.unlink()  # Python knows a changed file by its second and its size, and both may be the same


def _judge(copy: Path, place: Place, number: int, reached: Reached, budget_s: float) -> dict[str, Any]:
    tests = sorted(reached.tests[str(number)], key=lambda test: reached.seconds[test])
    chosen, spent_s = list[str](), 0.0
    for test in tests:
        spent_s += reached.seconds[test]
        if spent_s <= budget_s or not chosen:
            chosen.append(test)
    counts = {"reached_by": len(tests), "run": len(chosen)}
    if not tests:
        return {"verdict": "not reached"} | counts
    limit_s = 3 * min(spent_s, max(budget_s, reached.seconds[tests[0]])) + HANGS_S
    original = (copy / place.unit.file).read_text(encoding="utf-8")
    while chosen:
        _write(copy, place.unit.file, mutated(copy, place))
        try:
            code = _pytest(copy, chosen, limit_s)
        finally:
            _write(copy, place.unit.file, original)
        if code == 0:
            break
        failed = [test for test, outcome in _tests(copy)[1].items() if outcome == "failed"][:1]
        if _pytest(copy, failed or chosen, limit_s) == 0:  # so it was not by chance, or by what else the machine does
            return {"verdict": "caught", "by": failed[0] if failed else "no end" if code is None else f"exit code {code}"} | counts
        chosen = [test for test in chosen if failed and test not in failed]
    return {"verdict": "survived"} | counts | {"run": len(chosen)}


def _pytest(copy: Path, tests: Sequence[str], limit_s: float, options: Sequence[str] = ("-x",)) -> int | None:
    """Its exit code; None where it had not ended by then. tests: in this order; none means all."""
    (copy.parent / "tests").write_text("\n".join(tests), encoding="utf-8")
    for name in ("hits", "reports"):
        (copy.parent / name).unlink(missing_ok=True)
    plugins = ["-p", "mutant_recorder", "-p", "no:cacheprovider", f"--basetemp={copy.parent / 'temporary'}"]
    with (copy.parent / "output").open("wb") as out:
        command = [sys.executable, "-m", "pytest", *plugins, *options, f"@{copy.parent / 'tests'}"]
        process = subprocess.Popen(command, cwd=copy, env=_env(copy), stdout=out, stderr=out, start_new_session=True)
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _tests(copy: Path) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds of the tests that passed, and the outcomes of others, as the recorder kept them."""
    seconds, unfit = collections.defaultdict[str, float](float), dict[str, str]()
    for test, duration_s, outcome in _read_lines(copy.parent / "reports"):
        seconds[re.sub(GROUP, "", test)] += duration_s
        if outcome != "passed":
            unfit.setdefault(re.sub(GROUP, "", test), outcome)
    return {test: took for test, took in seconds.items() if test not in unfit}, unfit


def _read_lines(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def conclude(mutants: Sequence[Mutant], results: Sequence[dict[str, Any]]) -> None:
    counts = collections.Counter((line["subject"], line["verdict"]) for line in results)
    print(f"{'':12}" + "".join(f"{verdict:>13}" for verdict in VERDICTS))
    for subject in dict.fromkeys(mutant.subject for mutant in mutants):
        print(f"{subject:12}" + "".join(f"{counts[subject, verdict]:13}" for verdict in VERDICTS))
    for line in results:
        if line["verdict"] != "caught":
            print(f"{line['number']}: {line['verdict']}: {line['file']}, {line['function']}:\n  {line['before']}\n  -> {line['after']}")
    totals = {verdict.replace(" ", "_"): sum(line["verdict"] == verdict for line in results) for verdict in VERDICTS}
    print(json.dumps({"name": "mutants", "chosen": len(mutants), "run": len(results)} | totals))


if __name__ == "__main__":
    main()
