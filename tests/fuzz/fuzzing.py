"""Damaged inputs, one after another, given to the code that reads them: it may refuse them in a sentence, and nothing else.

A finding is an exception that is not the suite's own, a message that is empty or long, or an input that takes too long.
"""

from __future__ import annotations

import random
import signal
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import typer

from configs.errors import SuiteError
from tests.conftest import ROOT
from tests.fuzz.mutations import mutated

MAX_S = 20.0  # CPU seconds for one input; the slowest correct one, a page over a run, takes one
MAX_MESSAGE = 1500  # characters
ENDS: tuple[type[BaseException], ...] = (typer.Exit, SystemExit)  # a command's exit code, such as that of an INVALID run


class Refused(Exception):  # noqa: N818  (not an error of the suite)
    """What a target raises for an input that its reader refused otherwise than by a SuiteError, with what a user would be told."""


class Target(NamedTuple):
    """Something that reads input from outside.

    inputs: small correct ones by name; how they are damaged depends on the name's ending. read: gets the name and a damaged copy.
    share: how often it is chosen, beside other targets.
    """

    name: str
    inputs: Mapping[str, bytes]
    read: Callable[[str, bytes], object]
    share: int = 1


def from_file(place: Path, use: Callable[[Path], object]) -> Callable[[str, bytes], object]:
    """A target's `read` that puts the input into a file of its name under `place` and has `use` read that."""

    def read(name: str, content: bytes) -> object:
        file = place / name
        file.write_bytes(content)
        return use(file)

    return read


class Finding(NamedTuple):
    """place: the innermost line of the suite's own code, `file:line function`."""

    target: str
    input_name: str
    content: bytes
    error: str
    place: str
    trace: str


class Counts(NamedTuple):
    """By target: inputs that were read as if nothing were wrong, those that were refused, and CPU seconds. findings: all others."""

    read: Counter[str]
    refused: Counter[str]
    cpu_s: dict[str, float]
    findings: list[Finding]

    @property
    def by_place(self) -> dict[str, list[Finding]]:
        found: dict[str, list[Finding]] = defaultdict(list)
        for finding in self.findings:
            found[f"{finding.place}: {finding.error.partition(':')[0]}"].append(finding)
        return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def check_inputs(targets: Sequence[Target]) -> list[Finding]:
    """Read correct inputs. Where a target refuses all that it has, that is a finding: damaged copies would test nothing."""
    counts = Counts(Counter(), Counter(), defaultdict(float), [])
    for target in targets:
        for name, content in target.inputs.items():
            _read(target, name, content, counts)
            if counts.read[target.name]:
                break
        if not counts.read[target.name]:
            counts.findings.append(Finding(target.name, "", b"", "every correct input is refused", "", ""))
    return counts.findings


def fuzz(targets: Sequence[Target], count: int, seed: int) -> Counts:
    """Read so many damaged inputs. Input i depends on the seed, i and the correct inputs alone."""
    counts = Counts(Counter(), Counter(), defaultdict(float), [])
    for number in range(count):
        rng = random.Random(f"{seed}/{number}")
        target = rng.choices(targets, [t.share for t in targets])[0]
        name = rng.choice(sorted(target.inputs))
        _read(target, name, mutated(name, target.inputs[name], rng), counts)
    return counts


def read_one(target: Target, name: str, content: bytes) -> list[Finding]:
    """What goes wrong with this input."""
    counts = Counts(Counter(), Counter(), defaultdict(float), [])
    _read(target, name, content, counts)
    return counts.findings


def _read(target: Target, name: str, content: bytes, counts: Counts) -> None:
    began = time.process_time()
    try:
        with _limited(MAX_S):
            target.read(name, content)
        counts.read[target.name] += 1
    except ENDS:
        counts.read[target.name] += 1
    except (SuiteError, Refused) as error:
        counts.refused[target.name] += 1
        if not 10 <= len(str(error)) <= MAX_MESSAGE:
            counts.findings.append(_finding(target, name, content, error, f"message of {len(str(error))} characters: {str(error)[:100]!r}"))
    except Exception as error:
        counts.findings.append(_finding(target, name, content, error, f"{type(error).__name__}: {str(error)[:200]}"))
    finally:
        counts.cpu_s[target.name] += time.process_time() - began


def _finding(target: Target, name: str, content: bytes, error: BaseException, text: str) -> Finding:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_own(f.filename)]
    place = f"{Path(frames[-1].filename).relative_to(ROOT)}:{frames[-1].lineno} {frames[-1].name}" if frames else "?"
    return Finding(target.name, name, content, text, place, "".join(traceback.format_exception(error))[-6000:])


def _is_own(file: str) -> bool:
    path = Path(file)
    return path.is_relative_to(ROOT) and not path.is_relative_to(ROOT / "tests/fuzz") and ".venv" not in path.parts


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def end(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"took more than {seconds:.0f} s")

    before = signal.signal(signal.SIGVTALRM, end)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
