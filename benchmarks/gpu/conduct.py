"""Runs the parts within the budget and collects their figures in one document, written again after every part."""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu.child import Child, Ended
from benchmarks.gpu.goals import judge
from benchmarks.gpu.part import Job, Part
from configs.errors import ConfigError
from workloads.run_folder.files import write_json

SCHEMA = "triptych-gpu/1"
DEVICE_LIMIT_S = 60.0  # to identify the device


@dataclass
class Entry:
    """The result of one part. ran: whether it ran to its end. why: the reason if it did not. figures: all that it kept until then."""

    ran: bool = False
    why: str | None = "not reached"
    seconds: float = 0.0
    limit_s: float | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    time: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    commit: str | None = None


@dataclass
class Proof:
    """The document. output: its file; None until the device is known. earlier: parts of the same device in that file, which are kept."""

    budget_s: float
    shrink: bool
    output: Path | None = None
    device: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, Entry] = field(default_factory=dict)
    earlier: dict[str, dict[str, Any]] = field(default_factory=dict)
    interrupted: bool = False
    start: float = field(default_factory=time.monotonic)
    time: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))

    @property
    def left_s(self) -> float:
        return max(self.start + self.budget_s - time.monotonic(), 0.0)

    def all_parts(self) -> dict[str, dict[str, Any]]:
        """This call's parts and, of those that it did not start, the file's earlier ones."""
        now = {name: asdict(entry) for name, entry in self.parts.items()}
        return {
            name: now[name] if name in now and (now[name]["figures"] or name not in self.earlier) else self.earlier[name]
            for name in {**self.earlier, **now}
        }

    def figures(self) -> dict[str, Any]:
        return {name: part["figures"] for name, part in self.all_parts().items()}

    def keep_earlier(self) -> None:
        """Take over the parts of the file that is there, if it is of the same device. Raises ConfigError where it is damaged."""
        assert self.output is not None
        if not self.output.exists():
            return
        try:
            document = json.loads(self.output.read_text(encoding="utf-8"))
            if (document["schema"], document["device"]["name"], document["shrunk"]) == (SCHEMA, self.device["name"], self.shrink):
                self.earlier = {str(name): dict(part) for name, part in document["parts"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{self.output} is damaged ({error!r}); remove it, or give another --output") from None

    def write(self) -> None:
        assert self.output is not None
        self.output.parent.mkdir(parents=True, exist_ok=True)
        document = {
            "schema": SCHEMA,
            "time": self.time,
            "device": self.device,
            "shrunk": self.shrink,
            "budget_s": self.budget_s,
            "seconds": round(time.monotonic() - self.start, 1),
            "interrupted": self.interrupted,
            "parts": self.all_parts(),
            "goals": judge(self.device["name"], self.figures()),
        }
        write_json(self.output, document)


def ask_device(proof: Proof, folder: Path) -> Ended:
    """Identify the device: fill in proof.device."""
    child = Child("device")
    job = Job("", proof.shrink, str(folder), (), {}, time.monotonic() + DEVICE_LIMIT_S)
    try:
        return child.run("benchmarks.gpu.device_facts", job, proof.device.__setitem__)
    finally:
        child.kill()


def conduct(proof: Proof, parts: Sequence[Part], named: tuple[str, ...], folder: Path) -> None:
    """Run every part that fits the budget. Ctrl-C ends it and keeps the figures."""
    proof.parts.update({part.name: Entry(commit=proof.device.get("suite_commit")) for part in parts})
    child: Child | None = None
    try:
        for part in parts:
            if child is not None and (child.process != part.process or not child.alive):
                child.close()
                child = None
            entry, needs_s = proof.parts[part.name], 1.0 if proof.shrink else part.needs_s
            if proof.left_s < needs_s:
                entry.why = f"{proof.left_s:.0f} s are left of the budget of {proof.budget_s:g} s, and it needs {needs_s:g} s"
            else:
                _print(f"{part.name} ..")
                child = child or Child(part.process)
                _run(proof, part, child, named, folder)
            proof.write()
            _print(f"{part.name}: {describe(part, entry)} ({entry.seconds:.0f} s)")
    except KeyboardInterrupt:
        proof.interrupted = True
    finally:
        if child is not None:
            child.kill() if proof.interrupted else child.close()
        proof.write()


def describe(part: Part, entry: Entry) -> str:
    """One line about a part: its figures, and why it did not run to its end."""
    figures = importlib.import_module(part.module).summary(entry.figures) if entry.figures else ""
    return figures if entry.ran else f"not run to its end: {entry.why}" + (f"; until then {figures}" if figures else "")


def _run(proof: Proof, part: Part, child: Child, named: tuple[str, ...], folder: Path) -> None:
    entry, start = proof.parts[part.name], time.monotonic()
    entry.limit_s = round(proof.left_s if proof.shrink else min(part.limit_s, proof.left_s), 1)  # a CPU may be much slower
    entry.why = "interrupted"
    ceilings = proof.parts["ceilings"].figures if "ceilings" in proof.parts else {}
    job = Job(proof.device["torch_device"], proof.shrink, str(folder), named, ceilings, start + entry.limit_s)

    def keep(name: str, value: Any) -> None:
        entry.figures[name], entry.seconds = value, round(time.monotonic() - start, 1)
        proof.write()

    ended = child.run(part.module, job, keep)
    entry.ran, entry.why, entry.seconds = ended.ran, ended.why, round(time.monotonic() - start, 1)


def _print(line: str) -> None:
    print(f"gpu: {line}", file=sys.stderr, flush=True)
