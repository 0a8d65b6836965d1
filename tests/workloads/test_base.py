"""The samples of a workload, a plugin's too, before anything is done with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from configs.errors import ConfigError
from workloads.base import Workload, read_samples
from workloads.records import Sample


class Own(Workload):
    unit, noun, default_pipeline, default_metrics = "tokens", "answers", "toy_llm", ()

    def __init__(self, *samples: Any) -> None:
        self._samples = samples

    def samples(self) -> Sequence[Sample]:
        return self._samples


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "workload 'own' has no sample; samples"),
        (["a cat"], "workload 'own': sample 0 must be a Sample, got a str"),
        ([Sample(0, "a"), Sample(0, "b")], "sample 1 has index 0; samples are numbered from 0 in their order"),
        ([Sample(0, 3)], "sample 0: the prompt must be a text, got 3"),  # type: ignore[arg-type]
        ([Sample(0, "a"), Sample(1, "b\ud83d")], r"sample 1 has the lone surrogate U\+D83D, half of a character; write the whole"),
        ([Sample(0, "a", {"answer": "\udc00"})], r"sample 0 has the lone surrogate U\+DC00"),
        ([Sample(0, "a", {"answer": {1, 2}})], "sample 0: meta must hold what JSON has: Object of type set"),
    ],
)
def test_a_sample_of_another_form_is_named(samples: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_samples(Own(*samples), "own")


def test_the_beginning_of_a_prompt_is_shown_and_no_more() -> None:
    assert read_samples(Own(Sample(0, "a cat", {"answer": "\U0001f600"})), "own")[0].beginning == "a cat"
    assert Sample(0, "x" * 81).beginning == f"{'x' * 80} ..."
