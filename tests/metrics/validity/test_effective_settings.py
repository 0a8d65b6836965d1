"""Requested, reported and inspected settings of ranks made by hand: which checks differ, and their messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from metrics.base import Run
from metrics.validity.check import Check
from metrics.validity.effective_settings import checks
from tests.conftest import record

MakeRun = Callable[..., Run]
BF16 = {"bfloat16": 1000}
NO_OPTIONS: Mapping[str, Any] = {}


def rank(effective: dict[str, str], **found: Any) -> dict[str, Any]:
    """A rank that reports these settings, and what inspection found of its model before and after the test."""
    seen = {"weights": {}, "attention": [], "compiled": 0, "packages": {}, **found}
    return {"rank": 0, "effective": effective, "effective_after": effective, "fallbacks": [], "found": seen, "found_after": seen}


def made(make_run: MakeRun, *ranks: dict[str, Any], options: Mapping[str, Any] = NO_OPTIONS, **config: Any) -> dict[str, Check]:
    """The checks by name."""
    return checks_of(make_run(records=[record(0)], **config), {"ranks": list(ranks)}, options)


def checks_of(run: Run, outcome: dict[str, Any], options: Mapping[str, Any]) -> dict[str, Check]:
    config = run.config.model_copy(update={"pipeline": {"name": "toy_t2v", **options}})  # options of other pipelines too
    return {check.name: check for check in checks(replace(run, config=config, outcome={"performance": outcome}))}


@pytest.mark.parametrize(
    ("name", "options", "effective", "found", "message"),
    [
        ("dtype", {"dtype": "bfloat16"}, {"dtype": "float32"}, {}, "rank 0 reports float32, not bfloat16"),
        ("dtype", {}, {"dtype": "bfloat16"}, {"weights": {"denoiser": {"float32": 9}}}, "rank 0: denoiser is 100 % float32, not bfloat16"),
        ("attention", {"attention": "sage"}, {"attention": "native"}, {}, "rank 0 reports native, not sage"),
        ("attention", {}, {"attention": "sage"}, {"attention": ["sdpa"]}, "rank 0: its modules name sdpa, not sage"),
        ("quantisation", {"quantisation": "int8"}, {"quantisation": "none"}, {}, "rank 0 reports none, not int8"),
        ("quantisation", {}, {"quantisation": "int8"}, {"weights": {"a": BF16}}, "rank 0 reports int8, but weights are 100 % bfloat16"),
        ("quantisation", {}, {"quantisation": "none"}, {"weights": {"a": {"int8": 9}}}, "rank 0 reports none, but weights are 100 % int8"),
        ("cache", {"cache": "first_block"}, {"cache": "none"}, {}, "rank 0 reports none, not first_block"),
        ("compile", {"compile": "default"}, {"compiled": "no", "compile": "off"}, {"weights": {"a": BF16}}, "rank 0 reports no, but 0 mod"),
    ],
)
def test_a_setting_that_is_not_effective_is_named(
    make_run: MakeRun, name: str, options: dict[str, Any], effective: dict[str, str], found: dict[str, Any], message: str
) -> None:
    check = made(make_run, rank(effective, **found), options=options)[name]
    assert (check.result, check.message.startswith(message)) == ("differs", True), check.message


def test_settings_that_agree_hold_and_name_what_was_compared(make_run: MakeRun) -> None:
    weights = {"denoiser": {"bfloat16": 1000}, "norm": {"float32": 50}}  # under a tenth: it may have a dtype of its own
    found = made(make_run, rank({"dtype": "bfloat16"}, weights=weights), options={"dtype": "bfloat16"})
    assert (found["dtype"].result, found["dtype"].message) == (
        "holds",
        "requested bfloat16, the pipeline reports bfloat16, weights are 95.2 % bfloat16, 4.76 % float32",
    )
    assert (found["cache"].result, found["cache"].message) == ("not made", "nothing is requested, and the pipeline reports nothing")


def test_a_module_may_name_a_variant_of_the_reported_attention(make_run: MakeRun) -> None:
    assert made(make_run, rank({"attention": "sdpa"}, attention=["sdpa_paged"]))["attention"].result == "holds"


@pytest.mark.parametrize(
    ("name", "value", "found", "message"),
    [
        ("dtype", "bfloat16", {}, "requested bfloat16, the pipeline reports bfloat16; there are no torch modules to inspect"),
        ("dtype", "fp4", {"weights": {"a": BF16}}, "weights are 100 % bfloat16; no dtype of weights is called fp4"),
        ("attention", "sage", {"weights": {"a": BF16}}, "requested sage, the pipeline reports sage; no module names a backend"),
        ("quantisation", "int8", {}, "requested int8, the pipeline reports int8; there are no torch modules to inspect"),
        ("quantisation", "int8, rounded", {"weights": {"a": BF16}}, "weights are 100 % bfloat16; dtypes cannot show it"),
        ("compile", "default", {}, "requested default, the pipeline reports default; there are no torch modules to inspect"),
    ],
)
def test_a_setting_that_no_module_shows_does_not_hold(
    make_run: MakeRun, name: str, value: str, found: dict[str, Any], message: str
) -> None:
    check = made(make_run, rank({name: value}, **found), options={name: value})[name]
    assert (check.result, check.message.endswith(message)) == ("not made", True), check.message


def test_a_reported_fallback_belongs_to_the_check_that_it_names(make_run: MakeRun) -> None:
    one = rank({}) | {"fallbacks": ["attention sage is not installed", "the tokenizer is the slow one"]}
    found = made(make_run, one)
    assert found["attention"].message == "rank 0: attention sage is not installed"
    assert found["option"].message == "rank 0: the tokenizer is the slow one"


def test_a_setting_that_changes_during_the_test_is_named_but_not_what_a_cache_counts(make_run: MakeRun) -> None:
    one = rank({"batching": "static", "cache": "first_block, 3 of 8 steps", "compile_s": "20.5", "attention_choice": "flash 2 ms"})
    one["effective_after"] = {"batching": "continuous", "cache": "first_block, 4 of 8 steps", "compile_s": "21", "attention_choice": "-"}
    assert made(make_run, one)["option"].message == "rank 0 after the test has batching continuous; rank 0 began with static"


def test_a_parallel_axis_must_be_reported(make_run: MakeRun) -> None:
    parallel = {"context": 2, "cfg": 2}
    assert made(make_run, rank({"parallel": "context 2"}), parallel=parallel)["parallel"].message == "rank 0 reports context 2, not cfg 2"


def test_versions_that_differ_between_ranks_are_named(make_run: MakeRun) -> None:
    other = rank({}, packages={"torch": "2.12"}) | {"rank": 1}
    found = made(make_run, rank({}, packages={"torch": "2.13"}), other)["packages"]
    assert found.message == "rank 1 has torch 2.12, rank 0 had 2.13 before; rank 1 after the test has torch 2.12, rank 0 had 2.13 before"


def test_fewer_steps_than_requested_are_counted(make_run: MakeRun) -> None:
    run = make_run(records=[record(i, step_s=[0.1] * (4 if i < 2 else 8)) for i in range(6)])
    check = checks_of(run, {"ranks": [rank({})], "replays": [{"num_steps": 8}]}, {"num_inference_steps": 8})["steps"]
    assert check.message.split("; ") == [
        "2 of 6 timed answers were made in 4 steps, not 8",
        "timed answers were made in 4 steps, the same answers untimed in 8",
    ]


VIDEO = np.full((9, 48, 32, 3), 90, np.uint8)


def sizes(make_run: MakeRun, options: Mapping[str, Any], defaults: Mapping[str, Any] = NO_OPTIONS, **config: Any) -> Check:
    run = make_run([VIDEO, VIDEO, VIDEO[:5]], **config)
    return checks_of(run, {"ranks": [rank({}) | {"requested": dict(defaults)}]}, options)["size"]


def test_videos_of_another_size_than_requested_are_counted(make_run: MakeRun) -> None:
    check = sizes(make_run, {"num_frames": 17, "height": 480, "width": 832})
    assert (check.result, check.message.split("; ")) == (
        "differs",
        [
            "17 frames of 832 x 480 requested, 2 of 3 videos have 9 frames of 32 x 48 at 8 fps",
            "17 frames of 832 x 480 requested, 1 of 3 videos have 5 frames of 32 x 48 at 8 fps",
        ],
    )
    assert sizes(make_run, {}, {"num_frames": 9}).message == "9 frames requested, 1 of 3 videos have 5 frames of 32 x 48 at 8 fps"
    assert sizes(make_run, {"fps": 24}).result == "differs"
    assert sizes(make_run, {"num_frames": 17}, allow_fallback=["size"]).result == "allowed"


def test_videos_of_the_requested_size_hold_and_without_a_request_nothing_is_compared(make_run: MakeRun) -> None:
    held = sizes(make_run, {"height": 48, "fps": 8.0})
    assert (held.result, held.message.split(", ")[:2]) == (
        "holds",
        ["height 48 at 8 fps requested", "2 videos have 9 frames of 32 x 48 at 8 fps"],
    )
    assert sizes(make_run, {}).result == "not made"
    assert made(make_run, rank({}), options={"num_frames": 9})["size"].message == "there is no saved video"


def test_a_difference_is_allowed_by_its_name_alone(make_run: MakeRun) -> None:
    for allowed, result in ((["dtype"], "allowed"), (["cache"], "differs")):
        found = made(make_run, rank({"dtype": "float32"}), options={"dtype": "bfloat16"}, allow_fallback=allowed)
        assert (found["dtype"].result, found["dtype"].message.split("; ")[0]) == (result, "rank 0 reports float32, not bfloat16")


def test_without_ranks_nothing_is_compared(make_run: MakeRun) -> None:
    assert {check.message for check in checks(make_run(records=[record(0)]))} == {"no rank reported its effective settings"}
