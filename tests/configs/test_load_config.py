from __future__ import annotations

from pathlib import Path

import pytest

from configs.errors import ConfigError
from configs.load_config import load_config, parse_config, presets


def test_every_preset_parses() -> None:
    for name in presets():
        assert load_config(None, name).workload == name.partition("/")[0]


def test_the_command_line_overrides_set_and_set_overrides_the_preset() -> None:
    changes = ["pipeline.num_inference_steps=3", "scenario=server", "load.min_duration_s=2"]
    config = load_config("t2v", None, changes, scenario="single_stream", seed=None)
    assert config.pipeline_options["num_inference_steps"] == 3
    assert config.scenario == "single_stream"
    assert config.load.min_duration_s == 2
    assert config.seed == 42


SCENARIOS = "workload: llm\npipeline: {name: toy_llm, batch_size: 2, token_s: 1}\nscenarios: {server: {pipeline: {batch_size: 9}}}\n"


@pytest.mark.parametrize(
    ("changes", "scenario", "batch_size"),
    [([], None, 2), ([], "server", 9), (["scenario=server"], None, 9), (["pipeline.batch_size=4"], "server", 4), ([], "offline", 2)],
)
def test_a_scenario_has_options_of_its_own(tmp_path: Path, changes: list[str], scenario: str | None, batch_size: int) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(SCENARIOS, encoding="utf-8")
    assert load_config(None, str(file), changes, scenario=scenario).pipeline_options == {"batch_size": batch_size, "token_s": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{sever: {}}", r"unknown scenario 'sever' \(did you mean 'server'\?\)"),
        ("[server]", "'scenarios' must map"),
        ("{server: 3}", "must map"),
    ],
)
def test_options_of_an_unknown_scenario_are_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"workload: llm\npipeline: {{name: toy_llm}}\nscenarios: {text}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_config(None, str(file))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scenaro": "offline"}, r"unknown option 'scenaro' \(did you mean 'scenario'\?\); known: allow_fallback"),
        ({"scenario": "ofline"}, r"unknown scenario 'ofline' \(did you mean 'offline'\?\); known: interactive, multi_stream, offline"),
        ({"mode": "fast"}, "unknown mode 'fast'.*known: accuracy, both, performance"),
        ({"load": {"min_duration": 1}}, r"unknown option 'load.min_duration' \(did you mean 'load.min_duration_s'\?\)"),
        ({"load": {"min_duration_s": "long"}}, r"option 'load.min_duration_s' is 'long'"),
        ({"seed": -1}, "option 'seed' is -1"),
        ({"pipeline": {"model": "x"}}, "'pipeline' names no plugin"),
        ({"pipeline": None}, "option 'pipeline' is None"),
        ({"rules": "mlperf-v5"}, r"unknown rules 'mlperf-v5'.*known: mlperf, mlperf-v6.0, mlperf-v6.1, quick"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_known(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config({"workload": "t2v", "pipeline": {"name": "toy_t2v"}, **values}, "f.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "must hold a mapping .*, got a list"),
        ("", "must hold a mapping .*, got nothing"),
        ("a: [1\n", "is not YAML: .*line 2"),
        ("workload: llm\npipeline: {name: toy_llm}\n", "contradicts"),
    ],
)
def test_a_config_file_of_the_wrong_form_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        load_config("t2v", str(file))
    assert "c.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("workload", "config", "changes", "message"),
    [
        (None, None, [], "nothing to run: give --workload"),
        ("t2w", None, [], r"unknown workload 't2w' \(did you mean 't2v'\?\); known: i2v, llm, t2v, vlm"),
        (None, "t2v/embeded", [], r"unknown preset 't2v/embeded' \(did you mean 't2v/embedded'\?\)"),
        (None, "gone.yaml", [], "'gone.yaml' does not exist"),
        ("t2v", None, ["steps"], "must have the form name=value"),
        ("t2v", None, ["seed.a=1", "seed.a.b=1"], "'a' is a single value"),
        ("t2v", None, ["seed=[1"], "the value is not YAML"),
    ],
)
def test_a_wrong_command_line_is_named(workload: str | None, config: str | None, changes: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(workload, config, changes)
