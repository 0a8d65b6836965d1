from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from configs.errors import ConfigError
from tests.conftest import record
from workloads.run_folder.attempts import Attempt, measure, read_attempts, set_aside


def test_a_test_that_is_set_aside_leaves_an_empty_run_folder(tmp_path: Path) -> None:
    for number, count in enumerate((4, 2), 1):
        lines = [msgspec.json.encode(record(i, completed_s=0.5 + i / 2)) + b"\n" for i in range(count)]
        (tmp_path / "records.jsonl").write_bytes(b"".join(lines))
        for name in ("media/0.mkv", "performance/mlperf_log_summary.txt", "power.jsonl"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("", encoding="utf-8")
        attempt = measure(tmp_path / "records.jsonl", "performance", 1.5, 3.0)
        own = set_aside(tmp_path, attempt)
        assert own == tmp_path / f"attempts/performance-{number}"
        assert sorted(p.name for p in own.iterdir()) == ["attempt.json", "performance", "power.jsonl", "records.jsonl"]
        assert sorted(p.name for p in tmp_path.iterdir()) == ["attempts", "media", "records.jsonl"]
        assert (tmp_path / "records.jsonl").read_bytes() == b""
        assert list((tmp_path / "media").iterdir()) == []
    assert read_attempts(tmp_path) == [Attempt("performance", 1.5, 4, 2.0, 3.0), Attempt("performance", 1.5, 2, 1.0, 3.0)]
    assert [a.samples_per_s for a in read_attempts(tmp_path)] == [2.0, 2.0]


def test_a_run_without_attempts_has_none_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    assert read_attempts(tmp_path) == []
    file = tmp_path / "attempts/performance-1/attempt.json"
    file.parent.mkdir(parents=True)
    file.write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"attempt\.json is damaged"):
        read_attempts(tmp_path)
