"""Runs programs that a model wrote against tests, in an isolated process.

The sandbox protects against accidents and simple attacks. It is no security boundary: the process shares the kernel, and can read /usr and
Python's folders. Where that matters, use a machine that holds nothing else.
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
NOT_ISOLATED, OUT_OF_TIME = 97, 98  # exit codes of the child: a layer that the probe had was refused; the time limit was reached
STRONG = ("files", "namespaces")  # with these no file is written, none outside Python is read, and nothing is sent over a network
_START_S = 10.0  # for Python to start on a busy machine, in addition to the program's own time


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits for one test of one program. seconds: LiveCodeBench's, as MLPerf sets it."""

    seconds: int = 60
    memory_bytes: int = 4 * 2**30
    output_bytes: int = 16 * 2**20


class Outcome(NamedTuple):
    """passed: whether all tests passed. why: how the first failing test failed."""

    passed: bool
    why: str


def isolation() -> list[str]:
    """The layers of isolation that this machine provides, by name; see metrics/mlperf/accuracy/code_sandbox_child.py."""
    return list(_probe())


def run_tests(code: str, tests: Sequence[Mapping[str, Any]], function: str | None, limits: Limits | None = None) -> Outcome:
    """Run the tests up to the first that fails.

    A test is {"input", "output", "kind"}. `stdin`: the program reads the input and prints the output. Lines are compared without
    surrounding space; where the texts differ, as numbers. `functional`: `function` of the program, or of its class Solution, is called
    with the input's lines, each an argument in JSON, and must return the output, which is JSON too.
    Source: LiveCodeBench, lcb_runner/evaluation/testing_util.py.
    """
    limits = limits or Limits()
    for number, test in enumerate(tests, 1):
        functional = test["kind"] == "functional"
        if functional and not function:
            raise ConfigError(f"test {number} calls a function, but the sample has no function_name.")
        try:
            arguments = [json.loads(line) for line in str(test["input"]).split("\n")] if functional else []
            expected = json.loads(test["output"]) if functional else None
        except ValueError as error:
            raise ConfigError(f"test {number} is not JSON ({error}). Input and output of a functional test must be JSON.") from None
        output, why = _run(code, function if functional else None, arguments, "" if functional else str(test["input"]), limits)
        if output is None:
            return Outcome(False, f"test {number}: {why}")
        if not (_same_value(output, expected) if functional else same_lines(output, str(test["output"]))):
            return Outcome(False, f"test {number}: wrong answer")
    return Outcome(True, "")


def same_lines(actual: str, expected: str) -> bool:
    """Compare line by line without surrounding space; where two lines differ, as decimal numbers."""
    ours, theirs = (text.strip().split("\n") for text in (actual, expected))
    return len(ours) == len(theirs) and all(_same_line(a.strip(), b.strip()) for a, b in zip(ours, theirs, strict=True))


def _same_line(actual: str, expected: str) -> bool:
    if actual == expected:
        return True
    try:
        return [Decimal(word) for word in actual.split()] == [Decimal(word) for word in expected.split()]
    except InvalidOperation:
        return False


def _same_value(text: str, expected: Any) -> bool:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return False
    return bool((list(value) if isinstance(value, tuple) else value) == expected)


def _run(code: str, function: str | None, arguments: list[Any], text: str, limits: Limits) -> tuple[str | None, str]:
    """Return the program's output, or None and the reason."""
    job = {
        "code": code,
        "function": function,
        "arguments": arguments,
        "isolation": list(_probe()),
        "readable": _readable(),
        "seconds": limits.seconds,
        "memory_bytes": limits.memory_bytes,
        "output_bytes": limits.output_bytes,
    }
    with tempfile.TemporaryDirectory(prefix="triptych-code-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # where the suite runs as root, the program runs as nobody
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        (folder / "input").write_text(text, encoding="utf-8")
        with (folder / "input").open("rb") as stdin, (folder / "output").open("wb") as output:
            process = _start([str(folder / "job.json")], stdin, output, folder)
            try:
                exit_code = process.wait(limits.seconds + _START_S)
            except subprocess.TimeoutExpired:
                return None, f"still running after {limits.seconds} s"
            finally:
                _end(process)
        if exit_code == NOT_ISOLATED:
            raise RunError("the sandbox lost a layer of isolation that it had before. Run it again, or check the machine.")
        if exit_code in (OUT_OF_TIME, 256 - signal.SIGXCPU):
            return None, f"still running after {limits.seconds} s"
        if exit_code:
            return None, "ended with an error"
        return (folder / "output").read_bytes().decode(errors="replace"), ""


def _start(arguments: list[str], stdin: Any, output: Any, folder: Path) -> subprocess.Popen[bytes]:
    quiet = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "LANG": "C.UTF-8", **quiet}
    return subprocess.Popen(
        [sys.executable, "-I", str(CHILD), *arguments],
        stdin=stdin,
        stdout=output,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env=environment,
        start_new_session=True,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the program and all processes that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@functools.cache
def _probe() -> tuple[str, ...]:
    with tempfile.TemporaryDirectory(prefix="triptych-code-") as name:
        probe = subprocess.run([sys.executable, "-I", str(CHILD), "--probe", *_readable()], capture_output=True, cwd=name, timeout=60)
    try:
        return tuple(json.loads(probe.stdout))
    except ValueError:
        raise RunError(f"the sandbox does not start: {probe.stderr.decode(errors='replace').strip()[-300:]}") from None


@functools.cache
def _readable() -> list[str]:
    """Folders that Python needs: its library, packages, the system's shared libraries."""
    paths = {sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib"), "/usr", "/lib", "/lib64", "/etc/ld.so.cache"}
    return sorted(str(Path(p)) for p in paths if Path(p).exists())
