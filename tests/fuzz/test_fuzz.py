"""2,000 damaged inputs over everything that the suite reads from outside; 20,000 by hand: python -m tests.fuzz (docs/validity.md)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from configs.errors import ConfigError
from tests.fuzz.every_target import every_target
from tests.fuzz.fuzzing import Target, check_inputs, fuzz, read_one
from tests.fuzz.mutations import mutated

SEED, COUNT = 15, 2000
COSTLY = ("plan", "video run", "page of a run", "submission")


def test_damaged_inputs_are_read_or_refused_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read([t for t in every_target(tmp_path) if t.name not in COSTLY], COUNT, capsys)


@pytest.mark.slow
def test_damaged_inputs_of_plans_videos_and_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read([t for t in every_target(tmp_path) if t.name in COSTLY], 100, capsys)


def read(targets: Sequence[Target], count: int, capsys: pytest.CaptureFixture[str]) -> None:
    found = [*check_inputs(targets), *fuzz(targets, count, SEED).findings]
    capsys.readouterr()  # reports and tables
    assert not found, f"{len(found)} findings, first of {found[0].target}, {found[0].input_name}: {found[0].error}\n{found[0].trace}"


def refuse(name: str, content: bytes) -> None:
    raise ConfigError("it is damaged" if content else "")


def test_a_traceback_an_empty_message_and_a_refusal_of_everything_are_findings() -> None:
    def break_down(name: str, content: bytes) -> None:
        raise KeyError(name)

    assert [f.error for f in read_one(Target("x", {}, break_down), "a", b"1")] == ["KeyError: 'a'"]
    assert [f.error for f in read_one(Target("x", {}, refuse), "a", b"")] == ["message of 0 characters: ''"]
    assert read_one(Target("x", {}, refuse), "a", b"1") == []
    assert [f.error for f in check_inputs([Target("x", {"a": b"1"}, refuse)])] == ["every correct input is refused"]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.yaml", "a.mkv"])
def test_the_same_seed_gives_the_same_input(name: str) -> None:
    content = b'{"a": [1, "b"], "c": {"d": null}}\n' * (1 if name == "a.json" else 3)
    several = [mutated(name, content, random.Random(seed)) for seed in range(40)]
    assert several == [mutated(name, content, random.Random(seed)) for seed in range(40)]
    assert len(set(several) - {content}) > 30
