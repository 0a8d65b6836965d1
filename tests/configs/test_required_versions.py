"""Required versions: what satisfies them, and what is refused as a version."""

from __future__ import annotations

import pytest

from configs.errors import ConfigError
from configs.load_config import parse_config
from configs.required_versions import is_met


@pytest.mark.parametrize(
    ("wanted", "met", "unmet"),
    [
        ("2.13", ["2.13", "2.13.1", "2.13.0+cpu", "2.13.0rc1"], ["2.1.3", "2.130", "2.14.0"]),
        ("2.13.0+rocm7.0", ["2.13.0+rocm7.0"], ["2.13.0", "2.13.0+cpu"]),
        ("2.13.0rc1", ["2.13.0rc1"], ["2.13.0"]),
        (">=0.42,<0.44", ["0.42.0", "0.43.5"], ["0.41.9", "0.44"]),
        ("==2.13.*", ["2.13.7+cpu"], ["2.12"]),
        ("!=5.20.1", ["5.20.0"], ["5.20.1"]),
    ],
)
def test_a_bare_version_is_a_series_and_all_else_a_specifier(wanted: str, met: list[str], unmet: list[str]) -> None:
    assert [v for v in met if not is_met(wanted, v)] == []
    assert [v for v in unmet if is_met(wanted, v)] == []


def test_a_version_outside_pep_440_must_be_equal() -> None:
    assert not is_met(">=1", "main-abc123")


@pytest.mark.parametrize(
    ("require", "message"),
    [
        ({"torch": 2.1}, r"the version of 'torch' must be a string, got 2.1: as numbers 2.1 and 2.10 are equal"),
        ({"torch": "newest"}, r"the version of 'torch' is 'newest'; write 2.13 \(any 2.13.x\) or a specifier"),
        ({"torch": ""}, r"the version of 'torch' is ''"),
        ({"torch": "2.13 or so"}, r"the version of 'torch' is '2.13 or so'"),
        (["torch"], "require"),
    ],
)
def test_a_wrong_version_is_refused_by_name(require: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config({"workload": "llm", "pipeline": {"name": "toy_llm"}, "require": require}, "test")
