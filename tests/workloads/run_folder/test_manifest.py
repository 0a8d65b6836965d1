"""The hashes of a run's files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from workloads.run_folder.manifest import add_file, changes, distrust, file_hashes

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # SHA-256 of "abc": NIST, FIPS 180-2, appendix B.1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run folder in which every file holds "abc", without a manifest."""
    for name in ("config.yaml", "inputs/0.png", "records.jsonl", "media/0.mkv", "report.json", "media/1.mkv.partial", ".cache/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("abc", encoding="utf-8")
    return tmp_path


def _seal(folder: Path, sealed: bool = True) -> None:
    manifest = {"files": file_hashes(folder, sealed), "sealed": sealed}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def test_a_hash_is_sha_256_of_the_whole_file(folder: Path) -> None:
    assert file_hashes(folder) == dict.fromkeys(("config.yaml", "inputs/0.png", "media/0.mkv", "records.jsonl"), ABC)


def test_before_a_run_has_ended_only_what_stays_is_hashed(folder: Path) -> None:
    _seal(folder, sealed=False)
    assert list(file_hashes(folder, sealed=False)) == ["config.yaml", "inputs/0.png"]
    (folder / "records.jsonl").write_text("abcd", encoding="utf-8")
    assert changes(folder) == ([], [], [], False)
    (folder / "inputs/0.png").write_text("abcd", encoding="utf-8")
    assert changes(folder) == (["inputs/0.png"], [], [], False)


def test_changes_are_of_three_kinds_and_may_leave_a_folder_out(folder: Path) -> None:
    _seal(folder)
    assert changes(folder) == ([], [], [], True)
    (folder / "config.yaml").write_text("abd", encoding="utf-8")
    (folder / "records.jsonl").unlink()
    (folder / "media/2.mkv").write_text("abc", encoding="utf-8")
    assert changes(folder) == (["config.yaml"], ["records.jsonl"], ["media/2.mkv"], True)
    assert changes(folder, but="media") == (["config.yaml"], ["records.jsonl"], [], True)
    add_file(folder, "media/2.mkv")
    assert changes(folder).added == []


@pytest.mark.parametrize(("count", "named"), [(5, "0, 1, 2, 3, 4: not in"), (6, "0, 1, 2, 3, 4 and 1 more: not in")])
def test_five_files_of_a_kind_are_named(folder: Path, count: int, named: str) -> None:
    _seal(folder)
    for number in range(count):
        (folder / str(number)).touch()
    (sentence,) = distrust(folder)
    assert sentence.startswith(named)
