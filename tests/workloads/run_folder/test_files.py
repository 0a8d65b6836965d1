from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from configs.errors import ConfigError
from configs.load_config import parse_config
from tests.conftest import record
from workloads.records import Sample
from workloads.run_folder.files import create_run_folder, prompt_set_hash, read_run, write_config, write_samples


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_config(tmp_path, parse_config({"workload": "t2v", "pipeline": {"name": "toy_t2v"}}, "test"))
    write_samples(tmp_path, [Sample(0, "a"), Sample(1, "b")])
    (tmp_path / "records.jsonl").write_bytes(b"".join(msgspec.json.encode(record(i)) + b"\n" for i in range(2)))
    return tmp_path


def test_a_written_run_is_read_back(folder: Path) -> None:
    config, samples, records, outcome = read_run(folder)
    assert config.pipeline_name == "toy_t2v"
    assert [s.prompt for s in samples] == ["a", "b"]
    assert records == [record(0), record(1)]
    assert outcome == {}


def test_a_record_cut_short_by_a_crash_is_dropped(folder: Path) -> None:
    file = folder / "records.jsonl"
    file.write_bytes(file.read_bytes()[:-9])
    assert len(read_run(folder)[2]) == 1


def test_a_damaged_line_in_the_middle_is_named(folder: Path) -> None:
    file = folder / "records.jsonl"
    file.write_bytes(b"{oops\n" + file.read_bytes())
    with pytest.raises(ConfigError, match=r"records\.jsonl, line 1 is damaged"):
        read_run(folder)


def test_a_record_of_an_unknown_sample_is_named(folder: Path) -> None:
    (folder / "records.jsonl").write_bytes(msgspec.json.encode(record(7)) + b"\n")
    with pytest.raises(ConfigError, match="has sample 7 of 2"):
        read_run(folder)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run folder"):
        read_run(tmp_path)


def test_a_folder_with_a_run_is_not_overwritten(folder: Path) -> None:
    with pytest.raises(ConfigError, match="already holds a run"):
        create_run_folder(str(folder), "t2v")


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match="not writable"):
        create_run_folder(str(tmp_path / "file" / "run"), "t2v")


def test_a_run_needs_64_mib_of_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 64 * 2**20
    monkeypatch.setattr("workloads.run_folder.files.shutil.disk_usage", lambda _: type("Usage", (), {"free": free})())
    create_run_folder(str(tmp_path / "enough"), "t2v")
    free -= 1
    with pytest.raises(ConfigError, match="63 MiB free"):
        create_run_folder(str(tmp_path / "run"), "t2v")


def test_the_prompt_set_hash_depends_on_prompts_and_their_order() -> None:
    one, other = Sample(0, "a"), Sample(1, "b")
    assert prompt_set_hash([one, other]) != prompt_set_hash([other, one])
    assert prompt_set_hash([one]) == prompt_set_hash([Sample(5, "a")])
    assert prompt_set_hash([one]) != prompt_set_hash([Sample(0, "a", images=(b"png",))])


def test_images_are_kept_unchanged_and_named_by_number(folder: Path) -> None:
    images = (b"\x89PNG\r\n\x1a\n one", b"\xff\xd8\xff two", b"RIFF....WEBP three", b"no picture")
    write_samples(folder, [Sample(0, "../a", images=images), Sample(1, "b")])
    assert [s.images for s in read_run(folder)[1]] == [images, ()]
    assert sorted(p.name for p in (folder / "inputs").iterdir()) == ["000000-0.png", "000000-1.jpg", "000000-2.webp", "000000-3.bin"]


def test_a_missing_image_is_empty_and_the_run_is_still_read(folder: Path) -> None:
    write_samples(folder, [Sample(0, "a", images=(b"one", b"two")), Sample(1, "b")])
    (folder / "inputs/000000-0.bin").unlink()
    assert read_run(folder)[1][0].images == (b"", b"two")


@pytest.mark.parametrize("name", ["../secret.png", "inputs/../../secret.png", "/etc/passwd", "inputs/0-0.png/../x"])
def test_no_image_is_read_from_outside_the_folder(folder: Path, name: str) -> None:
    line = json.dumps({"index": 0, "prompt": "a", "meta": {}, "images": [name]})
    (folder / "samples.jsonl").write_text(f"{line}\n{line}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="which is not in inputs/"):
        read_run(folder)


def test_a_sample_without_a_prompt_is_named(folder: Path) -> None:
    (folder / "samples.jsonl").write_text('{"index": 0, "meta": {}}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="line 1 is damaged: Object missing required field `prompt`"):
        read_run(folder)


DAMAGED = {
    "a_number_for_a_mode": ('{"performance": 1.5}', "Expected `object`, got `float`"),
    "a_text_for_all": ('"performance"', "Expected `object`, got `str`"),
    "another_mode": ('{"../x": {}}', "Invalid enum value"),
    "fallbacks_without_names": ('{"performance": {"ranks": [{"fallbacks": [{}]}]}}', "Expected `str`, got `object`"),
    "a_count_below_0": ('{"performance": {"num_issued": -1}}', "Expected `int` >= 0"),
    "nested_too_deeply": ('{"performance": {"power": ' + "[" * 100_000, "it is nested too deeply"),
    "another_encoding": ('{"performance": {"aborted": "\udcff"}}', "it is not UTF-8"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_outcome_is_one_sentence(folder: Path, damage: str) -> None:
    content, problem = DAMAGED[damage]
    (folder / "outcome.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=rf"outcome\.json is damaged: {re.escape(problem)}"):
        read_run(folder)
