"""VMAF (Netflix, 2016) of a candidate's video to the reference's, by an ffmpeg with libvmaf. 0 to 100, higher is closer.

The score is libvmaf's with its default model (vmaf_v0.6.1, for 1080p on a television), the mean over the frames. libvmaf crashes on frames
of 16 pixels, and its model was not trained on small ones: where the shorter side is under MIN_SIDE, both videos are enlarged bicubically
by the smallest whole factor that reaches it. Larger clips are not changed. Colours are converted to yuv420p. Frames are paired by their
number, whatever frame rate the files have.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple

import msgspec

from configs.decode import read_json
from configs.errors import ConfigError

MIN_SIDE = 192  # pixels
BATCH = 16  # pairs that one ffmpeg scores
BATCH_PIXELS = 2**27  # over all frames of a batch: larger videos share no ffmpeg
TIMEOUT_S = 1800.0  # of one ffmpeg
MAX_PROCESSES = 4
INSTALL = "pip install imageio-ffmpeg  (or: pip install 'triptych[closeness]')"

Pairs = Mapping[int, tuple[Path, Path]]


class _Frame(msgspec.Struct):
    metrics: dict[str, float]


class _Log(msgspec.Struct):
    """libvmaf's log of one pair."""

    frames: list[_Frame]
    version: str


class Scores(NamedTuple):
    """Scores and failures by sample. made_with: the version of libvmaf and whether clips were enlarged; None where nothing was scored."""

    values: dict[int, float]
    failed: dict[int, str]
    made_with: str | None


@cache
def find_ffmpeg() -> tuple[str | None, str]:
    """An ffmpeg with libvmaf: the one on PATH, else imageio-ffmpeg's; or None with the reason and what to install."""
    places = [("on PATH", shutil.which("ffmpeg"))]
    try:
        import imageio_ffmpeg

        places.append(("of imageio-ffmpeg", imageio_ffmpeg.get_ffmpeg_exe()))
    except (ImportError, RuntimeError):  # RuntimeError: the package has no program
        pass
    without = []
    for where, program in places:
        if program and _has_libvmaf(program):
            return program, ""
        without += [where] if program else []
    why = f"the ffmpeg {' and the one '.join(without)} has no libvmaf" if without else "no ffmpeg was found"
    return None, f"{why}; {INSTALL}"


def _has_libvmaf(program: str) -> bool:
    try:
        listed = subprocess.run([program, "-hide_banner", "-filters"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return " libvmaf " in listed.stdout


def vmaf(ffmpeg: str, pairs: Pairs, shapes: Mapping[int, Sequence[int]]) -> Scores:
    """Score (reference, candidate) files by sample. shapes: (frames, height, width, ..) of each pair."""
    batches: list[list[int]] = []
    room = 0
    for i in pairs:
        pixels = shapes[i][0] * shapes[i][1] * shapes[i][2] * enlarged(shapes[i]) ** 2
        if not batches or len(batches[-1]) == BATCH or pixels > room:
            batches.append([])
            room = BATCH_PIXELS
        batches[-1].append(i)
        room -= pixels
    found = Scores({}, {}, None)
    with ThreadPoolExecutor(min(MAX_PROCESSES, os.cpu_count() or 1)) as pool:
        for part in pool.map(lambda batch: _score(ffmpeg, {i: pairs[i] for i in batch}, shapes), batches):
            found = Scores(found.values | part.values, found.failed | part.failed, found.made_with or part.made_with)
    factors = sorted({enlarged(shapes[i]) for i in found.values} - {1})
    larger = f", clips enlarged {' and '.join(map(str, factors))} times" if factors else ""
    return found._replace(made_with=found.made_with and found.made_with + larger)


def enlarged(shape: Sequence[int]) -> int:
    """The whole factor by which a clip of that shape is enlarged."""
    return -(-MIN_SIDE // min(shape[1:3]))


def _score(ffmpeg: str, pairs: Pairs, shapes: Mapping[int, Sequence[int]]) -> Scores:
    """Score all pairs by one ffmpeg; where it fails, each half by one, until the pair at fault is alone."""
    with tempfile.TemporaryDirectory(prefix="vmaf-") as folder:
        wrong = _run(ffmpeg, pairs, shapes, Path(folder))
        if not wrong:
            return _read(Path(folder), pairs, shapes)
    if len(pairs) == 1:
        return Scores({}, dict.fromkeys(pairs, wrong), None)
    order = list(pairs)
    halves = [_score(ffmpeg, {i: pairs[i] for i in half}, shapes) for half in (order[: len(order) // 2], order[len(order) // 2 :])]
    one, two = halves
    return Scores(one.values | two.values, one.failed | two.failed, one.made_with or two.made_with)


def _run(ffmpeg: str, pairs: Pairs, shapes: Mapping[int, Sequence[int]], folder: Path) -> str:
    """Write <sample>.json of every pair into the folder; returns what went wrong, if anything. ffmpeg may only read local files."""
    inputs, graph, outputs = [], [], []
    for at, (i, files) in enumerate(pairs.items()):
        for file in reversed(files):  # libvmaf takes the candidate first
            inputs += ["-threads", "1", "-protocol_whitelist", "file", "-i", f"file:{file.resolve()}"]
        factor = enlarged(shapes[i])
        scale = f"scale=iw*{factor}:ih*{factor}:flags=bicubic," if factor > 1 else ""
        for side in (0, 1):
            graph.append(f"[{2 * at + side}:v]setpts=N/(25*TB),{scale}format=yuv420p[i{2 * at + side}]")
        graph.append(f"[i{2 * at}][i{2 * at + 1}]libvmaf=log_fmt=json:log_path={i}.json[o{at}]")
        outputs += ["-map", f"[o{at}]", "-fps_mode", "passthrough", "-f", "null", "-"]
    command = [ffmpeg, "-nostdin", "-hide_banner", "-loglevel", "error", *inputs]
    command += ["-filter_complex_threads", "1", "-filter_complex", ";".join(graph), *outputs]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"ffmpeg did not finish within {TIMEOUT_S:.0f} s"
    if done.returncode:
        errors = done.stderr.strip().splitlines()
        return f"ffmpeg failed with exit code {done.returncode}" + (f": {errors[0][:200]}" if errors else "")
    return ""


def _read(folder: Path, pairs: Pairs, shapes: Mapping[int, Sequence[int]]) -> Scores:
    values, failed, version = {}, {}, None
    for i in pairs:
        try:
            log = read_json(folder / f"{i}.json", _Log)
        except ConfigError as error:
            failed[i] = f"libvmaf's log: {error}"
            continue
        frames = [frame.metrics["vmaf"] for frame in log.frames if "vmaf" in frame.metrics]
        if len(frames) != shapes[i][0]:
            failed[i] = f"libvmaf scored {len(frames)} of {shapes[i][0]} frames"
            continue
        values[i], version = sum(frames) / len(frames), log.version
    return Scores(values, failed, f"libvmaf {version}, vmaf_v0.6.1" if version else None)
