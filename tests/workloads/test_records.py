from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from configs.errors import PluginError
from tests.conftest import record
from workloads.records import Sample, query_seed, without_meta


def test_a_querys_seed_is_splitmix64s() -> None:
    """The first five numbers after 1234567. Source: rosettacode.org, Pseudo-random numbers/Splitmix64."""
    numbers = (6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821)
    assert [query_seed(1234567, index) for index in range(5)] == [number // 2 for number in numbers]


def test_times_of_a_record_count_from_its_issue() -> None:
    one = record(0, issued_s=2.0, first_token_s=3.0, completed_s=7.0, num_units=5)
    assert (one.latency_s, one.ttft_s, one.tpot_s) == (5.0, 1.0, 1.0)


@pytest.mark.parametrize(("num_units", "tpot_s"), [(1, None), (2, 4.0)])
def test_time_per_output_token_needs_two_tokens(num_units: int, tpot_s: float | None) -> None:
    assert record(0, issued_s=2.0, first_token_s=3.0, completed_s=7.0, num_units=num_units).tpot_s == tpot_s


def test_pipelines_get_samples_without_meta_and_are_told_so_however_they_ask() -> None:
    (given,) = without_meta([Sample(0, "which colour?", {"answer": "red"}, (b"image",))])
    assert (given.prompt, given.images) == ("which colour?", (b"image",))
    uses: list[Callable[[Mapping[str, Any]], object]] = [dict, bool, list, lambda m: m["answer"], lambda m: m.get("answer")]
    uses.append(lambda meta: "answer" in meta)
    for use in uses:
        with pytest.raises(PluginError, match=r"a pipeline asked for sample.meta\[.*Answer from sample.prompt and sample.images"):
            use(given.meta)
    assert replace(given, prompt="another").meta is given.meta
