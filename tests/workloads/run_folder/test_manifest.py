"""The hashes of a run's files; modified, lost and added files are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metrics.report.report import build_report
from pipelines.launcher.provenance import write_manifest
from workloads.run_folder.bundle import unpack, write_bundle
from workloads.run_folder.files import read_run
from workloads.run_folder.manifest import add_file, changes, file_hashes, modifications

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


def test_during_a_run_only_fixed_files_are_hashed(folder: Path) -> None:
    _seal(folder, sealed=False)
    assert list(file_hashes(folder, sealed=False)) == ["config.yaml", "inputs/0.png"]
    (folder / "records.jsonl").write_text("abcd", encoding="utf-8")
    assert changes(folder) == ([], [], [], False)
    (folder / "inputs/0.png").write_text("abcd", encoding="utf-8")
    assert changes(folder) == (["inputs/0.png"], [], [], False)


def test_changes_are_of_three_kinds_and_can_leave_out_a_folder(folder: Path) -> None:
    _seal(folder)
    assert changes(folder) == ([], [], [], True)
    (folder / "config.yaml").write_text("abd", encoding="utf-8")
    (folder / "records.jsonl").unlink()
    (folder / "media/2.mkv").write_text("abc", encoding="utf-8")
    assert changes(folder) == (["config.yaml"], ["records.jsonl"], ["media/2.mkv"], True)
    assert changes(folder, but="media") == (["config.yaml"], ["records.jsonl"], [], True)
    add_file(folder, "media/2.mkv")
    assert changes(folder).added == []


@pytest.mark.parametrize(("count", "named"), [(5, "0, 1, 2, 3, 4: added"), (6, "0, 1, 2, 3, 4 and 1 more: added")])
def test_five_files_of_a_kind_are_named(folder: Path, count: int, named: str) -> None:
    _seal(folder)
    for number in range(count):
        (folder / str(number)).touch()
    (sentence,) = modifications(folder)
    assert sentence.startswith(named)


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "manifest.json is missing"), ("{", "manifest.json is damaged"), ("[]", "is damaged")]
)
def test_a_run_without_a_sound_manifest_is_invalid(run: Path, content: str | None, reason: str) -> None:
    (run / "manifest.json").unlink()
    if content is not None:
        (run / "manifest.json").write_text(content, encoding="utf-8")
    report = build_report(run)
    assert not report.valid
    assert reason in report.data["reasons"][0]


def test_a_run_that_was_killed_before_its_files_were_hashed_is_invalid_and_can_be_bundled(run: Path) -> None:
    config, samples, _, _ = read_run(run)
    write_manifest(run, config, samples)
    again = build_report(unpack(write_bundle(run).path))
    assert len(again.data["reasons"]) == 1
    assert "manifest.json has no hashes" in again.data["reasons"][0]
    (run / "samples.jsonl").write_text("".join(f'{{"index": {i}, "prompt": "easy", "meta": {{}}}}\n' for i in range(3)), encoding="utf-8")
    assert changes(run).changed == ["samples.jsonl"]


def test_a_file_added_by_hand_is_named_and_hidden_ones_are_not(run: Path) -> None:
    (run / ".DS_Store").write_bytes(b"")
    assert build_report(run).valid
    (run / "notes.txt").write_text("fast!", encoding="utf-8")
    assert build_report(run).data["reasons"] == ["notes.txt: added after the run, for manifest.json does not list it"]
