"""The negative prompt is encoded once, each query's prompt every time."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.diffusers.negative_prompt import encode_once
from tests.pipelines.diffusers.conftest import Folder, generate, load, options, pixels


@pytest.mark.parametrize("name", ["wan21", "cogvideox"])
def test_the_negative_prompt_is_encoded_once_for_each_size_of_batch(
    tiny_family: Folder, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = options(name, guidance_scale=3.0, negative_prompt="a blue ring")
    pipeline, calls = load(tiny_family(name), settings), list[int]()
    pipeline._pipe.text_encoder.register_forward_hook(lambda _m, inputs, _o: calls.append(len(inputs[0])))
    first, again, other = (generate(pipeline, 1, prompt=prompt)[0] for prompt in ("a red disc", "a red disc", "two green squares"))
    assert calls == [1, 1, 1, 1]  # of the first clip two
    generate(pipeline, 1, 2)
    assert calls[4:] == [2, 2]
    assert np.array_equal(pixels(first), pixels(again))
    assert not np.array_equal(pixels(first), pixels(other))
    assert pipeline.effective()["negative_prompt"] == "encoded once for all queries"
    monkeypatch.setattr("pipelines.diffusers.negative_prompt.encode_once", lambda _: False)
    plain = load(tiny_family(name), settings)
    assert np.array_equal(pixels(generate(plain, 1, prompt="two green squares")[0]), pixels(other))
    assert "negative_prompt" not in plain.effective()


def test_pipelines_that_return_masks_too_are_left_as_they_are(tiny_family: Folder) -> None:
    pipe = load(tiny_family("ltx"), options("ltx"))._pipe
    assert not encode_once(pipe)
    assert "encode_prompt" not in vars(pipe)
