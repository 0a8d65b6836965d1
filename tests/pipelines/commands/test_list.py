"""suite.py list: what can be named, and one plugin's options."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from typer.testing import CliRunner

import suite
from configs.errors import ConfigError
from configs.plugin_options import plugin_options, summary
from configs.registry import BUILT_IN, KINDS, find


def _run(*words: str) -> tuple[str, dict[str, Any]]:
    done = CliRunner().invoke(suite.app, ["list", *words], catch_exceptions=False)
    return done.stdout, json.loads(done.stdout.splitlines()[-1])


def test_everything_that_can_be_named_is_listed() -> None:
    text, line = _run()
    assert "  toy_llm" in text
    assert "llm/embedded" in line["presets"]
    assert {"toy_llm", "vllm"} <= set(line["pipelines"])
    assert "world_score" in line["metrics"]


def test_a_plugins_options_have_type_default_and_meaning() -> None:
    text, line = _run("transformers_llm")
    assert "  batching  (continuous | static; default continuous)\n      `continuous`, or `static` batches of `generate`\n" in text
    options = {option["name"]: option for option in line["plugins"][0]["options"]}
    assert options["batch_size"] == {"name": "batch_size", "type": "int", "default": "32", "meaning": "queries answered at the same time"}
    assert not any(name.startswith("_") for name in options)


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_of_a_built_in_has_a_meaning(kind: str) -> None:
    for name in BUILT_IN[kind]:
        cls = find(kind, name)
        assert not [o.name for o in plugin_options(cls) if not o.meaning], f"{name}: say in {cls.__name__}'s docstring what they mean"


def test_a_preset_is_shown_with_its_settings() -> None:
    text, line = _run("llm/toy")
    assert "pipeline: {name: toy_llm}" in text
    assert line["settings"]["pipeline"] == {"name": "toy_llm"}


def test_a_plugin_of_ones_own_is_shown_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("configs.registry._registered", {})
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass\nfrom configs.registry import register\nfrom metrics.base import Metric\n"
        "@register('mine')\n@dataclass(frozen=True)\nclass Mine(Metric):\n"
        '    """Mine alone.\n\n    limit: the most that counts. Higher is better.\n    """\n    limit: int = 3\n'
        "    def compute(self, run):\n        return {}\n",
        encoding="utf-8",
    )
    text, _ = _run("mine", "--plugin", str(file))
    assert text.startswith("metric mine: Mine alone.\n  limit  (int; default 3)\n      the most that counts\n")


def test_an_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown plugin or preset 'toy_lllm' \(did you mean 'toy_llm'\?\)"):
        CliRunner().invoke(suite.app, ["list", "toy_lllm"], catch_exceptions=False)


def test_meanings_are_read_off_the_docstring() -> None:
    @dataclass
    class Example:
        """What it is.

        first, second: both of them (see: here). third: `a` is 0.5 s; `b` more. Other text.
        """

        first: int
        second: str = ""
        third: Literal["a", "b"] = "a"
        fourth: float = 1.0

    assert summary(Example) == "What it is."
    rows = [(o.name, o.type, o.default, o.meaning) for o in plugin_options(Example)]
    assert rows == [
        ("first", "int", None, "both of them (see: here)"),
        ("second", "str", "", "both of them (see: here)"),
        ("third", "a | b", "a", "`a` is 0.5 s"),
        ("fourth", "float", "1.0", ""),
    ]
