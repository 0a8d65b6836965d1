"""How often the canaries `repeated_frames` and `upscaled` err: on honest videos, and on videos of fewer frames or pixels.

python benchmarks/audits/video_canaries.py [--short] [--images FOLDER ..]

Honest videos: the embedded world, the embedded model, the seven families of diffusers' pipelines with random weights, moving fields of
noise with the spectrum of photographs, text, and pans that turn and zoom over the images in FOLDER; the last three have 17 frames of
240 x 416, and some are judged after H.264 too, as servers send it. Fakes are made from the same videos. The last line is JSON.
"""

from __future__ import annotations

import io
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import beta

from benchmarks.outcome import Figure, arguments, conclude
from metrics.validity.video_canaries.repeated_frames import repeats_frames
from metrics.validity.video_canaries.upscaling import is_upscaled
from pipelines.diffusers.t2v import DiffusersT2V
from tests.metrics.validity.resampling_saboteurs import interpolate, repeat
from tests.pipelines.diffusers import tiny_families
from tests.pipelines.diffusers.conftest import options
from workloads.records import Query, Sample
from workloads.run_folder.media import read_mp4
from workloads.world.scenes import caption, render, sample_scene

Video = NDArray[np.uint8]
HEIGHT, WIDTH, NUM_FRAMES = 240, 416, 17
EMBEDDED: dict[str, Any] = {
    "num_frames": 9,
    "height": 48,
    "width": 48,
    "num_inference_steps": 8,
    "max_sequence_length": 64,
    "guidance_scale": 2.0,
}
IN_MOTION = "the world, in motion"  # videos of the world from which fakes are made
WAYS = {"nearest": cv2.INTER_NEAREST, "bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC, "Lanczos": cv2.INTER_LANCZOS4}
CANARIES: Mapping[str, Callable[[Video], bool]] = {"repeated_frames": repeats_frames, "upscaled": is_upscaled}


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--images", nargs="*", type=Path, default=[], metavar="FOLDER", help="folders of photographs to pan over")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    made = dict(_honest(given.short, given.images))
    honest = {name: _alarms(videos) for name, videos in made.items() if name != IN_MOTION}
    originals = (IN_MOTION, "the embedded model", "noise as in photographs", "photographs")
    sources = {name: made[name] for name in originals if name in made}
    kinds = list(_fakes())[:: 6 if given.short else 1]
    fakes = {f"{kind}: {name}": _alarms(map(fake, videos)) for name, videos in sources.items() for kind, fake in kinds}
    num_videos = sum(counts["n"] for counts in honest.values())
    bounds = {name: _at_most(sum(counts[name] for counts in honest.values()), num_videos) for name in CANARIES}
    goal = 0.3 if given.short else 0.01
    figures = {f"false alarms of {name}, at most": Figure(bound, "of videos", better="lower", goal=goal) for name, bound in bounds.items()}
    rows = [{"videos": name, **counts} for name, counts in (honest | fakes).items()]
    cost = None if given.short else _cost()
    conclude("video_canaries", figures, given, rows, num_honest=num_videos, honest=honest, fakes=fakes, seconds_480p=cost)


def _honest(short: bool, folders: Sequence[Path]) -> Iterator[tuple[str, list[Video]]]:
    rng = np.random.default_rng(0)
    clips = [render(sample_scene(rng, grade), rng) for grade in ("simple", "rich") for _ in range(8 if short else 2500)]
    yield "the world", clips
    yield IN_MOTION, [c for c in clips if int(np.abs(c[-1].astype(int) - c[0]).max()) > 30][:: 1 if short else 20]
    if not short:  # models take ten seconds to load
        yield "the embedded model", list(_embedded(128))
    for name in () if short else tiny_families.TEXT_TO_VIDEO:
        yield f"{name}, random weights", list(_family(name, 3))
    fields = [_field(rng, slope) for slope in np.linspace(1, 2, 1 if short else 40)]
    yield "noise as in photographs", fields
    yield "text", [_text(rng) for _ in range(1 if short else 20)]
    images = [image for folder in folders for path in sorted(folder.iterdir()) if (image := _read(path)) is not None]
    photographs = [_pan(image, rng) for image in images for _ in range(1 if short else 3)]
    if photographs:
        yield "photographs", photographs
        yield "photographs, very slow", [_pan(image, rng, speed=0.1) for image in images]
    rates = (23,) if short else (23, 30)
    for crf, (name, videos) in itertools.product(rates, (("noise as in photographs", fields), ("photographs", photographs))):
        if videos:
            yield f"{name}, H.264 at CRF {crf}", [_coded(video, crf) for video in videos]


def _fakes() -> Iterator[tuple[str, Callable[[Video], Video]]]:
    yield "each frame twice", lambda video: repeat(video, 2)
    yield "each frame four times", lambda video: repeat(video, 4)
    yield "each frame twice, H.264 at CRF 23", lambda video: _coded(repeat(video, 2), 23)
    yield "every second frame interpolated", interpolate
    yield "half of the frames, there and back", _there_and_back
    for factor, way in itertools.product((1.5, 2, 4), WAYS):
        yield f"enlarged x{factor}, {way}", lambda video, factor=factor, way=way: _enlarge(video, factor, way)  # type: ignore[misc]
    yield "enlarged x2 in width alone, bilinear", lambda video: _enlarge(video, 2, "bilinear", both=False)
    yield "mirror image as the right half", _mirrored
    yield "enlarged x2, bilinear, H.264 at CRF 23", lambda video: _coded(_enlarge(video, 2, "bilinear"), 23)


def _there_and_back(video_THWC: Video) -> Video:
    half = (len(video_THWC) + 1) // 2
    return np.concatenate([video_THWC[:half], video_THWC[: len(video_THWC) - half][::-1]])


def _alarms(videos: Any) -> dict[str, int]:
    counts = {"n": 0, **dict.fromkeys(CANARIES, 0)}
    for video in videos:
        counts["n"] += 1
        for name, triggers in CANARIES.items():
            counts[name] += triggers(video)
    return counts


def _embedded(count: int) -> Iterator[Video]:
    rng = np.random.default_rng(1)
    pipeline = DiffusersT2V(model="embedded", batch_size=4, **EMBEDDED)
    pipeline.load(torch.device("cpu"))
    for at in range(0, count, 4):
        samples = [Sample(i, caption(sample_scene(rng, "rich" if at % 8 else "simple"))) for i in range(4)]
        yield from _videos(pipeline, samples, [Query(i, i, int(rng.integers(2**31))) for i in range(4)])


def _family(name: str, seeds: int) -> Iterator[Video]:
    for seed, size in itertools.product(range(seeds), (1, 2)):
        with tempfile.TemporaryDirectory() as folder:
            torch.manual_seed(seed)
            tiny_families._BUILDERS[name]().save_pretrained(folder)
            given = options(name)
            given |= {side: given[side] * size for side in ("height", "width")}
            pipeline = DiffusersT2V(model=folder, **given)
            pipeline.load(torch.device("cpu"))
            for noise in range(2):
                yield from _videos(pipeline, [Sample(0, "a red disc moves to the left")], [Query(0, 0, noise)])


def _videos(pipeline: DiffusersT2V, samples: Sequence[Sample], queries: Sequence[Query]) -> Iterator[Video]:
    for response in pipeline.generate(samples, queries):
        assert response.video_THWC is not None
        yield response.video_THWC


def _field(rng: np.random.Generator, slope: float) -> Video:
    """Amplitude 1 / f^slope, moved by fractions of a pixel."""
    y, x = np.fft.fftfreq(HEIGHT + 64)[:, None], np.fft.fftfreq(WIDTH + 64)[None]
    waves = np.exp(2j * np.pi * rng.random((3, HEIGHT + 64, WIDTH + 64))) / np.maximum(np.hypot(y, x), 1 / WIDTH) ** slope
    move = rng.uniform(-2, 2, 2)
    frames = [np.fft.ifft2(waves * np.exp(2j * np.pi * t * (move[0] * x + move[1] * y))).real for t in range(NUM_FRAMES)]
    video = np.stack(frames)[..., :HEIGHT, :WIDTH].transpose(0, 2, 3, 1)
    return np.asarray(np.clip(np.rint(128 + 45 * video / video.std()), 0, 255), np.uint8)


def _text(rng: np.random.Generator) -> Video:
    page = np.full((2 * HEIGHT, 2 * WIDTH, 3), int(rng.integers(180, 255)), np.uint8)
    for baseline in range(16, len(page), 22):
        words = "".join(chr(c) for c in rng.integers(97, 123, WIDTH // 5))
        cv2.putText(page, words, (4, baseline), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (40, 20, 60), 1, cv2.LINE_AA)
    return _warped(page, np.stack([np.eye(2)] * NUM_FRAMES), rng.uniform(0.3, 2.5, 2), cv2.INTER_LINEAR)


def _pan(image: Video, rng: np.random.Generator, speed: float = 2.0) -> Video:
    """A pan over the reduced image, which turns and zooms a little."""
    height, width = image.shape[:2]
    zoom = min(height / HEIGHT, width / WIDTH) * rng.uniform(0.55, 0.9)
    sharp = cv2.GaussianBlur(image, (0, 0), zoom * 0.4) if zoom > 1.2 else image
    angles = np.deg2rad(rng.uniform(-2, 2) * speed) * np.linspace(0, 1, NUM_FRAMES)
    zooms = zoom * np.linspace(1, 1 + rng.uniform(-0.02, 0.02) * speed, NUM_FRAMES)
    turns = np.stack([z * np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for a, z in zip(angles, zooms, strict=True)])
    return _warped(sharp, turns, rng.uniform(-1, 1, 2) * speed * zoom, cv2.INTER_CUBIC)


def _warped(image: Video, turns_T22: NDArray[np.float64], move: NDArray[np.float64], how: int) -> Video:
    """The middle of the image under the turns, moved on by `move` pixels of it a frame."""
    middle = np.array(image.shape[1::-1]) / 2
    frames = []
    for t, turn in enumerate(turns_T22):
        start = middle - turn @ np.array([WIDTH / 2, HEIGHT / 2]) + move * (t - NUM_FRAMES / 2)
        matrix = np.hstack([turn, start[:, None]]).astype(np.float32)
        frames.append(cv2.warpAffine(image, matrix, (WIDTH, HEIGHT), flags=how | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT))
    return np.asarray(np.stack(frames), np.uint8)


def _read(path: Path) -> Video | None:
    image = cv2.imread(str(path))
    return None if image is None or min(image.shape[:2]) < 200 else np.ascontiguousarray(image[..., ::-1], np.uint8)


def _mirrored(video_THWC: Video) -> Video:
    half = video_THWC[:, :, : video_THWC.shape[2] // 2]
    return np.concatenate([half, half[:, :, ::-1]], axis=2)


def _enlarge(video_THWC: Video, factor: float, way: str, both: bool = True) -> Video:
    height, width = video_THWC.shape[1:3]
    size = (round(width / factor), round(height / factor) if both else height)
    small = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in video_THWC]
    return np.asarray(np.stack([cv2.resize(frame, (width, height), interpolation=WAYS[way]) for frame in small]), np.uint8)


def _coded(video_THWC: Video, crf: int) -> Video:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as written:
        stream = written.add_stream("libx264", rate=Fraction(16), options={"crf": str(crf), "preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = *video_THWC.shape[1:3], "yuv420p"
        for frame in video_THWC:
            written.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        written.mux(stream.encode())
    return read_mp4(file.getvalue())[0]


def _cost() -> dict[str, float]:
    """CPU seconds of each canary on 81 frames of 480 x 832."""
    video = np.tile(_field(np.random.default_rng(0), 1.2), (5, 2, 2, 1))[:81]
    found = {}
    for name, triggers in CANARIES.items():
        began = time.process_time()
        triggers(video)
        found[name] = round(time.process_time() - began, 2)
    return found


def _at_most(count: int, total: int) -> float:
    """Upper limit of a rate at 95 % confidence (Clopper and Pearson, one-sided)."""
    return round(float(beta.ppf(0.95, count + 1, total - count)), 5)


if __name__ == "__main__":
    main()
