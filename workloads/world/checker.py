"""Reads colour, shape, direction, speed, count and background from the pixels of a clip, and compares them with a caption.

`read_clip` sees pixels only. Objects are the saturated pixels of a grey world, separated by hue; a shape is the template that covers the
same pixels best; a motion is a straight line fitted to the centroids. `check_clip` compares the reading with the caption's scene, attribute
by attribute. Attributes that a caption does not state are not judged.

Shape letters: T frames, H height, W width, C channels (RGB).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from workloads.world.scenes import BACKGROUND_PERIOD, COLOURS, DIRECTIONS, NUM_FRAMES, SHAPES, SIZE, Group, coverage, parse_caption

ATTRIBUTES = ("colour", "shape", "direction", "speed", "count", "background")

MIN_CHROMA = 0.22  # of full scale; below it a pixel is background
MIN_AREA = 14.0  # pixels of coverage for an object to count as one
MIN_FIT = 0.74  # intersection over union with the best template; a blurred or torn object has less
MAX_STRAY = 0.30  # colour outside objects, as a share of their area; noise has more
STILL_BELOW, FAST_FROM = 0.40, 1.60  # pixels a frame
MIN_GROUND_SWING = 0.025  # of full scale; a fainter pattern is plain


@dataclass(frozen=True, slots=True)
class GroupReading:
    """The reading of the objects of one colour. `shape` is None if no template fits."""

    colour: str
    shape: str | None
    direction: str | None
    speed: str | None
    count: int
    fit: float  # mean intersection over union with the best template, 0 to 1
    velocity: tuple[float, float]  # pixels a frame, x to the right and y down


def check_clip(video_THWC: NDArray[np.uint8], caption: str) -> dict[str, bool]:
    """Whether the clip shows what the caption states, by attribute.

    video_THWC: uint8, at least 4 frames; other sizes are resampled to the world's. An attribute is right if it is right for every object of
    the caption. An object of a colour that the caption does not name makes `colour` wrong.
    Raises ValueError if the caption does not describe this world.
    """
    scene = parse_caption(caption)
    readings = read_clip(video_THWC)
    pairs = _match(scene.groups, readings)
    verdict = {a: all(r is not None and getattr(r, a) == getattr(g, a) for g, r in pairs) for a in ATTRIBUTES[:5]}
    verdict["colour"] = verdict["colour"] and len(readings) == len(scene.groups)
    if scene.background:
        verdict["background"] = read_background(video_THWC) == scene.background
    return verdict


def read_clip(video_THWC: NDArray[np.uint8]) -> list[GroupReading]:
    """The groups in the clip, one for each colour, largest first."""
    rgb = _at_world_size(video_THWC).astype(np.float64) / 255
    chroma = rgb.max(-1) - rgb.min(-1)
    nearest = _hue_class(rgb)
    seen = []
    claimed = np.zeros(chroma.shape, bool)
    for index, (colour, value) in enumerate(COLOURS.items()):
        full = (max(value) - min(value)) / 255
        alpha_THW = np.where(nearest == index, np.clip(chroma / full, 0, 1), 0.0)
        objects = [_objects(frame) for frame in alpha_THW]
        area_T = np.array([sum(o.sum() for o in frame) for frame in objects])
        if np.median(area_T) < MIN_AREA:
            continue
        claimed |= np.array([ndimage.binary_dilation(sum(f, np.zeros(chroma.shape[1:])) > 0, iterations=2) for f in objects])
        seen.append((area_T, colour, objects))
    total = sum(float(area_T.sum()) for area_T, _, _ in seen)
    stray = float(np.where(claimed | (chroma < MIN_CHROMA / 2), 0, chroma).sum())
    noisy = total > 0 and stray > MAX_STRAY * total
    seen.sort(key=lambda s: -float(s[0].sum()))
    return [_read_group(colour, area_T, objects, noisy) for area_T, colour, objects in seen]


def read_background(video_THWC: NDArray[np.uint8]) -> str:
    """`plain`, `striped` or `checked`, from the grey pixels' mean over time."""
    rgb = _at_world_size(video_THWC).astype(np.float64) / 255
    ground = (rgb.max(-1) - rgb.min(-1)) < MIN_CHROMA / 2
    weight = ground.sum(0)
    grey_HW = (rgb.mean(-1) * ground).sum(0) / np.maximum(weight, 1)
    grey_HW = np.where(weight > 0, grey_HW - grey_HW[weight > 0].mean(), 0.0) if (weight > 0).any() else grey_HW * 0
    y, x = np.mgrid[: grey_HW.shape[0], : grey_HW.shape[1]]
    turn = 2 * np.pi / BACKGROUND_PERIOD

    def swing(fy: int, fx: int) -> float:
        wave = np.exp(-1j * turn * (fy * y + fx * x))
        return float(2 * np.abs((grey_HW * wave).sum()) / max(int((weight > 0).sum()), 1))

    striped, checked = swing(0, 1), np.hypot(swing(1, 1), swing(1, -1))
    if max(striped, checked) < MIN_GROUND_SWING:
        return "plain"
    return "striped" if striped > checked else "checked"


def _at_world_size(video_THWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The clip resampled to the world's own 9 frames of 48 x 48, in which distances are measured."""
    import cv2

    if video_THWC.ndim != 4 or video_THWC.shape[-1] != 3 or len(video_THWC) < 4:
        raise ValueError(f"a clip must be video_THWC with at least 4 RGB frames, got shape {video_THWC.shape}")
    if video_THWC.shape[:3] == (NUM_FRAMES, SIZE, SIZE):
        return video_THWC
    index = np.linspace(0, len(video_THWC) - 1, NUM_FRAMES).round().astype(int)
    frames = [cv2.resize(np.ascontiguousarray(video_THWC[i]), (SIZE, SIZE), interpolation=cv2.INTER_AREA) for i in index]
    return np.stack(frames).astype(np.uint8)


def _match(groups: tuple[Group, ...], readings: list[GroupReading]) -> list[tuple[Group, GroupReading | None]]:
    """Pair each group of the caption with a reading: that of its colour, else the most similar one that is left."""
    left = list(readings)
    paired: dict[Group, GroupReading | None] = {}
    for group in groups:
        paired[group] = next((r for r in left if r.colour == group.colour), None)
        if paired[group]:
            left.remove(paired[group])  # type: ignore[arg-type]
    for group in groups:
        if paired[group] is None and left:
            paired[group] = max(left, key=lambda r: sum(getattr(r, a) == getattr(group, a) for a in ATTRIBUTES[1:5]))
            left.remove(paired[group])  # type: ignore[arg-type]
    return [(group, paired[group]) for group in groups]


def _hue_class(rgb_THWC: NDArray[np.float64]) -> NDArray[np.int64]:
    """Index into COLOURS by nearest hue; -1 for pixels that are too grey."""
    chroma = rgb_THWC.max(-1, keepdims=True) - rgb_THWC.min(-1, keepdims=True)
    pure = (rgb_THWC - rgb_THWC.min(-1, keepdims=True)) / np.maximum(chroma, 1e-6)
    values = np.array(list(COLOURS.values())) / 255
    wanted = (values - values.min(1, keepdims=True)) / (values.max(1, keepdims=True) - values.min(1, keepdims=True))
    distance = ((pure[..., None, :] - wanted) ** 2).sum(-1)
    return np.where(chroma[..., 0] < MIN_CHROMA, -1, distance.argmin(-1))


def _objects(alpha_HW: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """The connected objects of one frame, each as its own coverage map; pixels connect from half coverage on."""
    labels, _ = ndimage.label(alpha_HW > 0.5)
    parts = []
    for i in np.flatnonzero(np.bincount(labels.ravel())[1:] >= MIN_AREA / 2) + 1:
        near = ndimage.binary_dilation(labels == i)
        part = np.where(near & ((labels == 0) | (labels == i)), alpha_HW, 0.0)
        if part.sum() >= MIN_AREA:
            parts.append(part)
    return parts


def _read_group(colour: str, area_T: NDArray[np.float64], objects: list[list[NDArray[np.float64]]], noisy: bool) -> GroupReading:
    whole = [t for t, a in enumerate(area_T) if a >= 0.88 * np.quantile(area_T, 0.8) and objects[t]]
    counts = [len(objects[t]) for t in whole]
    count = max(set(counts), key=counts.count)
    frames = [t for t in whole if len(objects[t]) == count]
    centres = np.array([_centroid(np.sum(objects[t], axis=0)) for t in frames])
    velocity = np.polyfit(frames, centres, 1)[0] if len(frames) >= 3 else np.array([np.nan, np.nan])
    direction, speed = _motion(velocity)
    fits = np.mean([[_fit(part, s) for s in SHAPES] for t in frames for part in objects[t]], axis=0)
    best = int(np.argmax(fits))
    shape = SHAPES[best] if fits[best] >= MIN_FIT and not noisy else None
    return GroupReading(colour, shape, direction, speed, count, float(fits[best]), (float(velocity[0]), float(velocity[1])))


def _motion(velocity: NDArray[np.float64]) -> tuple[str | None, str | None]:
    pace = float(np.hypot(*velocity))
    if not np.isfinite(pace):
        return None, None
    if pace < STILL_BELOW:
        return "still", "still"
    along = {name: float(velocity @ np.array(d)) / pace for name, d in DIRECTIONS.items() if name != "still"}
    name = max(along, key=lambda n: along[n])
    return (name if along[name] > 0.9 else None), ("fast" if pace >= FAST_FROM else "slow")  # 0.9: within 26 degrees


def _centroid(alpha_HW: NDArray[np.float64]) -> NDArray[np.float64]:
    y, x = np.mgrid[: alpha_HW.shape[0], : alpha_HW.shape[1]] + 0.5
    return np.asarray([(alpha_HW * x).sum(), (alpha_HW * y).sum()], np.float64) / float(alpha_HW.sum())


def _fit(alpha_HW: NDArray[np.float64], shape: str) -> float:
    """Intersection over union of the coverage with the shape's template of the same area and centroid."""
    area_factor, offset = _template_moments(shape)
    size = float(np.sqrt(alpha_HW.sum() / area_factor))
    x, y = _centroid(alpha_HW)
    template = coverage(shape, x, y - offset * size, size)
    return float(np.minimum(alpha_HW, template).sum() / np.maximum(alpha_HW, template).sum())


@functools.cache
def _template_moments(shape: str) -> tuple[float, float]:
    """Area of the shape at size 1, and the distance of its centroid below the centre of its box."""
    big = coverage(shape, 256.0, 256.0, 400.0, 512)
    return float(big.sum()) / 400.0**2, float(_centroid(big)[1] - 256.0) / 400.0
