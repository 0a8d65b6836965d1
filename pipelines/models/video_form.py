"""Form of a video in memory: numpy, uint8, frames x height x width x 3; and what differs from the requested form."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

CHANNELS = 3
MIN_FPS, MAX_FPS = 0.01, 1000.0  # what containers hold
FORM = ("num_frames", "height", "width", "fps")  # options of pipelines that say what a video is to be
SAME_FPS = 0.01  # relative: containers hold frame rates as fractions


def requested_form(options: Mapping[str, Any]) -> dict[str, float]:
    """The options of a pipeline that say what its videos are to be, those under `extra` included; what is not set is left out."""
    extra = options.get("extra")
    given = {**(extra if isinstance(extra, Mapping) else {})}
    if size := re.fullmatch(r"(\d+)x(\d+)", str(given.get("size", ""))):  # as servers of videos take it
        given |= {"width": int(size[1]), "height": int(size[2])}
    given |= {name: options[name] for name in FORM if options.get(name) is not None}
    return {name: given[name] for name in FORM if isinstance(given.get(name), int | float) and not isinstance(given[name], bool)}


def size_difference(requested: Mapping[str, float], shape: Sequence[int], fps: float) -> str | None:
    """`17 frames, 480 high, 832 wide requested, ...`: where the video differs from what was requested; None where it does not.

    shape: of the video, THWC.
    """
    came: dict[str, float] = dict(zip(FORM, (*shape[:3], fps), strict=True))
    if all(is_same(name, value, came[name]) for name, value in requested.items()):
        return None
    return f"{form_text(requested)} was requested, and the video has {form_text(came)}"


def is_same(name: str, requested: float, came: float) -> bool:
    return abs(came - requested) <= SAME_FPS * requested if name == "fps" else came == requested


def form_text(form: Mapping[str, float]) -> str:
    """`9 frames of 96 x 54 at 8 fps`, of what is given; width before height, as sizes are written."""
    parts = [f"{form['num_frames']:g} frames"] if "num_frames" in form else []
    if "width" in form and "height" in form:
        parts.append(f"{'of ' if parts else ''}{form['width']:g} x {form['height']:g}")
    else:
        parts += [f"{name} {form[name]:g}" for name in ("width", "height") if name in form]
    parts += [f"{'at ' if parts else ''}{form['fps']:g} fps"] if "fps" in form else []
    return " ".join(parts)


def check_video(video: object) -> None:
    """Raises ValueError, with the fix, where it is not uint8 of frames x height x width x 3."""
    if not isinstance(video, np.ndarray):
        fix = {"Tensor": "call .cpu().numpy()", "list": "np.stack its frames"}.get(type(video).__name__, "give an array")
        raise ValueError(f"video_THWC is a {type(video).__name__}, not a numpy array; {fix}")
    shape = video.shape
    if video.size == 0:
        raise ValueError(f"video_THWC has no pixels: its shape is {shape}; give at least one frame")
    if video.dtype != np.uint8:
        _refuse_dtype(video)
    if video.ndim != 4:
        fix = "give each video of a batch its own Response" if video.ndim == 5 else "give frames x height x width x 3"
        raise ValueError(f"video_THWC has {video.ndim} dimensions, {shape}, not 4; {fix}")
    if shape[3] != CHANNELS:
        fix = {1: "np.repeat its channel three times", 4: "leave out its alpha channel: video[..., :3]"}.get(shape[3], "transpose it")
        if shape[1] == CHANNELS:
            fix = "its channels come second: transpose(0, 2, 3, 1)"
        elif shape[0] == CHANNELS:
            fix = "its channels come first: transpose(1, 2, 3, 0)"
        raise ValueError(f"video_THWC is {shape}, not frames x height x width x 3; {fix}")


def check_fps(fps: Any) -> float:
    """Raises ValueError where it is no frame rate."""
    if isinstance(fps, bool) or not isinstance(fps, int | float | np.integer | np.floating):
        raise ValueError(f"fps is a {type(fps).__name__}; give the video's frame rate as a float")
    if not MIN_FPS <= fps <= MAX_FPS:  # NaN is neither
        raise ValueError(f"fps is {float(fps):g}; give the video's frame rate, from {MIN_FPS:g} to {MAX_FPS:g}")
    return float(fps)


def _refuse_dtype(video: np.ndarray[Any, Any]) -> None:
    """Raises ValueError. Only here are the pixels looked at."""
    if video.dtype.kind != "f":
        raise ValueError(f"video_THWC is {video.dtype}, not uint8; scale it to 0..255 and convert it: astype(np.uint8)")
    wrong = video.size - int(np.isfinite(video).sum())
    if wrong:
        raise ValueError(
            f"video_THWC is {video.dtype} with {wrong} values that are NaN or infinite; the model's numbers overflow, use a wider dtype"
        )
    low, high = float(video.min()), float(video.max())
    fix = "(video * 255)" if low >= 0 else "((video + 1) * 127.5)"
    rounded = f"np.rint({fix if high <= 1 else 'video'}.clip(0, 255)).astype(np.uint8)"
    raise ValueError(f"video_THWC is {video.dtype} with values from {low:g} to {high:g}, not uint8; give {rounded}")
