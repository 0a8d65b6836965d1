"""A run folder of which one file is damaged, read by every command that reads one. Each second time the manifest fits the damaged file."""

from __future__ import annotations

import contextlib
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

from configs.errors import SuiteError
from metrics.audit.audit import audit
from metrics.audit.html import print_audit, sentence, write_audit
from metrics.audit.sample_size import plan
from metrics.audit.sample_size_text import plain, print_plan
from metrics.base import _video
from metrics.compare.compare import compare
from metrics.compare.html import print_comparison, write_comparison
from metrics.mlperf.submission.write import write_submission
from metrics.report.finish import finish, write_report
from metrics.report.html.combined import write_combined
from metrics.report.recompute import recompute
from metrics.report.report import build_report
from metrics.report.report_diff import print_comparison as print_difference
from metrics.report.report_diff import report_bytes
from pipelines.launcher.provenance import seal
from pipelines.launcher.resume import prepare_rest, resumed_config
from tests.conftest import ROOT
from tests.fuzz.fuzzing import Target
from workloads.run_folder.bundle import unpack, write_bundle
from workloads.run_folder.manifest import modifications

BUNDLES = ROOT / "tests/metrics/report/bundles"
KEPT = 6  # records
POWER = '{"mode":"performance","rank":0,"sample":{"at_s":0.1,"energy_j":5.0,"power_w":10.5,"throttled":["power"]}}\n' * 3
SEARCH = """{"limits": {"target_ttft_s": 0.5, "target_tpot_s": null}, "max_valid_qps": 4.0, "confirmed": true, "probes": [
 {"target_qps": 4.0, "verdict": "VALID", "completed_per_s": 3.9, "ttft_s": 0.1, "folder": "probes/1", "full": true},
 {"target_qps": 8.0, "verdict": "INVALID", "completed_per_s": 5.5, "ttft_s": 2.0, "folder": "probes/2"}]}"""
ATTEMPT = '{"mode": "performance", "target_qps": 9.0, "num_samples": 4, "duration_s": 0.1, "min_duration_s": 0.3}'
FILES = (
    *("config.yaml", "system.json", "samples.jsonl", "records.jsonl", "outcome.json", "manifest.json", "report.json", "power.jsonl"),
    *("search.json", "attempts/performance-1/attempt.json", "performance/mlperf_log_summary.txt", "performance/mlperf_log_detail.txt"),
)


def targets(place: Path) -> list[Target]:
    texts = {name: _small_run(name, place / name) for name in ("llm", "vlm", "llm-interactive-invalid")}
    videos = {name: _small_run(name, place / name) for name in ("t2v", "i2v")}
    return [
        Target("text run", _inputs(texts), _Reader(texts, place, _COMMANDS).read, 30),
        Target("video run", _inputs(videos), _Reader(videos, place, _COMMANDS).read, 1),
        Target("page of a run", _inputs(texts), _Reader(texts, place, _PAGES).read, 1),
    ]


def _small_run(name: str, folder: Path) -> Path:
    """The run of a bundle with its first records alone, a test that was too short, a search and power samples."""
    unpack(BUNDLES / f"{name}.zip", folder)
    lines = (folder / "records.jsonl").read_bytes().splitlines(keepends=True)[:KEPT]
    (folder / "records.jsonl").write_bytes(b"".join(lines))
    for file in (folder / "media").glob("performance-*"):
        if f'"media/{file.name}"'.encode() not in b"".join(lines):
            file.unlink()
    (folder / "attempts/performance-1").mkdir(parents=True)
    for file_name, text in (("power.jsonl", POWER), ("search.json", SEARCH), ("attempts/performance-1/attempt.json", ATTEMPT)):
        (folder / file_name).write_text(text, encoding="utf-8")
    _shorten_log(folder / "performance/mlperf_log_detail.txt")
    seal(folder)
    build_report(folder)
    return folder


def _shorten_log(path: Path) -> None:
    """Keep what is read of it, and a few of the other lines."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(line for i, line in enumerate(lines) if i < 3 or '"result_' in line or '"effective_' in line), encoding="utf-8")


def _inputs(runs: dict[str, Path]) -> dict[str, bytes]:
    inputs = {f"{run}/{name}": (folder / name).read_bytes() for run, folder in runs.items() for name in FILES}
    for run, folder in runs.items():
        for file in (*sorted(folder.glob("media/*"))[:2], *sorted(folder.glob("inputs/*"))[:1]):
            inputs[f"{run}/{file.relative_to(folder)}"] = file.read_bytes()
    return inputs


class _Reader:
    def __init__(self, runs: dict[str, Path], place: Path, commands: tuple[Callable[[Path, Path, Path], object], ...]) -> None:
        self._runs, self._commands, self._place = runs, commands, place
        self._kept = {run: place / f"kept-{run}" for run in runs}
        for run, folder in runs.items():
            if not self._kept[run].exists():
                shutil.copytree(folder, self._kept[run])

    def read(self, name: str, content: bytes) -> None:
        run, _, file = name.partition("/")
        folder, choice = self._runs[run], zlib.crc32(content)
        out = self._place / "out"
        (folder / file).write_bytes(content)
        _video.cache_clear()
        try:
            if choice & 1 and file != "manifest.json":
                with contextlib.suppress(SuiteError):
                    seal(folder)
            self._commands[(choice >> 1) % len(self._commands)](folder, self._kept[run], out)
        finally:
            shutil.rmtree(out, ignore_errors=True)
            self._restore(folder, self._kept[run])

    def _restore(self, folder: Path, kept: Path) -> None:
        for path in folder.rglob("*"):
            if path.is_file() and not (kept / path.relative_to(folder)).exists():
                path.unlink()
        for path in kept.rglob("*"):
            if path.is_file() and path.suffix not in (".mkv", ".png"):
                target = folder / path.relative_to(kept)
                if not target.exists() or target.stat().st_mtime_ns != path.stat().st_mtime_ns:
                    shutil.copy2(path, target)
        for path in (*kept.glob("media/*"), *kept.glob("inputs/*")):
            target = folder / path.relative_to(kept)
            if not target.exists() or target.read_bytes() != path.read_bytes():
                shutil.copy2(path, target)


def _audit(run: Path, other: Path, out: Path) -> None:
    data = audit(other, run, "5%", [], True)
    print_audit(data)
    sentence(data)


def _audit_reference(run: Path, other: Path, out: Path) -> None:
    print_audit(audit(run, other, None, [], True))


def _compare(run: Path, other: Path, out: Path) -> None:
    print_comparison(compare([other, run], [], [], "auto", False, True))


def _sample_size(run: Path, other: Path, out: Path) -> None:
    planned = plan(run, "5%", 0.8, 0.05, None, None, [])
    print_plan(planned)
    plain(planned)


def _report(run: Path, other: Path, out: Path) -> None:
    finish(build_report(run))


def _brief(run: Path, other: Path, out: Path) -> None:
    build_report(run, brief=True)


def _bundle(run: Path, other: Path, out: Path) -> None:
    out.mkdir()
    write_bundle(run, out / "run.zip")
    modifications(run)
    folder = unpack(out / "run.zip", out / "again")
    before = report_bytes(folder)
    build_report(folder)
    print_difference(folder, before)


def _resume(run: Path, other: Path, out: Path) -> None:
    config = resumed_config(run).model_copy(update={"mode": "accuracy"})
    prepare_rest(run, config, [])


def _submit(run: Path, other: Path, out: Path) -> None:
    write_submission([run], "Example", "open", None, None, None, out, [])


def _page(run: Path, other: Path, out: Path) -> None:
    finish(write_report(run))


def _combined(run: Path, other: Path, out: Path) -> None:
    write_combined([run, other], out / "page.html")


def _audit_page(run: Path, other: Path, out: Path) -> None:
    write_audit(audit(other, run, "5%", [], True), out / "audit.html")


def _compare_page(run: Path, other: Path, out: Path) -> None:
    write_comparison(compare([other, run], [], [], "auto", False, True), out / "compare.html")


def _recompute(run: Path, other: Path, out: Path) -> None:
    recompute(run)


_COMMANDS = (_report, _report, _recompute, _audit, _audit_reference, _compare, _sample_size, _brief, _bundle, _resume, _submit)
_PAGES = (_page, _combined, _audit_page, _compare_page)
