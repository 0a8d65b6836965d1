"""Video files: written losslessly in the background, read back for scoring, and recoded for a browser."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import queue
import re
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from workloads.run_folder.record_log import DISK_FULL

MAX_WAITING = 64  # videos held in memory before `put` waits for the disk
MISSING = 1.5  # frames at the end of a whole video that its header may count and its packets not
MICROSECONDS = 1e6  # PyAV's unit of a container's duration
SMALL = 128 * 128  # pixels: starting threads takes longer than to decode smaller frames
MAX_DENOMINATOR = 65535  # of a rate in frames a second: the largest that MPEG-4 can hold
BROWSER_QUALITY = {
    "deadline": "realtime",
    "cpu-used": "5",
    "crf": "20",
    "b": "0",
}  # a quarter of the default's time, twice as large
BROWSER_MOST = 480  # pixels: of a larger video a page shows this many along the longer side
BROWSER_SIZE = 192  # pixels: smaller videos are enlarged by a whole factor, without smoothing


class MediaWriter:
    """Writes videos in a thread of its own, so that no query waits for a file. opens_codecs: now, which takes up to 1 s."""

    def __init__(self, folder: Path, opens_codecs: bool = True) -> None:
        self._folder = folder
        self._queue: queue.Queue[tuple[str, NDArray[np.uint8], float] | threading.Event | None] = queue.Queue(MAX_WAITING)
        self._waiting: set[str] = set()  # videos that were put and are not on disk yet
        self._failed: dict[str, str] = {}
        self.disk_full: str | None = None  # why nothing more is written
        if opens_codecs:
            _encode(np.zeros((2, 16, 16, 3), np.uint8), 1.0)  # imports and opens codecs now, not beside the first query
        self._thread = threading.Thread(target=self._work, daemon=True, name="media")
        self._thread.start()

    def put(self, name: str, video_THWC: NDArray[np.uint8], fps: float) -> None:
        self._waiting.add(name)
        self._queue.put((name, video_THWC, fps))

    def drain(self) -> None:
        """Wait until every video that was put is on disk."""
        reached = threading.Event()
        self._queue.put(reached)
        reached.wait()

    def finish(self, timeout_s: float | None = None) -> str | None:
        """Wait until everything is on disk, at most `timeout_s`; returns the first error, if any."""
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=timeout_s)
        self._thread.join(timeout_s)
        return next(iter(self._failed.values()), None)

    @property
    def unwritten(self) -> dict[str, str]:
        """Why each video that was put is not on disk, by its name."""
        return {name: f"{name} was not written before its rank ended" for name in self._waiting.copy()} | self._failed

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
                continue
            name, video_THWC, fps = item
            try:
                if self.disk_full:
                    self._failed[name] = f"{name} was not written: {self.disk_full}"
                    continue
                write_video(self._folder / name, video_THWC, fps)
            except Exception as error:
                cause = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                self._failed[name] = f"{name} could not be written: {cause}"
                if isinstance(error, OSError) and error.errno in DISK_FULL:
                    self.disk_full = self._failed[name]
            finally:
                self._waiting.discard(name)


def write_video(path: Path, video_THWC: NDArray[np.uint8], fps: float) -> None:
    """Write lossless FFV1 in Matroska, the whole file or nothing: an incomplete file never has the final name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    try:
        partial.write_bytes(_encode(video_THWC, fps))
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    partial.replace(path)


def _encode(video_THWC: NDArray[np.uint8], fps: float) -> bytes:
    return encode(video_THWC, fps, "matroska", "ffv1", "bgr0", {})


def mp4_of(video_THWC: NDArray[np.uint8], fps: float) -> bytes:
    """An MP4 file without loss: H.264 of RGB frames, which every FFmpeg reads, and no browser."""
    return encode(video_THWC, fps, "mp4", "libx264rgb", "rgb24", {"qp": "0", "preset": "ultrafast"})


def encode(video_THWC: NDArray[np.uint8], fps: float, container: str, codec: str, pixels: str, options: dict[str, str]) -> bytes:
    """The content of a video file. pixels, options: FFmpeg's names of the pixel format, and of what the codec is given."""
    import av

    content = io.BytesIO()
    with av.open(content, "w", format=container) as file:
        stream: Any = file.add_stream(codec, rate=Fraction(fps).limit_denominator(MAX_DENOMINATOR), options=options)
        stream.height, stream.width, stream.pix_fmt = *video_THWC.shape[1:3], pixels
        if stream.width * stream.height < SMALL:
            stream.thread_count = 1
        for frame in video_THWC:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    return content.getvalue()


def read_mp4(content: bytes) -> tuple[NDArray[np.uint8], float]:
    """video_THWC, and its frames a second, of a file that was received. Raises ValueError where it is no video, or cut off."""
    import av

    try:
        with av.open(io.BytesIO(content), "r") as container:
            stream = container.streams.video[0]
            frames, cut_off = _decode(container, stream)
            fps = float(stream.average_rate or 0)
    except Exception as error:  # PyAV raises a class for each cause
        raise ValueError(f"{len(content)} bytes are not a readable video: {error}") from None
    if cut_off:
        raise ValueError(f"{len(content)} bytes are not a whole video: {cut_off}")
    if not frames or fps <= 0:
        raise ValueError(f"{len(content)} bytes have no frames")
    return np.stack(frames), fps


def read_video(path: Path) -> NDArray[np.uint8]:
    """video_THWC, uint8. Raises ValueError, naming the file, if it is missing, incomplete or not a video."""
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "SLICE"
            if stream.width * stream.height < SMALL:
                stream.thread_count = 1
            frames, cut_off = _decode(container, stream)
            video: NDArray[np.uint8] | None = np.stack(frames) if frames else None
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except Exception as error:  # PyAV raises a class for each cause
        raise ValueError(f"{path} is not a readable video: {error}") from None
    if cut_off:
        raise ValueError(f"{path} is not a whole video: {cut_off}")
    if video is None:
        raise ValueError(f"{path} has no frames")
    return video


def _decode(container: Any, stream: Any) -> tuple[list[NDArray[np.uint8]], str | None]:
    """The frames, THW of RGB, and why they are not all that the file had; None where they are.

    FFmpeg decodes a file that was cut off as far as it goes, and reports no error: Matroska and MP4 with its index first then end
    before the duration that their header declares, and others end in a packet or frame that is marked as damaged.
    """
    frames: list[NDArray[np.uint8]] = []
    damaged, begin, end = 0, math.inf, -math.inf
    for packet in container.demux(stream):
        if packet.size:
            damaged += packet.is_corrupt
            if packet.pts is not None:
                begin, end = min(begin, packet.pts), max(end, packet.pts + (packet.duration or 0))
        for frame in packet.decode():
            damaged += frame.is_corrupt
            frames.append(frame.to_ndarray(format="rgb24"))
    if damaged:
        return frames, f"{damaged} of its packets or frames are damaged, after {len(frames)} frames"
    declared_s, frame_s = _declared_s(container, stream), float(1 / (stream.average_rate or 1))
    lasts_s = float((end - begin) * stream.time_base) if frames and end > begin else 0.0
    if declared_s is not None and lasts_s < declared_s - MISSING * frame_s:
        return frames, f"its header declares {declared_s:.3g} s, and its {len(frames)} frames last {lasts_s:.3g} s"
    return frames, None


def _declared_s(container: Any, stream: Any) -> float | None:
    """The duration of the video stream by the container's header; None where it has none of its own."""
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if tag := re.fullmatch(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", "")):  # FFmpeg's, in Matroska
        hours, minutes, seconds = (float(part) for part in tag.groups())
        return 3600 * hours + 60 * minutes + seconds
    return container.duration / MICROSECONDS if container.duration is not None and len(container.streams) == 1 else None


def content_digest(path: Path) -> str:
    """SHA-256 of what is encoded, first 16 hex digits: equal in files of equal videos, without decoding one.

    Files themselves have numbers drawn at random. Raises ValueError, naming the file, as `read_video` does.
    """
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            form = (stream.codec_context.name, stream.width, stream.height, str(stream.average_rate), _declared_s(container, stream))
            digest = hashlib.sha256(str(form).encode())
            digest.update(stream.codec_context.extradata or b"")
            for packet in container.demux(stream):
                digest.update(bytes(packet))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except Exception as error:  # PyAV raises a class for each cause
        raise ValueError(f"{path} is not a readable video: {error}") from None
    return digest.hexdigest()[:16]


class Form(NamedTuple):
    """Form of a video file. fps: frames a second, from the container."""

    num_frames: int
    height: int
    width: int
    fps: float


def video_form(path: Path) -> Form:
    """Read the form from the container, without decoding a frame. Raises ValueError, naming the file, as `read_video` does."""
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            num_frames = sum(packet.size > 0 for packet in container.demux(stream))
            return Form(num_frames, stream.height, stream.width, float(stream.average_rate or 0))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except Exception as error:  # PyAV raises a class for each cause
        raise ValueError(f"{path} is not a readable video: {error}") from None


def browser_video(video_THWC: NDArray[np.uint8], fps: float) -> bytes:
    """Encode a WebM (VP9) that every current browser plays; small videos are enlarged, and large ones made smaller."""
    longest = max(video_THWC.shape[1:3])
    if longest > BROWSER_MOST:
        large = _smaller(video_THWC, BROWSER_MOST / longest)
    else:
        factor = max(1, round(BROWSER_SIZE / longest))
        large = video_THWC.repeat(factor, axis=1).repeat(factor, axis=2)
    large = np.ascontiguousarray(large[:, : large.shape[1] // 2 * 2, : large.shape[2] // 2 * 2])
    return encode(large, fps, "webm", "libvpx-vp9", "yuv420p", BROWSER_QUALITY)


def _smaller(video_THWC: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    import cv2

    size = round(video_THWC.shape[2] * factor), round(video_THWC.shape[1] * factor)
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in video_THWC]).astype(np.uint8, copy=False)


def png_of(image_HWC: NDArray[np.uint8]) -> bytes:
    """The content of a PNG file."""
    import imageio.v3 as iio

    content: bytes = iio.imwrite("<bytes>", image_HWC, extension=".png")
    return content
