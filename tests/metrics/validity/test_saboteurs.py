"""Whoever cheats is caught by the check that is there for it; and the same pipeline without sabotage is VALID."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import suite as command
from metrics.report.html import page
from pipelines.launcher.worker import generation
from tests.conftest import SuiteRun, read_report

PLUGIN = str(Path(__file__).with_name("saboteurs.py"))
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
        command.app(["--config", f"{workload}/toy", "--plugin", PLUGIN, *words, "--output", "run"], standalone_mode=False)
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


VIDEO_SABOTEURS = [
    ("caches_answers", {}, "cached_answers"),
    ("ignores_seeds", {}, "cached_answers"),
    ("spoils_frames", {"way": "black"}, "black"),
    ("spoils_frames", {"way": "frozen"}, "frozen"),
    ("spoils_frames", {"way": "noise"}, "noise"),
    ("skips_steps", {"timed_if": "full"}, "replay"),
    ("skips_steps", {"timed_if": "warm"}, "replay"),
    ("falls_back", {"says": "asked"}, "dtype"),
    ("falls_back", {"says": "loaded"}, "dtype"),
    ("unpacks_weights", {}, "quantisation"),
    ("answers_early", {"way": "fills_in"}, "handed_over"),
    ("answers_early", {"way": "computes"}, "busy_after"),
]
TEXT_SABOTEURS = [
    ("caches_texts", {}, "cached_answers"),
    ("drops_hard", {"way": "puts_off"}, "hard_queries"),
    ("drops_hard", {"way": "fails"}, "hard_queries"),
    ("announces_early", {}, "first_token"),
]


@pytest.mark.parametrize(("name", "options", "check"), VIDEO_SABOTEURS)
def test_a_saboteur_of_videos_is_caught_by_name(name: str, options: dict[str, Any], check: str, report: Caught) -> None:
    assert_caught(report(name, options={**VIDEOS, **options}), check)


@pytest.mark.parametrize(("name", "options", "check"), TEXT_SABOTEURS)
def test_a_saboteur_of_texts_is_caught_by_name(name: str, options: dict[str, Any], check: str, report: Caught) -> None:
    assert_caught(report(name, options={**TEXTS, **options}, workload="llm", num_prompts=63), check)


def test_steps_that_only_the_first_of_two_tests_skips_are_caught(report: Caught) -> None:
    assert_caught(report("skips_steps", "mode=both", options={**VIDEOS, "timed_if": "first"}), "modes")


def test_steps_skipped_in_full_batches_by_the_embedded_model_are_caught(report: Caught) -> None:
    found = report("forgets_steps", "dataset.grade=simple", "load.target_qps=20", "truth.replays=1", options=EMBEDDED, num_prompts=4)
    assert_caught(found, "replay")
    assert_caught(found, "steps")


def test_a_rank_that_differs_is_caught(suite: SuiteRun) -> None:
    settings = [*BRIEFLY, "dataset.num_prompts=8", "pipeline={name: differs_by_rank, seconds: 0.05}"]
    words = [word for setting in settings for word in ("--set", setting)]
    assert_caught(read_report(suite("--config", "t2v/toy", "--plugin", PLUGIN, *words, ranks=2)), "ranks")


@pytest.mark.parametrize("name", ["caches_answers", "skips_steps", "falls_back", "unpacks_weights", "answers_early"])
def test_the_same_videos_without_sabotage_are_valid(name: str, report: Caught) -> None:
    found = report(name, options={**VIDEOS, "sabotage": False})
    assert (found["verdict"], found["reasons"]) == ("VALID", [])


@pytest.mark.parametrize("name", ["caches_texts", "drops_hard", "announces_early"])
def test_the_same_texts_without_sabotage_are_valid(name: str, report: Caught) -> None:
    found = report(name, options={**TEXTS, "sabotage": False}, workload="llm", num_prompts=63)
    assert (found["verdict"], found["reasons"]) == ("VALID", [])


def test_a_difference_is_allowed_by_its_name_alone_and_stays_in_the_report(report: Caught, tmp_path: Path) -> None:
    found = report("falls_back", "allow_fallback=[dtype]", options=VIDEOS)
    assert found["verdict"] == "VALID"
    assert [(c["name"], c["told"]) for c in found["truth"] if c["result"] == "allowed"] == [
        ("dtype", "rank 0: _denoiser is 100 % float32, not bfloat16; rank 0 after the test: _denoiser is 100 % float32, not bfloat16")
    ]


def test_another_version_than_the_run_requires_fails_it_unless_it_is_let_off(report: Caught) -> None:
    """pydantic is none of those that are always looked at."""
    import pydantic
    import torch

    there = torch.__version__
    series = ".".join(there.split("+")[0].split(".")[:2])
    fine = report("toy_t2v", f"require={{torch: '{series}', pydantic: '>=2'}}", options={})
    told = next(check for check in fine["truth"] if check["name"] == "packages")
    assert (told["result"], told["told"].partition(";")[0]) == ("holds", f"required torch {series}, pydantic >=2")
    assert fine["ranks"][0]["found"]["packages"]["pydantic"] == pydantic.VERSION


@pytest.mark.parametrize(("changes", "result"), [([], "differs"), (["allow_fallback=[packages]"], "allowed")])
def test_a_missing_package_and_an_older_one_are_named(report: Caught, changes: list[str], result: str) -> None:
    import torch

    found = report("toy_t2v", "require={torch: '>=99', no-such-package: '1'}", *changes, options={})
    told = next(check for check in found["truth"] if check["name"] == "packages")
    assert told["result"] == result
    assert f"rank 0 has torch {torch.__version__}, required >=99; rank 0 has no-such-package not installed, required 1" in told["told"]
    assert any(reason.startswith("truth check 'packages'") for reason in found["reasons"]) == (result == "differs")
