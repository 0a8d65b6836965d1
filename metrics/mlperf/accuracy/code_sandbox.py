"""Programs that a model wrote, run against tests in a process that is fenced in.

This is a fence against accidents and idle mischief, not a prison: the kernel is the machine's own, and what can be read under /usr and in
Python's folders can be read. Run it on a machine that holds nothing else where that matters.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NamedTuple

from configs.errors import ConfigError, RunError

CHILD = Path(__file__).with_name("code_sandbox_child.py")
NOT_FENCED, OUT_OF_TIME = 97, 98  # of the child: a fence that the probe had found was refused; the watch ended the program
STRONG = ("files", "namespaces")  # with these, no file is written, no other read, and nothing leaves the machine
_START_S = 10.0  # for Python itself to start, on a busy machine, beside a program's own seconds


@dataclass(frozen=True, slots=True)
class Limits:
    """What one test of one program may take. seconds: LiveCodeBench's, as MLPerf sets it."""

    seconds: int = 60
    memory_bytes: int = 4 * 2**30
    output_bytes: int = 16 * 2**20


class Outcome(NamedTuple):
    """passed: all tests. why: what the first failing one showed."""

    passed: bool
    why: str


def fences() -> list[str]:
    """The fences that stand on this machine, by name; see metrics/mlperf/accuracy/code_sandbox_child.py."""
    return list(_probe())


def run_tests(code: str, tests: Sequence[Mapping[str, Any]], function: str | None, limits: Limits | None = None) -> Outcome:
    """Whether the program passes all tests; it is stopped at the first that fails.

    A test is {"input", "output", "kind"}. `stdin`: the program reads the input and prints the output; lines are compared without
    outer space, number by number where the texts differ. `functional`: `function` of the program, or of its class Solution, is
    called with the input's lines, each an argument in JSON, and must give back what the output, JSON too, says.
    Source: LiveCodeBench, lcb_runner/evaluation/testing_util.py.
    """
    limits = limits or Limits()
    for number, test in enumerate(tests, 1):
        functional = test["kind"] == "functional"
        if functional and not function:
            raise ConfigError(f"test {number} calls a function, and the sample does not say which (function_name)")
        try:
            arguments = [json.loads(line) for line in str(test["input"]).split("\n")] if functional else []
            expected = json.loads(test["output"]) if functional else None
        except ValueError as error:
            raise ConfigError(f"test {number} is not JSON ({error}), as a functional test's input and output must be") from None
        ended, why = _run(code, function if functional else None, arguments, "" if functional else str(test["input"]), limits)
        if ended is None:
            return Outcome(False, f"test {number}: {why}")
        if not (_same_value(ended, expected) if functional else same_lines(ended, str(test["output"]))):
            return Outcome(False, f"test {number}: wrong answer")
    return Outcome(True, "")


def same_lines(told: str, expected: str) -> bool:
    """Line by line without outer space; where two differ, as decimal numbers."""
    ours, theirs = (text.strip().split("\n") for text in (told, expected))
    return len(ours) == len(theirs) and all(_same_line(a.strip(), b.strip()) for a, b in zip(ours, theirs, strict=True))


def _same_line(told: str, expected: str) -> bool:
    if told == expected:
        return True
    try:
        return [Decimal(word) for word in told.split()] == [Decimal(word) for word in expected.split()]
    except InvalidOperation:
        return False


def _same_value(told: str, expected: Any) -> bool:
    try:
        value = ast.literal_eval(told)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return False
    return bool((list(value) if isinstance(value, tuple) else value) == expected)


def _run(code: str, function: str | None, arguments: list[Any], text: str, limits: Limits) -> tuple[str | None, str]:
    """What the program gave, or None and why it gave nothing."""
    job = {
        "code": code,
        "function": function,
        "arguments": arguments,
        "fences": list(_probe()),
        "readable": _readable(),
        "seconds": limits.seconds,
        "memory_bytes": limits.memory_bytes,
        "output_bytes": limits.output_bytes,
    }
    with tempfile.TemporaryDirectory(prefix="triptych-code-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # root becomes nobody in there
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        (folder / "input").write_text(text, encoding="utf-8")
        with (folder / "input").open("rb") as given, (folder / "output").open("wb") as output:
            process = _start([str(folder / "job.json")], given, output, folder)
            try:
                exit_code = process.wait(limits.seconds + _START_S)
            except subprocess.TimeoutExpired:
                return None, f"still running after {limits.seconds} s"
            finally:
                _end(process)
        if exit_code == NOT_FENCED:
            raise RunError("the sandbox could not be fenced in as before; run it again, and look at the machine if that goes on")
        if exit_code in (OUT_OF_TIME, 256 - signal.SIGXCPU):
            return None, f"still running after {limits.seconds} s"
        if exit_code:
            return None, "ended with an error"
        return (folder / "output").read_bytes().decode(errors="replace"), ""


def _start(arguments: list[str], given: Any, output: Any, folder: Path) -> subprocess.Popen[bytes]:
    quiet = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "LANG": "C.UTF-8", **quiet}
    return subprocess.Popen(
        [sys.executable, "-I", str(CHILD), *arguments],
        stdin=given,
        stdout=output,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env=environment,
        start_new_session=True,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """The program, and what it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@functools.cache
def _probe() -> tuple[str, ...]:
    with tempfile.TemporaryDirectory(prefix="triptych-code-") as name:
        found = subprocess.run([sys.executable, "-I", str(CHILD), "--probe", *_readable()], capture_output=True, cwd=name, timeout=60)
    try:
        return tuple(json.loads(found.stdout))
    except ValueError:
        raise RunError(f"the sandbox does not start: {found.stderr.decode(errors='replace').strip()[-300:]}") from None


@functools.cache
def _readable() -> list[str]:
    """Folders that Python itself needs: its library, packages, the system's shared libraries."""
    paths = {sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib"), "/usr", "/lib", "/lib64", "/etc/ld.so.cache"}
    return sorted(str(Path(p)) for p in paths if Path(p).exists())
