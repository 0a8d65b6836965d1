"""Runs programs that a model wrote against tests, in an isolated process.

The program shares the kernel with the suite, and reads /usr and Python's folders. Where that matters, use a machine that holds nothing
else. The answer is compared in the sandbox too, under its limits of time and memory, since it was written by the program.
"""

from __future__ import annotations

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
from pathlib import Path
from typing import Any, NamedTuple

from configs.errors import ConfigError, RunError
from metrics.mlperf.accuracy.sandbox.child import COMPARE_S, FAILED, NOT_ISOLATED, OUT_OF_TIME, PASSED, TOO_LARGE, WRONG

# With these a program changes no file, reads none outside Python, and reaches no network or process, both of which two layers close.
STRONG = ("files", "calls", "namespaces")
# What stays open to a program, unless one of these layers is in force. The kernel is shared in every case.
_CLOSED_BY = {
    "the contents of files": ("files", "mounts"),
    "permissions, owners and times of files": ("calls", "mounts"),
    "names, sizes and times of all files (stat)": ("mounts",),
    "the network": ("calls", "namespaces"),
    "signals to other processes": ("calls", "namespaces"),
    "all system calls": ("calls",),
}
_START_S = 10.0  # for Python to start on a busy machine, in addition to the program's own time
_COMPARE_S = 3.0 * COMPARE_S  # on a busy machine
_START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from metrics.mlperf.accuracy.sandbox.child import main; del sys.path[0]; main()"
_ROOT = str(Path(__file__).parents[4])


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
    """The layers of isolation that this machine provides, by name; see metrics/mlperf/accuracy/sandbox/child.py."""
    return list(_probe())


def still_open(layers: Sequence[str]) -> list[str]:
    """What these layers leave open to a program."""
    return [what for what, closing in _CLOSED_BY.items() if not set(closing) & set(layers)]


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
            if functional:
                json.loads(test["output"])
        except ValueError as error:
            raise ConfigError(f"test {number} is not JSON ({error}). Input and output of a functional test must be JSON.") from None
        job = {"code": code, "function": function if functional else None, "arguments": arguments}
        if why := _run(job, "" if functional else str(test["input"]), str(test["output"]), limits):
            return Outcome(False, f"test {number}: {why}")
    return Outcome(True, "")


def _run(job: Mapping[str, Any], text: str, expected: str, limits: Limits) -> str:
    """Return why the program does not give the expected output, empty if it does."""
    whole = {**job, "isolation": list(_probe()), "readable": _readable(), **{n: getattr(limits, n) for n in Limits.__slots__}}
    exit_code, _ = _in_sandbox(whole, text, expected)
    if exit_code == NOT_ISOLATED:
        raise RunError("the sandbox lost a layer of isolation that it had before. Run it again, or check the machine.")
    reasons = {PASSED: "", FAILED: "ended with an error", WRONG: "wrong answer", OUT_OF_TIME: f"still running after {limits.seconds} s"}
    reasons[TOO_LARGE] = f"its output is larger than {limits.output_bytes / 2**20:g} MiB"
    # Any other exit code is a signal: the kernel's, when the comparison reaches its limit of CPU time.
    return reasons.get(exit_code, "its output takes too much time or memory to compare")


def _in_sandbox(job: Mapping[str, Any], text: str, expected: str) -> tuple[int, bytes]:
    """Run the job with this input; return its exit code and, of a job without a program, what it wrote."""
    quiet = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    with tempfile.TemporaryDirectory(prefix="triptych-code-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # where the suite runs as root, the program runs as another user
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        for file, content in (("input", text), ("expected", expected)):
            (folder / file).write_bytes(content.encode(errors="surrogatepass"))
        with (folder / "input").open("rb") as stdin, (folder / "output").open("w+b") as output:
            process = subprocess.Popen(
                [sys.executable, "-I", "-c", _START, _ROOT, str(folder / "job.json")],
                stdin=stdin,
                stdout=output,
                stderr=subprocess.STDOUT if job["code"] is None else subprocess.DEVNULL,
                cwd=folder,
                env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "LANG": "C.UTF-8", **quiet},
                start_new_session=True,
            )
            try:
                exit_code = process.wait(job["seconds"] + _START_S + _COMPARE_S)
            except subprocess.TimeoutExpired:
                exit_code = OUT_OF_TIME
            finally:  # the program, and all processes that it started
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            output.seek(0)
            return exit_code, output.read() if job["code"] is None else b""


@functools.cache
def _probe() -> tuple[str, ...]:
    job = {"code": None, "isolation": [], "readable": _readable(), **{n: getattr(Limits(), n) for n in Limits.__slots__}}
    _, written = _in_sandbox(job, "", "")
    try:
        return tuple(json.loads(written))
    except ValueError:
        raise RunError(f"the sandbox does not start: {written.decode(errors='replace').strip()[-300:]}") from None


@functools.cache
def _readable() -> list[str]:
    """Folders that Python needs: its library, packages, the system's shared libraries."""
    paths = {sys.prefix, sys.base_prefix, *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))}
    return sorted(str(Path(p)) for p in (*paths, "/usr", "/lib", "/lib64", "/etc/ld.so.cache") if Path(p).exists())
