"""Videos, messages between processes, a doctor's examination, results of other programs, submissions."""

from __future__ import annotations

import contextlib
import json
import socket
from pathlib import Path
from unittest import mock

import msgspec
import numpy as np

from configs.errors import RunError
from metrics.base import _video
from metrics.mlperf.submission.check import check
from pipelines.doctor.examination import Collective, Examination, Link, RankFacts, Topology, newest_fitting
from pipelines.doctor.topology import PROGRAMS, topology
from pipelines.launcher import messages
from tests.fuzz.fuzzing import Target
from tests.metrics.mlperf.submission.conftest import make_runs, make_submission
from workloads.run_folder.claim import check_unclaimed
from workloads.run_folder.media import content_digest, mp4_of, read_mp4, read_video, video_form, write_video

MESSAGES = {
    "hello.msgpack": messages.Hello(0, "host"),
    "ready.msgpack": messages.Ready(0, 4, 0.1, "cpu", {"dtype": "float32"}, ["x"], inspection={"weights": {"a": {"float32": 5}}}),
    "done.msgpack": messages.Done(0, [messages.Result(1, "done", {"x": 0.1}, [0.1], 5, worked=(0.0, 1.0), text="a")]),
    "bye.msgpack": messages.Bye(0, {"host": 5}),
}
TOPOLOGIES = {
    "amd-smi.json": '[{"gpu": 0, "links": [{"gpu": 1, "link_type": "XGMI", "num_hops": 1}]}, {"gpu": 1, "links": []}]',
    "rocm-smi.json": '{"system": {"(Topology) Link type between DRM devices 0 and 1": "XGMI", '
    '"(Topology) Hops between DRM devices 0 and 1": "1"}}',
    "nvidia-smi.txt": "     GPU0 GPU1 NIC0 CPU Affinity\nGPU0  X   NV18  PIX  0-15\nGPU1 NV18  X    SYS 0-15\nNIC0 PIX SYS X\n",
}


def targets(place: Path) -> list[Target]:
    video = place / "one.mkv"
    write_video(video, np.arange(3 * 16 * 16 * 3, dtype=np.uint8).reshape(3, 16, 16, 3), 8.0)
    videos = {"one.mkv": video.read_bytes(), "one.mp4": mp4_of(np.zeros((3, 16, 16, 3), np.uint8), 8.0)}
    packed = {name: messages.encode(message) for name, message in MESSAGES.items()}
    claim = json.dumps({"pid": 1, "host": socket.gethostname(), "started": "5"}).encode()
    (place / "claimed").mkdir()

    def read_claim(name: str, content: bytes) -> None:
        (place / "claimed" / name).write_bytes(content)
        with mock.patch("workloads.run_folder.claim.WRITTEN_S", 0.0):
            check_unclaimed(place / "claimed")

    def read_examination(name: str, content: bytes) -> None:
        (place / name).write_bytes(content)
        newest_fitting([place])

    topologies = {name: text.encode() for name, text in TOPOLOGIES.items()}
    return [
        Target("video", videos, lambda name, content: _read_video(place / f"x-{name}", content), 20),
        Target("message", packed, _read_message, 40),
        Target("topology", topologies, _read_topology, 4),
        Target("examination", {"doctor.json": msgspec.json.encode(_examination())}, read_examination, 6),
        Target("claim", {".claim": claim}, read_claim, 4),
        _submission(place / "submissions"),
    ]


def _read_video(file: Path, content: bytes) -> None:
    """Readers of videos say by ValueError that a file is none."""
    file.write_bytes(content)
    _video.cache_clear()
    for read in (lambda: read_video(file), lambda: content_digest(file), lambda: video_form(file), lambda: read_mp4(content)):
        with contextlib.suppress(ValueError):
            read()


def _read_message(name: str, content: bytes) -> None:
    with contextlib.suppress(RunError):
        messages.decode_for_heartbeat(content)
    messages.decode_from_worker(content)


def _read_topology(name: str, content: bytes) -> None:
    parse = next(parse for command, parse in PROGRAMS if command[0] == name.rpartition(".")[0])
    with (
        mock.patch("subprocess.run", return_value=mock.Mock(stdout=content.decode(errors="replace"))),
        mock.patch("shutil.which", return_value="/bin/true"),
        mock.patch("pipelines.doctor.topology.PROGRAMS", [(["true"], parse)]),
    ):
        topology()


def _examination() -> Examination:
    links = Topology("amd-smi", [Link((0, 1), "XGMI", 1)])
    facts = RankFacts(0, 0, socket.gethostname(), "cpu", "chip", versions={"torch": "2"}, environment={"A": "/b"}, topology=links)
    return Examination("2026-01-01T00:00:00Z", "gloo", 1, [facts], [Collective("all", "all_reduce", [0], 0.1, 1.0, True)])


def _submission(place: Path) -> Target:
    """A submission of two runs, of which one file is damaged, checked as `submit --check` does."""
    place.mkdir()
    with mock.patch("metrics.validity.verdict.reasons", return_value=[]):  # runs made by hand are not VALID
        runs = make_runs(place)
        root = make_submission(runs, place)
    files = [f for f in (*root.rglob("*"), *runs[0].rglob("*")) if f.is_file() and f.suffix in (".json", ".txt", ".jsonl", ".conf")]
    inputs = {str(file.relative_to(place)): file.read_bytes() for file in files if 0 < file.stat().st_size < 50_000}

    def read(name: str, content: bytes) -> None:
        (place / name).write_bytes(content)
        try:
            check(root)
        finally:
            (place / name).write_bytes(inputs[name])

    return Target("submission", inputs, read, 3)
