"""Bundles: packed, unpacked, scored again, and tampered with."""

from __future__ import annotations

import json
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.errors import ConfigError, PluginError
from metrics.report.report import build_report
from metrics.report.report_diff import report_bytes
from pipelines.launcher.provenance import seal
from pipelines.launcher.resume import prepare_rest
from tests.conftest import BRIEF, QUICK, SuiteRun, last_line, read_report
from workloads.run_folder.bundle import unpack, write_bundle
from workloads.run_folder.files import read_run
from workloads.run_folder.manifest import changes, read_manifest
from workloads.run_folder.record_log import RecordLog

METRIC = """
from dataclasses import dataclass
from configs.registry import register
from metrics.base import SampleMetric

@register("last")
@dataclass(frozen=True)
class LastFrame(SampleMetric):
    name = "last_frame_level"

    def score(self, run, sample, record):
        return {self.name: float(run.video(record)[-1].mean())}
"""
FRAIL = """
import os, time
from dataclasses import dataclass
from configs.registry import register
from pipelines.toy.t2v import ToyT2V

@register("frail")
@dataclass
class Frail(ToyT2V):
    def generate(self, samples, queries):
        if os.path.exists("frail") and any(q.id > 4 for q in queries):
            os.kill(os.getpid(), 2)
            time.sleep(1)
        return super().generate(samples, queries)
"""


def repacked(bundle: Path, edit: Callable[[dict[str, bytes]], None]) -> Path:
    """The bundle with its files, by full name, edited by hand."""
    with zipfile.ZipFile(bundle) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    edit(files)
    with zipfile.ZipFile(bundle, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return bundle


def test_another_machine_makes_the_same_report_byte_for_byte(suite: SuiteRun, tmp_path: Path) -> None:
    (tmp_path / "last.py").write_text(METRIC, encoding="utf-8")
    metrics = "metrics=[throughput, stages, world_score, temporal_flickering, motion_smoothness, last]"
    made = suite("--config", "t2v/toy", "--plugin", "last.py", "--set", metrics, "--set", "report_videos=0", *QUICK, "--output", "one/run")
    assert made.returncode == 0, made.stderr
    bundle = write_bundle(tmp_path / "one/run", tmp_path / "run.zip").path
    assert bundle.read_bytes() == write_bundle(tmp_path / "one/run", tmp_path / "again.zip").path.read_bytes()
    with pytest.raises(PluginError, match=r"metric 'last' of the run is from 'plugins/last.py' and is not installed; read .*last.py'"):
        build_report(unpack(bundle))
    elsewhere = {"OMP_NUM_THREADS": "2", "OPENCV_FOR_THREADS_NUM": "3", "TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONHASHSEED": "7"}
    done = suite("report", "run.zip", "--output", "two", "--plugin", "run-unpacked/plugins/last.py", env=elsewhere)
    assert done.returncode == 0, done.stderr
    assert last_line(done)["same_report"] is True
    assert "byte for byte" in done.stderr
    assert (tmp_path / "two/report.json").read_bytes() == (tmp_path / "one/run/report.json").read_bytes()
    assert (tmp_path / "two/report.html").is_file()
    assert read_report(made)["figures"]["last_frame_level"]["value"] > 0


def test_modified_files_are_named_and_make_the_run_invalid(run: Path, tmp_path: Path) -> None:
    def faster(files: dict[str, bytes]) -> None:
        files["run/records.jsonl"] = files["run/records.jsonl"].replace(b'"completed_s":3.0', b'"completed_s":2.5')
        files["run/search.json"] = b'{"limits": {}, "probes": [], "max_valid_qps": 9.0}'
        del files["run/system.json"]

    assert build_report(run).valid
    (run / "system.json").write_text("{}\n", encoding="utf-8")
    seal(run)
    folder = unpack(repacked(write_bundle(run).path, faster))
    report = build_report(folder)
    assert report.data["verdict"] == "INVALID"
    assert report.data["reasons"] == [
        "records.jsonl: modified after the run, by its hash in manifest.json",
        "system.json: missing, though manifest.json lists it",
        "search.json: added after the run, for manifest.json does not list it",
    ]


def test_an_edited_report_differs_from_the_recomputed_one(suite: SuiteRun, run: Path) -> None:
    def boast(files: dict[str, bytes]) -> None:
        report = json.loads(files["run/report.json"])
        report["figures"]["answers_per_s"]["value"] *= 10
        files["run/report.json"] = json.dumps(report, indent=2).encode()

    done = suite("report", str(repacked(write_bundle(run).path, boast)))
    assert last_line(done)["same_report"] is False
    assert "1 value differs" in done.stderr
    assert "figures.answers_per_s.value: 10.0 before, 1.0 now" in done.stderr


def test_an_aborted_run_is_sealed_bundled_and_can_be_resumed(suite: SuiteRun, tmp_path: Path) -> None:
    (tmp_path / "frail.py").write_text(FRAIL, encoding="utf-8")
    options = ["--config", "t2v/toy", "--mode", "accuracy", "--plugin", "frail.py", *BRIEF]
    (tmp_path / "frail").touch()
    cut = suite(*options, "--set", "pipeline={name: frail, batch_size: 2}", "--output", "run")
    assert cut.returncode == 130, cut.stderr
    assert changes(tmp_path / "run").sentences == []
    bundle = write_bundle(tmp_path / "run").path
    assert report_bytes(tmp_path / "run") is None  # a brief one is nothing to compare with
    reasons = build_report(unpack(bundle)).data["reasons"]
    assert any("was aborted" in r for r in reasons)
    assert not any("manifest" in r for r in reasons)

    kept = (tmp_path / "run/records.jsonl").read_bytes()
    (tmp_path / "run/records.jsonl").write_bytes(kept.replace(b'"digest":"', b'"digest":"f', 1))
    config, samples, _, _ = read_run(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"cannot be resumed: records.jsonl was modified after the run was given up"):
        prepare_rest(tmp_path / "run", config, samples)
    (tmp_path / "run/records.jsonl").write_bytes(kept)
    (tmp_path / "frail").unlink()
    whole = suite("--resume", "run", "--plugin", "frail.py")
    assert whole.returncode == 0, whole.stderr
    assert changes(tmp_path / "run").sentences == []


def test_a_moved_run_keeps_its_name(run: Path, tmp_path: Path) -> None:
    before = (run / "report.json").read_bytes()
    moved = shutil.move(run, tmp_path / "elsewhere")
    build_report(Path(moved))
    assert (Path(moved) / "report.json").read_bytes() == before


def hostile(name: str, content: bytes = b"x", mode: int = 0o644 | stat.S_IFREG) -> Callable[[Path], None]:
    def add(bundle: Path) -> None:
        member = zipfile.ZipInfo(name)
        member.create_system, member.external_attr, member.compress_type = 3, mode << 16, zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(bundle, "a") as archive:
            archive.writestr(member, content)

    return add


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (hostile("run/../../evil"), r"its file 'run/../../evil' is not a path inside a run folder"),
        (hostile("/etc/evil"), r"is outside the one folder"),
        (hostile("other/evil"), r"is outside the one folder of a bundle \('other', 'run'\)"),
        (hostile("run/media\\evil"), r"is not a path inside a run folder"),
        (hostile("run/./media"), r"is not a path inside a run folder"),
        (hostile("run/media/link", b"/etc/passwd", 0o777 | stat.S_IFLNK), r"'run/media/link' is a link or a device"),
        (hostile("run/records.jsonl"), r"'run/records.jsonl' occurs twice"),
        (hostile("run/records.jsonl/x"), r"cannot be unpacked"),
        (hostile("run/media/bomb", b"\0" * 2**27), r"more than a run can pack"),
    ],
)
def test_a_hostile_archive_writes_nothing_anywhere(run: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    bundle = write_bundle(run).path
    shutil.rmtree(run)
    spoil(bundle)
    with pytest.raises(ConfigError, match=message):
        unpack(bundle)
    assert list(tmp_path.iterdir()) == [bundle]


def unseal(files: dict[str, bytes]) -> None:
    del files["run/manifest.json"]


def cut(bundle: Path) -> None:
    bundle.write_bytes(bundle.read_bytes()[:-60])


def flip(bundle: Path) -> None:
    content = bytearray(bundle.read_bytes())
    content[content.index(b"run/records.jsonl") + 40] ^= 0xFF
    bundle.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut, "is damaged or incomplete"),
        (flip, "is damaged or incomplete"),
        (lambda b: b.write_bytes(b"no zip"), "is not a bundle; suite.py bundle RUN writes one"),
        (lambda b: zipfile.ZipFile(b, "w").close(), r"is not a bundle of a run: it has no config.yaml"),
        (lambda b: repacked(b, unseal), r"it has no manifest.json"),
    ],
)
def test_a_damaged_bundle_is_refused(run: Path, tmp_path: Path, spoil: Callable[[Path], Any], message: str) -> None:
    bundle = write_bundle(run).path
    spoil(bundle)
    with pytest.raises(ConfigError, match=message):
        unpack(bundle)
    assert sorted(tmp_path.iterdir()) == [run, bundle]


def test_existing_files_are_not_overwritten(run: Path, tmp_path: Path) -> None:
    bundle = write_bundle(run).path
    with pytest.raises(ConfigError, match=r"run.zip' exists; give --output another file"):
        write_bundle(run)
    unpack(bundle)
    with pytest.raises(ConfigError, match=r"run-unpacked' exists; give --output another folder"):
        unpack(bundle)
    assert unpack(bundle, tmp_path / "deep/er") == tmp_path / "deep/er"


def test_a_folder_without_a_finished_run_cannot_be_bundled(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be bundled: it has no config.yaml"):
        write_bundle(tmp_path)
    log = RecordLog(run, "performance")
    with pytest.raises(ConfigError, match="is still being written"):
        write_bundle(run)
    log.close()


def test_a_plugin_of_a_built_in_name_is_not_replaced_by_the_built_in(run: Path) -> None:
    manifest = read_manifest(run)
    (run / "manifest.json").write_text(json.dumps({**manifest, "plugins": {"metric latency": "plugins/mine.py"}}), encoding="utf-8")
    with pytest.raises(PluginError, match=r"metric 'latency' of the run is from 'plugins/mine.py' and is not installed"):
        build_report(run)


def test_no_answer_is_read_from_outside_the_folder(run: Path) -> None:
    line = (run / "records.jsonl").read_bytes().splitlines()[0]
    for name in ("../secret.mkv", "/etc/passwd", "media/../../x.mkv", "media/.hidden"):
        edited = {**json.loads(line), "media": name}
        (run / "records.jsonl").write_text(json.dumps(edited) + "\n", encoding="utf-8")
        with pytest.raises(ConfigError, match="which is not in media/"):
            read_run(run)


def test_bundling_a_modified_run_warns(suite: SuiteRun, run: Path) -> None:
    (run / "outcome.json").write_text("{}", encoding="utf-8")
    done = suite("bundle", str(run))
    assert done.returncode == 0
    assert "its report will be INVALID: outcome.json: modified after the run" in done.stderr
    assert len(last_line(done)["sha256"]) == 64
