"""Videos of fewer frames or pixels than they have are found by name; slow, still, smooth, flat and lossy ones are not."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suite as command
from metrics.base import Run
from metrics.report.html import page
from metrics.validity.canaries import scan
from metrics.validity.video_canaries import check_video
from metrics.validity.video_canaries.repeated_frames import repeats_frames
from metrics.validity.video_canaries.upscaling import is_upscaled, remaining_error
from tests.metrics.validity.resampling_saboteurs import Video, Way, enlarge, interpolate, repeat
from workloads.run_folder.media import read_mp4
from workloads.world.scenes import Group, Scene, render, sample_scene

MakeRun = Callable[..., Run]
PLUGIN = str(Path(__file__).with_name("resampling_saboteurs.py"))


def texture(num_frames: int = 17, height: int = 144, width: int = 160, speed: float = 1.7, slope: float = 1.3, seed: int = 0) -> Video:
    """A field of noise with a spectrum as photographs have (amplitude 1 / f^slope), which moves by fractions of a pixel."""
    rng = np.random.default_rng(seed)
    y, x = np.fft.fftfreq(height + 64)[:, None], np.fft.fftfreq(width + 64)[None]
    waves = np.exp(2j * np.pi * rng.random((3, height + 64, width + 64))) / np.maximum(np.hypot(y, x), 1 / width) ** slope
    frames = [np.fft.ifft2(waves * np.exp(2j * np.pi * speed * t * (x + 0.4 * y))).real[:, :height, :width] for t in range(num_frames)]
    video = np.stack(frames).transpose(0, 2, 3, 1)
    return np.asarray(np.clip(np.rint(128 + 45 * video / video.std()), 0, 255), np.uint8)


def coded(video_THWC: Video, crf: int) -> Video:
    """The video after H.264 with colours at half the size, as servers send it."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as written:
        stream = written.add_stream("libx264", rate=16, options={"crf": str(crf), "preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = *video_THWC.shape[1:3], "yuv420p"
        for frame in video_THWC:
            written.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        written.mux(stream.encode())
    return read_mp4(file.getvalue())[0]


@pytest.fixture(scope="module")
def moving() -> Video:
    return texture()


def squares(step: float, num_frames: int = 17, whole: bool = True) -> Video:
    """A square on a flat ground that moves by `step` pixels a frame, drawn at whole pixels."""
    video = np.full((num_frames, 64, 64, 3), 40, np.uint8)
    for t, frame in enumerate(video):
        at = 8 + int(step * t)
        frame[20:38, at : at + 18] = (200, 90, 30)
    return video


def randomly_repeated(video_THWC: Video) -> Video:
    keep = [0, 1, 1, 3, 4, 4, 4, 7, 8, 8, 10, 10, 12, 13, 13, 13, 16]
    return video_THWC[keep]


def with_noise(video_THWC: Video) -> Video:
    rng = np.random.default_rng(1)
    return np.asarray(np.clip(video_THWC + rng.integers(-2, 3, video_THWC.shape), 0, 255), np.uint8)


FAKES: dict[str, Callable[[Video], Video]] = {
    "doubled": lambda v: repeat(v, 2),
    "in threes": lambda v: repeat(v, 3),
    "in eights": lambda v: repeat(v, 8),
    "doubled, with noise": lambda v: with_noise(repeat(v, 2)),
    "doubled, coded": lambda v: coded(repeat(v, 2), 23),
    "interpolated": interpolate,
    "repeated at random": randomly_repeated,
    "there and back": lambda v: np.concatenate([v[:9], v[:8][::-1]]),
    "a loop": lambda v: np.concatenate([v[:9], v[:8]]),
}


@pytest.mark.parametrize("fake", FAKES)
def test_repeated_frames_are_found(moving: Video, fake: str) -> None:
    assert check_video(FAKES[fake](moving)) == ["repeated_frames"]


@pytest.mark.parametrize("speed", [0.05, 0.3, 1.0, 4.0])
def test_honest_motion_repeats_nothing(speed: float) -> None:
    video = texture(speed=speed)
    assert check_video(video) == []
    assert not repeats_frames(coded(video, 30))


def test_pauses_ends_cuts_and_fades_are_no_repeated_frames(moving: Video) -> None:
    still = moving[8:9]
    assert not repeats_frames(np.concatenate([moving[:9], *[still] * 8]))  # the camera stops
    assert not repeats_frames(np.concatenate([moving[:7], *[moving[6:7]] * 3, moving[7:14]]))  # and goes on
    assert not repeats_frames(np.concatenate([*[still] * 8, texture(1, seed=1), *[still[:, ::-1]] * 8]))  # two cuts between stills
    assert not repeats_frames(np.concatenate([moving[:8], np.zeros_like(moving[:9])]))
    weights = np.linspace(1, 0, 17)[:, None, None, None]
    assert not repeats_frames(np.rint(moving[0] * weights).astype(np.uint8))  # each frame is the mean of its neighbours


def test_few_frames_are_not_judged(moving: Video) -> None:
    assert repeats_frames(repeat(moving[:9], 2))
    assert not repeats_frames(repeat(moving[:8], 2))


def test_slow_motion_that_is_drawn_at_whole_pixels_repeats_nothing() -> None:
    assert not repeats_frames(squares(0.5))
    assert not repeats_frames(squares(0.25))
    assert repeats_frames(repeat(squares(1.5), 2))


def test_repeated_frames_of_the_world_are_found() -> None:
    rng = np.random.default_rng(0)
    for direction, speed in itertools.product(("left", "down"), ("slow", "fast")):
        clip = render(Scene((Group("red", "ring", direction, speed),)), rng)
        assert check_video(repeat(clip, 2)) == ["repeated_frames"]
        assert check_video(interpolate(clip)) == ["repeated_frames"]


@pytest.mark.parametrize(
    ("factor", "way"), [*itertools.product((2, 3, 4), ("nearest", "linear")), (1.5, "linear"), (2, "cubic"), (1.5, "cubic")]
)
def test_enlarged_frames_are_found(moving: Video, factor: float, way: Way) -> None:
    assert check_video(enlarge(moving[:9], factor, way)) == ["upscaled"]


def test_the_step_from_480p_to_720p_is_found() -> None:
    import cv2

    small = texture(3, 480, 832, slope=1.0)
    assert not is_upscaled(small)
    assert is_upscaled(np.stack([cv2.resize(frame, (1280, 720), interpolation=cv2.INTER_LINEAR) for frame in small]))


def test_what_is_added_after_enlarging_does_not_hide_it(moving: Video) -> None:
    import cv2

    large = enlarge(texture(9, slope=1.0), 2, "linear")
    sharp = np.stack([cv2.addWeighted(frame, 1.8, cv2.GaussianBlur(frame, (0, 0), 1.0), -0.8, 0) for frame in large])
    assert is_upscaled(sharp)
    assert is_upscaled(np.asarray(np.clip(large + np.random.default_rng(0).integers(-1, 2, large.shape), 0, 255), np.uint8))


def test_one_direction_alone_is_found(moving: Video) -> None:
    import cv2

    height, width = moving.shape[1:3]
    for size in ((width // 2, height), (width, height // 2)):
        small = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in moving[:9]]
        large = np.stack([cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR) for frame in small])
        assert check_video(np.asarray(large, np.uint8)) == ["upscaled"]


def test_halves_that_are_copies_or_mirror_images_are_found(moving: Video) -> None:
    left, upper = moving[:9, :, :80], moving[:9, :72]
    assert check_video(np.concatenate([left, left[:, :, ::-1]], axis=2)) == ["upscaled"]
    assert check_video(np.concatenate([left, with_noise(left)], axis=2)) == ["upscaled"]
    assert check_video(np.concatenate([upper, upper], axis=1)) == ["upscaled"]
    flicker = np.asarray(np.clip(np.arange(9)[:, None, None, None] * 9 + with_noise(squares(0, 9)), 0, 255), np.uint8)
    assert not is_upscaled(flicker)  # all of it changes alike


@pytest.mark.parametrize("crf", [18, 30])
def test_coded_videos_are_not_upscaled(moving: Video, crf: int) -> None:
    assert not is_upscaled(coded(moving[:9], crf))


def test_smooth_flat_still_and_short_videos_are_not_upscaled(moving: Video) -> None:
    t, y, x = np.mgrid[:9, :64, :64] / 64
    waves = np.asarray(np.rint(127 + 60 * np.sin(4 * (x + y) + 9 * t))[..., None].repeat(3, -1), np.uint8)
    assert remaining_error(waves) == pytest.approx(1.0, abs=0.02)  # only rounding is left, by either predictor
    board = np.asarray(np.kron(np.indices((8, 8)).sum(0) % 2, np.ones((8, 8)))[None, :, :, None] * np.ones((9, 1, 1, 3)) * 90, np.uint8)
    assert remaining_error(board) is None
    assert remaining_error(squares(2.0)) is None
    assert remaining_error(enlarge(moving[:2], 2, "nearest")) is None
    assert remaining_error(enlarge(moving[:9, :24], 2, "nearest")) is None
    assert remaining_error(moving[:9]) == pytest.approx(1.0, abs=0.02)


def test_shapes_over_a_pattern_are_not_upscaled() -> None:
    rng = np.random.default_rng(7)
    for _ in range(150):
        assert not is_upscaled(render(sample_scene(rng, "rich"), rng))


def test_one_video_turned_for_each_prompt_is_identical(make_run: MakeRun) -> None:
    clip = texture(9, 48, 48)
    turns = [clip, clip[:, :, ::-1], clip[:, ::-1], clip[::-1], clip[::-1, ::-1, ::-1]]
    assert scan(make_run(turns)) == {f"query {i}": ["identical"] for i in range(5)}
    assert scan(make_run([texture(9, 48, 48, seed=i) for i in range(5)])) == {}


@pytest.mark.parametrize(
    ("name", "options", "canaries"),
    [
        ("repeats_frames", {}, {"repeated_frames"}),
        ("interpolates_frames", {}, {"repeated_frames"}),
        ("upscales_frames", {"way": "nearest", "factor": 4}, {"upscaled"}),
        ("upscales_frames", {"sabotage": False}, set()),
    ],
)
def test_a_pipeline_of_fewer_frames_or_pixels_is_caught_by_name(
    name: str, options: dict[str, Any], canaries: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(page, "write_html", lambda report: None)
    settings = ["load.min_duration_s=0.1", "load.min_query_count=8", "report_videos=0", "metrics=[throughput]", "dataset.num_prompts=8"]
    settings += ["truth.replays=0", "mode=accuracy", f"pipeline={json.dumps({'name': name, **options})}"]
    words = [word for setting in settings for word in ("--set", setting)]
    command.app(["--config", "t2v/toy", "--plugin", PLUGIN, *words, "--output", "run"], standalone_mode=False)
    report = json.loads((tmp_path / "run/report.json").read_text(encoding="utf-8"))
    assert set(report["alarms"]) == canaries
    assert report["verdict"] == ("INVALID" if canaries else "VALID")
    assert [reason.split(":")[0] for reason in report["reasons"]] == [f"canary {canary!r}" for canary in canaries]
