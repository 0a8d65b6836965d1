"""Runs whose answers can or cannot be paired, and the prompts that lost most."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from configs.errors import ConfigError
from metrics.audit.audit import audit
from tests.conftest import record
from tests.metrics.audit.conftest import Make, answers
from tests.metrics.conftest import write_run
from workloads.records import Sample
from workloads.run_folder.media import write_video


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"seed": 5}, r"differ in their seed \(42 and 5\)"),
        ({"prompt": "riddle"}, "have different prompts: number 0 is 'question 0' and 'riddle 0'"),
    ],
)
def test_runs_whose_answers_cannot_be_paired_are_refused_with_the_difference(make: Make, config: dict[str, Any], message: str) -> None:
    one, two = make("one", answers(1.0)), make("two", answers(1.0), **config)
    with pytest.raises(ConfigError, match=message):
        audit(one, two)


def clips(folder: Path, num_frames: int = 4, height: int = 32, width: int = 32, fps: float = 8, **pipeline: Any) -> Path:
    """A run of two clips of this form, whatever its options are."""
    rng, records = np.random.default_rng(0), []
    for i in range(2):
        blocks = np.kron(rng.uniform(0, 200, (4, 4)), np.ones((height // 4, width // 4)))[None, :, :, None]
        video = (blocks + 5 * np.arange(num_frames)[:, None, None, None] + np.zeros(3)).astype(np.uint8)
        write_video(folder / f"media/{i}.mkv", video, fps)
        digest = hashlib.sha256(video.tobytes()).hexdigest()[:16]
        records.append(record(i, media=f"media/{i}.mkv", num_units=num_frames, digest=digest))
    samples = [Sample(i, f"prompt {i}", {}) for i in range(2)]
    config = {"workload": "t2v", "pipeline": {"name": "toy_t2v", **pipeline}}
    return write_run(folder, samples, records, **config)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"height": 48, "width": 48}, "differ in height: for prompt 0 it is 32 and 48"),
        ({"num_frames": 6}, "differ in num_frames: for prompt 0 it is 4 and 6"),
        ({"fps": 12}, "differ in fps: for prompt 0 it is 8 and 12"),
    ],
)
def test_videos_of_another_form_are_refused_even_if_no_option_differs(tmp_path: Path, form: dict[str, Any], message: str) -> None:
    one, two = clips(tmp_path / "one"), clips(tmp_path / "two", **form)
    with pytest.raises(ConfigError, match=message):
        audit(one, two)


def test_a_default_that_one_run_states_is_no_difference(tmp_path: Path) -> None:
    one, two = clips(tmp_path / "one"), clips(tmp_path / "two", height=32, width=32, batch_size=1)
    assert audit(one, two, "5%", ["motion_smoothness"])["num_pairs"] == 2


def test_a_prompt_that_only_one_run_answered_is_named(make: Make) -> None:
    one, two = make("one", answers(1.0)), make("two", answers(1.0)[:-1])
    with pytest.raises(ConfigError, match="1 prompts were answered in one run only; the first is number 79"):
        audit(one, two, allow_invalid=True)


def test_a_run_whose_records_were_edited_is_refused(make: Make) -> None:
    one, two = make("one", answers(1.0)), make("two", answers(1.0, wrong=range(5)))
    file = two / "records.jsonl"
    file.write_text(file.read_text(encoding="utf-8").replace("wrong", "answer"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"is INVALID and cannot be audited: records\.jsonl"):
        audit(one, two)


def test_the_worst_prompts_are_those_that_lost_in_failed_metrics(make: Make, tmp_path: Path) -> None:
    """Three early prompts lost the most length, but less than the margin on average; twenty late ones are wrong."""
    right, wrong, metrics = answers(1.0), answers(1.0), ["exact_match", "scores_length"]
    for i in range(3):
        right[i] = msgspec.structs.replace(right[i], text=f"answer {i}    ")
    for i in range(50, 70):
        wrong[i] = msgspec.structs.replace(wrong[i], text=f"wronga {i}")
    plain = [msgspec.structs.replace(r, digest="") for r in right], [msgspec.structs.replace(r, digest="") for r in wrong]
    data = audit(make("one", plain[0], metrics=metrics), make("two", plain[1], metrics=metrics), "8%")
    assert {m["name"]: m["verdict"] for m in data["metrics"]} == {"exact_match": "FAIL", "length": "PASS"}
    assert [w["sample_index"] for w in data["worst"]] == list(range(50, 62))
