"""Each faulty pipeline is detected by the check for its fault; the same pipeline without the fault is VALID."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import suite as command
from configs.errors import PluginError
from metrics.report.html import page
from metrics.report.load_run import load_run
from metrics.validity import effective_settings
from pipelines.launcher.worker import generation
from tests.conftest import SuiteRun, read_report

PLUGINS = [str(Path(__file__).with_name(name)) for name in ("saboteurs.py", "video_saboteurs.py", "text_saboteurs.py")]
BRIEFLY = ["load.min_duration_s=0.1", "load.min_query_count=8", "report_videos=0", "metrics=[throughput]", "warmup_batches=1"]
VIDEOS = {"seconds": 0.03, "batch_size": 4}
TEXTS = {"token_s": 0.002, "prefill_s": 0.05}
EMBEDDED = {"num_frames": 9, "height": 48, "width": 48, "num_inference_steps": 8, "max_sequence_length": 64, "batch_size": 4}

Caught = Callable[..., dict[str, Any]]


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Caught:
    """The report of a short run, as suite.py makes it, but in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(page, "write_html", lambda report: None)  # half of the time
    monkeypatch.setattr(generation, "WARM_UP_S", 0.1)

    def run(name: str, *changes: str, options: Mapping[str, Any], workload: str = "t2v", num_prompts: int = 8) -> dict[str, Any]:
        settings = [*BRIEFLY, f"dataset.num_prompts={num_prompts}", "load.target_qps=60", *changes]
        settings.append(f"pipeline={json.dumps({'name': name, **options})}")
        words = [word for setting in settings for word in ("--set", setting)]
        plugins = [word for file in PLUGINS for word in ("--plugin", file)]
        command.app(["--config", f"{workload}/toy", *plugins, *words, "--output", "run"], standalone_mode=False)
        found: dict[str, Any] = json.loads((tmp_path / "run/report.json").read_text(encoding="utf-8"))
        return found

    return run


def caught(report: dict[str, Any]) -> set[str]:
    """The checks and canaries that name something wrong."""
    return {check["name"] for check in report["truth"] if check["result"] == "differs"} | set(report["alarms"])


def assert_caught(report: dict[str, Any], check: str) -> None:
    assert check in caught(report), report["truth"]
    assert report["verdict"] == "INVALID"
    assert any(repr(check) in reason for reason in report["reasons"])


VIDEO_SABOTEURS: list[Any] = [
    ("caches_answers", {}, ("cached_answers",)),
    ("ignores_seeds", {}, ("cached_answers",)),
    ("spoils_frames", {}, ("black", "frozen", "noise")),
    ("skips_steps", {"timed_if": "full"}, ("replay",)),
    pytest.param("skips_steps", {"timed_if": "warm"}, ("replay",), marks=pytest.mark.slow),
    ("falls_back", {}, ("dtype",)),
    ("unpacks_weights", {}, ("quantisation",)),
    ("answers_early", {"way": "fills_in"}, ("handed_over",)),
    ("answers_early", {"way": "computes"}, ("busy_after",)),
    ("noise_for_new_seeds", {}, ("noise",)),
    ("one_video", {}, ("identical", "cached_answers")),
    ("counts_questions", {}, ("replay",)),
    ("precomputes", {}, ("cached_answers",)),
    ("retouches_neighbours", {}, ("identical",)),
    ("shuffles_batches", {}, ("replay",)),
    ("grainy_still", {}, ("frozen",)),
]
TEXT_SABOTEURS: list[Any] = [
    ("caches_texts", {}, "cached_answers"),
    ("drops_hard", {"way": "puts_off"}, "hard_queries"),
    pytest.param("drops_hard", {"way": "fails"}, "hard_queries", marks=pytest.mark.slow),
    ("announces_early", {}, "first_token"),
    ("caches_bags_of_words", {}, "cached_answers"),
    ("caches_when_busy", {"prefill_s": 0.1, "token_s": 0.001}, "cached_answers"),
    ("announces_at_once", {"way": "plain", "prefill_s": 0.1}, "first_token_time"),
    pytest.param("announces_at_once", {"way": "hides", "prefill_s": 0.1}, "first_token_time", marks=pytest.mark.slow),
    ("cuts_when_busy", {}, "replay"),
    ("one_long_text", {}, "identical"),
    ("answers_once", {}, "empty"),
]


@pytest.mark.parametrize(("name", "options", "checks"), VIDEO_SABOTEURS)
def test_a_saboteur_of_videos_is_caught_by_name(name: str, options: dict[str, Any], checks: Sequence[str], report: Caught) -> None:
    found = report(name, options={**VIDEOS, **options})
    for check in checks:
        assert_caught(found, check)


@pytest.mark.parametrize(("name", "options", "check"), TEXT_SABOTEURS)
def test_a_saboteur_of_texts_is_caught_by_name(name: str, options: dict[str, Any], check: str, report: Caught) -> None:
    assert_caught(report(name, options={**TEXTS, **options}, workload="llm", num_prompts=63), check)


def test_a_pipeline_that_asks_for_references_is_refused(report: Caught) -> None:
    with pytest.raises(PluginError, match=r"a pipeline asked for sample\.meta\['answer'\]. Pipelines get samples without meta"):
        report("returns_references", options=TEXTS, workload="llm", num_prompts=63)


def test_a_cache_that_only_timed_queries_use_is_caught_by_their_times(report: Caught) -> None:
    found = report("hides_cache", "load.min_query_count=100", options={**VIDEOS, "batch_size": 2}, num_prompts=40)
    assert_caught(found, "cached_answers")
    assert "while they are timed" in next(c["told"] for c in found["truth"] if c["name"] == "cached_answers")


def test_an_answer_that_is_near_black_from_the_second_time_on_is_caught(report: Caught) -> None:
    assert_caught(report("honest_once", "load.min_query_count=24", options=VIDEOS), "later_answers")


def test_later_answers_that_score_worse_are_caught_where_answers_never_repeat(report: Caught) -> None:
    changes = ("metrics=[world_score]", "load.min_query_count=64", "dataset.grade=simple")
    found = report("honest_once", *changes, options={**VIDEOS, "way": "blurred", "repeats": "never"}, num_prompts=20)
    assert_caught(found, "later_answers")


def test_steps_that_only_the_first_of_two_tests_skips_are_caught(report: Caught) -> None:
    assert_caught(report("skips_steps", "mode=both", options={**VIDEOS, "timed_if": "first"}), "modes")


def test_steps_skipped_in_full_batches_by_the_embedded_model_are_caught(report: Caught) -> None:
    found = report("forgets_steps", "dataset.grade=simple", "load.target_qps=20", "truth.replays=1", options=EMBEDDED, num_prompts=4)
    assert_caught(found, "replay")
    assert_caught(found, "steps")


def test_a_rank_that_differs_is_caught(suite: SuiteRun) -> None:
    settings = [*BRIEFLY, "dataset.num_prompts=8", "pipeline={name: differs_by_rank, seconds: 0.05}"]
    words = [word for setting in settings for word in ("--set", setting)]
    assert_caught(read_report(suite("--config", "t2v/toy", "--plugin", PLUGINS[0], *words, ranks=2)), "ranks")


def faultless(name: str, only_for_a_release: bool = True) -> Any:
    return pytest.param(name, marks=[pytest.mark.slow] if only_for_a_release else [])


HONEST_VIDEOS = [
    *("caches_answers", "skips_steps", "unpacks_weights", "answers_early", "honest_once", "noise_for_new_seeds", "one_video"),
    *("counts_questions", "precomputes", "hides_cache", "retouches_neighbours", "grainy_still"),
]
HONEST_TEXTS = [
    *("caches_texts", "announces_early", "returns_references", "caches_bags_of_words", "announces_at_once", "cuts_when_busy"),
    *("one_long_text", "answers_once", "caches_when_busy"),
]


@pytest.mark.parametrize("name", [faultless("falls_back", False), faultless("shuffles_batches", False), *map(faultless, HONEST_VIDEOS)])
def test_the_same_videos_without_sabotage_are_valid(name: str, report: Caught) -> None:
    found = report(name, options={**VIDEOS, "sabotage": False})
    assert (found["verdict"], found["reasons"]) == ("VALID", [])


@pytest.mark.parametrize("name", [faultless("drops_hard", False), *map(faultless, HONEST_TEXTS)])
def test_the_same_texts_without_sabotage_are_valid(name: str, report: Caught) -> None:
    found = report(name, options={**TEXTS, "sabotage": False}, workload="llm", num_prompts=63)
    assert (found["verdict"], found["reasons"]) == ("VALID", [])


def test_required_versions_are_read_on_the_rank_and_compared(report: Caught, tmp_path: Path) -> None:
    """pydantic is none of the packages that are always read."""
    import pydantic
    import torch

    series = ".".join(torch.__version__.split("+")[0].split(".")[:2])
    found = report("toy_t2v", f"require={{torch: '{series}', pydantic: '>=2', no-such-package: '1'}}", options={})
    assert found["ranks"][0]["found"]["packages"]["pydantic"] == pydantic.VERSION
    assert_caught(found, "packages")
    run = load_run(tmp_path / "run")
    for change, result, message in (
        ({"require": {"torch": series, "pydantic": ">=2"}}, "holds", f"required torch {series}, pydantic >=2; "),
        ({"require": {"torch": ">=99"}}, "differs", f"rank 0 has torch {torch.__version__}, required >=99"),
        ({}, "differs", "rank 0 has no-such-package not installed, required 1"),
        ({"allow_fallback": ["packages"]}, "allowed", "rank 0 has no-such-package not installed, required 1"),
    ):
        config = run.config.model_copy(update=change)
        check = next(c for c in effective_settings.checks(replace(run, config=config)) if c.name == "packages")
        assert (check.result, check.message.startswith(message)) == (result, True), check.message
