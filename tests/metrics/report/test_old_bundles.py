"""Bundles that an older version of the suite packed: scored again, they give the verdict and the figures that they came with.

bundles/: one run of each workload by the toy pipelines, and one that misses its limits, packed before modules were sorted into folders.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SuiteRun, last_line

BUNDLES = sorted(Path(__file__).with_name("bundles").glob("*.zip"))


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.stem)
def test_an_older_bundle_gives_the_same_report(bundle: Path, suite: SuiteRun, tmp_path: Path) -> None:
    with zipfile.ZipFile(bundle) as packed:
        before: dict[str, Any] = json.loads(packed.read(next(name for name in packed.namelist() if name.endswith("/report.json"))))
    line = last_line(suite("report", str(bundle), "--output", "again"))
    after: dict[str, Any] = json.loads((tmp_path / "again/report.json").read_text(encoding="utf-8"))
    assert line["verdict"] == before["verdict"] == after["verdict"]
    assert len(after["reasons"]) == len(before["reasons"])
    assert after["figures"].keys() == before["figures"].keys()
    for name, figure in before["figures"].items():
        for key in ("value", "unit", "better", "n", "ci95"):
            assert after["figures"][name].get(key) == pytest.approx(figure.get(key), rel=1e-6), (name, key)
    assert after.keys() == before.keys()
