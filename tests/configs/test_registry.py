from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from configs.errors import ConfigError, PluginError
from configs.registry import BUILT_IN, KINDS, find, load_plugin_file, make, names, register
from metrics.base import Run, SampleMetric, VideoMetric
from pipelines.base import Pipeline
from tests.conftest import ROOT
from workloads.records import Record


@pytest.mark.parametrize("kind", KINDS)
def test_every_built_in_is_found_in_its_module_and_says_what_it_is(kind: str) -> None:
    for name, module in BUILT_IN[kind].items():
        assert find(kind, name).__module__ == module
        assert find(kind, name).__doc__


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_of_built_ins_and_the_decorators_in_the_tree_agree(kind: str) -> None:
    registered = {}
    for path in sorted((ROOT / kind).rglob("*.py")):
        for name in re.findall(r'^@register\("(\w+)"\)', path.read_text(encoding="utf-8"), re.MULTILINE):
            registered[name] = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    assert registered == BUILT_IN[kind], f"configs/registry.py: BUILT_IN[{kind!r}] and the files that register a plugin differ"


def test_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(PluginError, match=r"unknown pipeline 'toy_t2w' \(did you mean 'toy_t2v'\?\); known: "):
        find("pipelines", "toy_t2w")


def test_unknown_option_names_the_known_ones() -> None:
    message = r"pipeline 'toy_t2v' has unknown option 'second' \(did you mean 'seconds'\?\); known: batch_size, fail_every, fault, seconds"
    with pytest.raises(ConfigError, match=message):
        make("pipelines", "toy_t2v", {"second": 1})


@pytest.mark.parametrize(("option", "value"), [("seconds", "soon"), ("batch_size", 1.5), ("fault", "hum")])
def test_an_option_of_the_wrong_type_is_named_with_its_value(option: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"option '{option}' is {value!r}"):
        make("pipelines", "toy_t2v", {option: value})


def test_a_private_field_is_no_option() -> None:
    with pytest.raises(ConfigError, match="unknown option '_pipe'"):
        make("pipelines", "diffusers_t2v", {"_pipe": None})


def test_a_plugin_file_cannot_take_the_name_of_a_built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even before the built-in is imported: its figures would stand under a name that everybody takes for the suite's."""
    monkeypatch.setattr("configs.registry._registered", {})
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass\nfrom configs.registry import register\nfrom metrics.base import Metric\n"
        "@register('throughput')\n@dataclass(frozen=True)\nclass Mine(Metric):\n    def compute(self, run):\n        return {}\n",
        encoding="utf-8",
    )
    with pytest.raises(PluginError, match="metric 'throughput' is built in, and Mine cannot replace it; choose another name"):
        load_plugin_file(str(file))
    assert names("metrics")["throughput"] == "built in"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        ("import no_such_module_at_all\n", "failed to import: ModuleNotFoundError"),
        ("def broken(:\n", "failed to import: SyntaxError"),
        ("x = 1\n", "registers nothing"),
    ],
)
def test_a_plugin_file_that_cannot_be_used_says_why(tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "mine.py"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(PluginError, match=message):
        load_plugin_file(str(file))


def test_what_is_no_dataclass_or_no_plugin_is_refused() -> None:
    with pytest.raises(PluginError, match="is not a dataclass"):

        @register("bare")
        class Bare(Pipeline): ...

    with pytest.raises(PluginError, match="derives from none of Pipeline, Workload, Metric"):

        @register("stray")
        @dataclass
        class Stray:
            x: int = 0


def test_a_plugin_that_lacks_a_method_or_an_attribute_is_refused_before_a_run() -> None:
    with pytest.raises(PluginError, match=r"pipeline 'half' \(.*Half\) lacks methods 'generate', 'load'; define what"):

        @register("half")
        @dataclass
        class Half(Pipeline):
            workloads: ClassVar[tuple[str, ...]] = ("t2v",)

    with pytest.raises(PluginError, match=r"metric 'mute' \(.*Mute\) lacks method 'score'"):

        @register("mute")
        @dataclass(frozen=True)
        class Mute(SampleMetric):
            name: ClassVar[str] = "mute"

    with pytest.raises(PluginError, match=r"metric 'nameless' \(.*Nameless\) lacks class attribute 'name'; set it in the class: name"):

        @register("nameless")
        @dataclass(frozen=True)
        class Nameless(VideoMetric):
            def score_video(self, run: Run, record: Record, video_THWC: Any) -> float:
                return 1.0

    assert not {"half", "mute", "nameless"} & {name for kind in KINDS for name in names(kind)}
