"""Options of requests, for an engine that can do everything for one query."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.base import QueryOptions
from pipelines.serving.bodies.options import read_options
from pipelines.serving.errors import BadRequestError
from tests.pipelines.serving.serving_client import Limited


class Able(Limited):
    def query_options(self) -> frozenset[str]:
        return frozenset(QueryOptions.__struct_fields__)


@pytest.mark.parametrize(
    ("body", "options"),
    [
        ({"max_tokens": 16, "ignore_eos": True, "min_tokens": 16}, QueryOptions(16, 16, True)),
        ({"max_completion_tokens": 16, "max_tokens": 16}, QueryOptions(16)),
        ({"max_tokens": 64, "temperature": 0, "top_p": 0.5, "stop": []}, QueryOptions()),
        ({"temperature": 0.5, "top_p": 0.9, "top_k": 5}, QueryOptions(temperature=0.5, top_p=0.9, top_k=5)),
        ({"temperature": 1, "top_p": 1, "top_k": -1}, QueryOptions(temperature=1.0)),
        ({"stop": "a"}, QueryOptions(stop=("a",))),
        ({"stop": ["a", "b"]}, QueryOptions(stop=("a", "b"))),
    ],
)
def test_what_differs_from_the_pipelines_options_becomes_the_querys(body: dict[str, Any], options: QueryOptions) -> None:
    assert read_options(body, Able()) == (options, [])


def test_more_tokens_than_the_pipelines_limit_are_warned_of() -> None:
    options, (warning,) = read_options({"max_tokens": 65}, Able())
    assert options == QueryOptions()
    assert "limit of 64 tokens stays in force" in warning


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"max_tokens": 0}, "max_tokens", "positive whole number"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens", "give one"),
        ({"max_tokens": 1, "min_tokens": 2}, "min_tokens", "more than max_tokens"),
        ({"temperature": -0.1}, "temperature", "at least 0"),
        ({"temperature": "hot"}, "temperature", "give a number"),
        ({"temperature": 1, "top_p": 1.5}, "top_p", "up to 1"),
        ({"temperature": 1, "top_k": 1.5}, "top_k", "whole number"),
        ({"stop": [""]}, "stop", "list of texts"),
        ({"ignore_eos": 1}, "ignore_eos", "true or false"),
    ],
)
def test_impossible_values_are_refused(body: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(BadRequestError, match=message) as caught:
        read_options(body, Able())
    assert caught.value.param == param
