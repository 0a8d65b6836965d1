"""Values that YAML 1.1 reads as something else than they look like."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.errors import ConfigError
from configs.load_config import load_config, presets, read_yaml
from configs.yaml_text import read_yaml_text, write_yaml_text

VALUES: list[tuple[str, Any]] = [
    ("1e-3", 0.001),
    ("1.5e3", 1500.0),
    ("-2E+1", -20.0),
    (".5", 0.5),
    ("1.", 1.0),
    ("0.10", 0.1),
    ("0o10", 8),
    ("0x1F", 31),
    ("1_000", 1000),
    (".inf", math.inf),
    ("1:30", "1:30"),
    ("16:9", "16:9"),
    ("190:20:30", "190:20:30"),
    ("2026-01-31", "2026-01-31"),
    ("2026-01-31T10:00:00Z", "2026-01-31T10:00:00Z"),
    ("=", "="),
    ("'010'", "010"),
    ("inf", "inf"),
    ("1.2.3", "1.2.3"),
    ("off", False),
    ("yes", True),
    ("y", "y"),
    ("~", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "value"), VALUES)
def test_a_value_is_what_it_looks_like(text: str, value: Any) -> None:
    assert (read_yaml_text(text), type(read_yaml_text(text))) == (value, type(value))
    assert read_yaml_text(f"[{text or 'null'}]") == [value]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("010", "line 1, column 1: 010 can be read in two ways; write 10, 0o10 for the octal number, or '010' for the text"),
        ("-010", "write -10, -0o10 for the octal number, or '-010' for the text"),
        (
            "0" + "7" * 900,
            "0777777777777777777777777777777777777777.. can be read in two ways; leave the zeros at its beginning out, or quotes",
        ),
        ("9" * 900 + ".5e99", "9999999999999999999999999999999999999999.. is too large for a number; write quotes around the text"),
        ("08", "08 can be read in two ways; write 8, or '08' for the text"),
        ("a: 1\nb: 2\na: 3", "'a' is given twice"),
        ("{x: {b: 1, b: 2}}", "line 1, column 5: 'b' is given twice"),
        ("1e999", "1e999 is too large for a number"),
        pytest.param("9" * 5000, "a number of 5000 digits is too long", id="digits"),
        pytest.param("[" * 20_000, "nested too deeply", id="deep"),
        ("a: [1\n", "line 2"),
        ("a: \x07", "special characters are not allowed"),
    ],
)
def test_what_has_two_readings_or_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        read_yaml_text(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_and_set_read_alike(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("workload: t2v\npipeline: {name: diffusers_t2v, extra: {decode_timestep: 1e-3, ratio: 16:9}}\n")
    name = "pipeline.name=diffusers_t2v"
    by_set = (
        ["pipeline.extra={decode_timestep: 1e-3, ratio: 16:9}"],
        ["pipeline.extra.decode_timestep=1e-3", "pipeline.extra.ratio=16:9"],
    )
    for config in (load_config(None, str(file)), *(load_config("t2v", None, [name, *changes]) for changes in by_set)):
        assert config.pipeline["extra"] == {"decode_timestep": 0.001, "ratio": "16:9"}
    assert load_config("t2v", None, ["load.min_query_count=1e2"]).load.min_query_count == 100
    file.write_text("workload: t2v\nseed: 010\n")
    for given in ({"config": str(file)}, {"config": None, "changes": ["seed=010"]}):
        with pytest.raises(ConfigError, match="010 can be read in two ways; write 10, 0o10"):
            load_config("t2v", **given)


def test_what_is_written_is_read_as_it_was() -> None:
    texts = [str(value) for _, value in VALUES] + [text for text, _ in VALUES] + ["010", "08", "a: b", "- x", "#c", "<<", "\u2028", "Yes"]
    values = {"texts": texts, "values": [value for _, value in VALUES], "small": 1e-5, "large": 1e22}
    assert read_yaml_text(write_yaml_text(values)) == values


def test_the_presets_mean_what_they_meant_in_yaml_1_1() -> None:
    for name in presets():
        file = Path("configs/presets") / f"{name}.yaml"
        assert read_yaml(file) == yaml.safe_load(file.read_text(encoding="utf-8"))
