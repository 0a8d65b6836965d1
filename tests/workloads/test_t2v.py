from __future__ import annotations

from pathlib import Path

import pytest

from configs.errors import ConfigError
from workloads.t2v import TextToVideo, draw_captions
from workloads.world.scenes import is_held_out


def test_the_prompt_set_is_the_same_every_time_and_grows_at_its_end() -> None:
    few, many = TextToVideo(num_prompts=10).samples(), TextToVideo(num_prompts=30).samples()
    assert [s.prompt for s in few] == [s.prompt for s in many][:10]
    assert len({s.prompt for s in many}) == 30


def test_mixed_prompts_are_half_rich() -> None:
    grades = [s.meta["grade"] for s in TextToVideo(grade="mixed", num_prompts=40).samples()]
    assert grades.count("rich") == 20


def test_samples_say_what_the_pipeline_must_not_know() -> None:
    sample = next(s for s in TextToVideo(num_prompts=60, split="held_out").samples() if not s.meta["expects_motion"])
    assert sample.meta["held_out"]
    assert "still" in sample.prompt or "rest" in sample.prompt


def test_a_held_out_prompt_set_holds_nothing_else() -> None:
    assert all(any(is_held_out(g) for g in scene.groups) for scene, _ in draw_captions("rich", 20, "held_out"))


def test_prompts_from_a_file_are_judged_only_where_the_world_knows_them(tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_text("a red disc stays still\na cat on a bicycle\n", encoding="utf-8")
    assert [s.meta["world"] for s in TextToVideo(prompts=str(file)).samples()] == [True, False]


def test_more_captions_than_there_are_is_an_error() -> None:
    with pytest.raises(ConfigError, match="num_prompts must not exceed that"):
        TextToVideo(num_prompts=5_000, split="held_out").samples()
