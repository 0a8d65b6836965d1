"""Every benchmark runs in its short form, for its form and not its figures."""

from __future__ import annotations

import argparse
import importlib
import json
import resource

import pytest

from benchmarks.__main__ import find, main
from benchmarks.outcome import arguments

FIELDS = {
    "name",
    "value",
    "unit",
    "goal",
    "holds",
    "figures",
    "commit",
    "date",
    "machine",
    "processor",
    "cpus",
    "others",
    "wall_s",
    "cpu_s",
}
MOST_CPU_S = 20.0


@pytest.mark.parametrize("name", find())
@pytest.mark.xdist_group("benchmarks")  # in one process: imports take longer than most of them
def test_the_short_form_ends_with_tables_and_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    began = _cpu_s()
    importlib.import_module("benchmarks." + name.replace("/", ".")).main(["--short"])
    *table, last = capsys.readouterr().out.strip().splitlines()
    line = json.loads(last)
    assert set(line) >= FIELDS, FIELDS - set(line)
    assert line["name"] == name.split("/")[-1]
    assert any(row.startswith("figure") for row in table)
    assert line["arguments"]["short"] is True
    assert _cpu_s() - began < MOST_CPU_S


def test_a_benchmark_without_the_short_form_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        argparse.ArgumentParser().parse_args(["--short"])
    assert arguments("A benchmark.").parse_args(["--short"]).short
    assert main(["--list"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == next(iter(find()))


def _cpu_s() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
