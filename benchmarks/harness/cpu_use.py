"""CPU time of processes for each query, by thread and, with py-spy, by function."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RATE_HZ = 200  # samples of py-spy a second
LEAST = 0.02  # functions with less of a process's time are shown together

Threads = dict[tuple[str, str], float]  # process and thread -> CPU seconds


def thread_times(processes: Mapping[str, int]) -> Threads:
    """CPU seconds of every thread so far, by process and kind: `main`, `zmq` (its sockets) and `others`. processes: name -> id."""
    times: Counter[tuple[str, str]] = Counter()
    for name, pid in processes.items():
        for task in Path(f"/proc/{pid}/task").iterdir():
            try:
                command, _, rest = (task / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")
            except OSError:
                continue  # it has just ended
            kind = "main" if task.name == str(pid) else "zmq" if "ZMQ" in command else "others"
            user, system = rest.split()[11:13]
            times[name, kind] += (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")  # type: ignore[assignment]
    return dict(times)


def per_query(before: Threads, after: Threads, num_queries: float) -> dict[tuple[str, str], float]:
    """CPU microseconds of each kind of thread for one of so many queries."""
    return {key: 1e6 * (seconds - before.get(key, 0.0)) / num_queries for key, seconds in after.items()}


class Profiles:
    """py-spy on the main threads of processes, for some seconds. available: whether py-spy is installed."""

    def __init__(self, processes: Mapping[str, int], seconds: float, folder: Path) -> None:
        self._files = {name: folder / f"{name}.raw" for name in processes}
        options = ["--nonblocking", "--duration", str(max(1, round(seconds))), "--rate", str(RATE_HZ), "--format", "raw", "--threads"]
        self._running = [
            subprocess.Popen(
                [str(py_spy()), "record", *options, "--output", str(self._files[name]), "--pid", str(pid)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for name, pid in processes.items()
        ]

    def shares(self) -> dict[str, dict[str, float]]:
        """By process and function: the share of the main thread's time. Waits until all are there."""
        for process in self._running:
            process.wait()
        return {name: _shares(file.read_text(encoding="utf-8").splitlines()) for name, file in self._files.items() if file.exists()}


def py_spy() -> Path | None:
    """The program, next to this Python; None where it is not installed."""
    path = Path(sys.executable).with_name("py-spy")
    return path if path.exists() else None


def table(used: Mapping[tuple[str, str], float], shares: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Rows: CPU microseconds a query of each process, its threads and the functions of its main thread."""
    rows = []
    for name in dict.fromkeys(name for name, _ in used):
        threads = {kind: value for (process, kind), value in used.items() if process == name}
        rows.append({"process": name, "part": "all", "CPU us a query": round(sum(threads.values()), 2)})
        for kind, value in threads.items():
            rows.append({"process": name, "part": f"{kind} thread" + "s" * (kind == "others"), "CPU us a query": round(value, 2)})
            if kind == "main":
                for function, share in sorted(shares.get(name, {}).items(), key=lambda pair: -pair[1]):
                    rows.append({"process": name, "part": f"- {function}", "CPU us a query": round(share * value, 2)})
    return rows


def _shares(lines: Sequence[str]) -> dict[str, float]:
    """From py-spy's lines (`thread;frame;frame;.. count`): the innermost function of the suite that a sample is in."""
    counts: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        thread, *frames = stack.split(";")
        if "MainThread" not in thread:
            continue
        ours = [
            frame for frame in frames if any(f"({package}/" in frame for package in ("pipelines", "workloads", "benchmarks", "configs"))
        ]
        counts[_function((ours or frames or ["?"])[-1])] += int(count)
    total = sum(counts.values())
    shares = {name: count / total for name, count in counts.items() if count >= LEAST * total}
    return {**shares, "the rest": 1 - sum(shares.values())} if total else {}


def _function(frame: str) -> str:
    """`Queries.finish (queries.py)` of a frame `Queries.finish (pipelines/launcher/conductor/queries.py:159)`."""
    name, _, place = frame.rpartition(" (")
    return f"{name.split('.<locals>')[0]} ({Path(place.partition(':')[0]).name})"
