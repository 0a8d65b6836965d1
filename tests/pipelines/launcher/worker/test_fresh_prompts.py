"""New prompts in the place of a data set's: as long, of other words."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pipelines.launcher.worker.fresh_prompts import FreshPrompts
from workloads.llm import Language
from workloads.records import Sample


def bag(prompt: str) -> list[str]:
    return sorted(prompt.lower().replace(".", "").replace("?", "").split())


def test_fresh_prompts_have_other_words_than_every_prompt_and_are_as_long() -> None:
    samples = Language(num_prompts=66).samples()
    fresh, known = FreshPrompts(samples), [bag(s.prompt) for s in samples]
    for sample in samples:
        new = fresh.altered(sample, sample.index).prompt
        words, before = new.split(" "), sample.prompt.split(" ")
        assert len(words) == len(before)
        assert abs(len(new) - len(sample.prompt)) <= 2 * len(before)
        assert bag(new) not in known
        changed = sum(a != b for a, b in zip(words, before, strict=True))
        assert min(2, len(before)) <= changed <= max(2, round(len(before) / 3))
    assert fresh.altered(samples[0], 1) == fresh.altered(samples[0], 1)


def test_words_come_from_the_same_place_in_other_prompts() -> None:
    samples = [Sample(0, "a red disc moves"), Sample(1, "a blue disc moves"), Sample(2, "a red ring moves")]
    fresh = FreshPrompts(samples)
    assert {fresh.altered(samples[0], seed).prompt for seed in range(20)} == {"a blue ring moves"}


@pytest.mark.parametrize("prompt", ["", "hi", "no no", "{}", "Count 12, then 345.", "\u4f60\u597d"])
def test_any_prompt_can_be_altered(prompt: str) -> None:
    new = FreshPrompts([Sample(0, prompt)]).altered(Sample(0, prompt), 3).prompt
    assert bag(new) != bag(prompt)


def test_numbers_keep_their_digits() -> None:
    new = FreshPrompts([Sample(0, "12 345")]).altered(Sample(0, "12 345"), 1).prompt
    assert [len(number) for number in new.split()] == [2, 3]
    assert new != "12 345"


def test_of_an_image_one_pixel_changes() -> None:
    content = io.BytesIO()
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(content, "PNG")
    new = FreshPrompts([]).altered(Sample(0, "what is it?", {}, (content.getvalue(), b"none")), 1)
    pixels = np.asarray(Image.open(io.BytesIO(new.images[0])))
    assert (new.prompt, int((pixels.max(-1) > 0).sum()), new.images[1]) == ("what is it?", 1, b"none")
