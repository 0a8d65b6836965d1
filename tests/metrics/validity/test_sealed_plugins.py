"""A plugin that was edited after the run is named wherever the run is scored again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs import registry
from configs.errors import ConfigError, PluginError
from configs.load_config import parse_config
from configs.registry import load_plugin_file
from metrics.audit.audit import audit
from metrics.mlperf.compliance.comply import check_run
from metrics.report.load_run import load_run
from metrics.report.recompute import recompute
from metrics.report.report import build_report
from pipelines.launcher.provenance import seal, write_manifest
from tests.conftest import record
from tests.metrics.conftest import write_run
from workloads.records import Sample
from workloads.run_folder.manifest import read_manifest

METRIC = """
from dataclasses import dataclass
from typing import ClassVar
from configs.registry import register
from metrics.base import SampleMetric

@register("{name}")
@dataclass(frozen=True)
class Generous(SampleMetric):
    name: ClassVar[str] = "{name}"

    def score(self, run, sample, record):
        return {{"{name}": {score}}}
"""
DIFFERS = (
    r"metric generous from .*generous\.py differs from the one that the run was made with \(plugins/generous\.py\), by its hash in manifest"
)


@pytest.fixture(autouse=True)
def _own_plugins() -> Iterator[None]:
    built_in = registry.find("metrics", "exact_match")
    yield
    for name in ("generous", "thrifty"):
        registry._registered.pop(("metrics", name), None)
    registry._registered["metrics", "exact_match"] = built_in


def load(file: Path, score: float, name: str = "generous") -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(METRIC.format(name=name, score=score), encoding="utf-8")
    load_plugin_file(str(file))


def made(folder: Path) -> Path:
    samples = [Sample(i, f"question {i}", {"answer": "yes"}) for i in range(8)]
    write_run(folder, samples, [record(i, text="yes", num_units=1) for i in range(8)], metrics=["generous"])
    build_report(folder)
    return folder


def test_an_edited_metric_is_named_and_the_run_is_invalid(tmp_path: Path) -> None:
    """Edited within the same second, to the same length: no cached compilation is run in its place."""
    load(tmp_path / "generous.py", 0.5)
    one, other = made(tmp_path / "one"), made(tmp_path / "other")
    assert recompute(one).valid
    audit(one, other)
    load(tmp_path / "generous.py", 0.9)
    assert recompute(one).data["figures"]["generous"]["value"] == 0.9
    with pytest.raises(ConfigError, match=DIFFERS):
        audit(one, other)
    with pytest.raises(ConfigError, match="was modified after it finished: " + DIFFERS):
        check_run(load_run(one))
    (reason,) = build_report(one).data["reasons"]
    assert reason.startswith("metric generous from ")
    load(tmp_path / "generous.py", 0.5)
    assert build_report(one).valid


def test_a_run_with_a_manifest_of_an_older_version_has_the_hash_of_the_kept_file(tmp_path: Path) -> None:
    load(tmp_path / "generous.py", 0.5)
    folder = made(tmp_path / "run")
    manifest = read_manifest(folder)
    del manifest["plugin_sha256"]
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert build_report(folder).valid
    load(tmp_path / "generous.py", 0.9)
    assert not build_report(folder).valid


def test_the_plugin_is_kept_as_it_was_loaded_and_a_kept_one_that_changes_during_the_run_is_named(tmp_path: Path) -> None:
    load(tmp_path / "generous.py", 0.5)
    loaded = (tmp_path / "generous.py").read_bytes()
    (tmp_path / "generous.py").write_text("# edited while the run begins\n", encoding="utf-8")
    folder = made(tmp_path / "run")
    assert (folder / "plugins/generous.py").read_bytes() == loaded
    run = load_run(folder)
    write_manifest(folder, run.config, run.samples)  # as at the beginning of a run
    (folder / "plugins/generous.py").write_text("# edited while the run goes on\n", encoding="utf-8")
    seal(folder)
    assert build_report(folder).data["reasons"] == ["plugins/generous.py: modified after the run, by its hash in manifest.json"]


def test_two_plugin_files_of_one_name_are_refused(tmp_path: Path) -> None:
    load(tmp_path / "a/same.py", 0.5, "generous")
    load(tmp_path / "b/same.py", 0.5, "thrifty")
    config = {"workload": "llm", "pipeline": {"name": "toy_llm"}, "metrics": ["generous", "thrifty"]}
    with pytest.raises(PluginError, match=r"two plugin files of the run are named 'same\.py'; rename one of them"):
        write_manifest(tmp_path, parse_config(config, "test"), [])
