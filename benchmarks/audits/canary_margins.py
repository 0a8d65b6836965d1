"""How far honest videos are from the bounds of the canaries `identical` and `frozen`.

python benchmarks/audits/canary_margins.py [--short] [RUN ..]

Of the toy pipeline's videos, for 300 captions of each grade and two seeds each, and of the videos of run folders: the correlation of the
two thumbnails that are most alike, of different prompts, turned or not (the bound is ALIKE), and of one prompt with another seed
(ALIKE_SEEDS), and the least correlation of neighbours in the changes between frames where the prompt asks for motion (GRAIN_CORRELATION).
The last line is JSON. --short: 24 captions.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from numpy.typing import NDArray

from benchmarks.outcome import Figure, arguments, conclude
from metrics.report.load_run import load_run
from metrics.validity.answers import ALIKE, thumbnail, turned
from metrics.validity.video_canaries import GRAIN_CORRELATION, grain_correlation
from workloads.t2v import TextToVideo
from workloads.world.scenes import parse_caption, render

COUNT, FEW = 300, 24


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="a folder of a run")
    given = parser.parse_args(argv)
    count, rows = FEW if given.short else COUNT, list[dict[str, Any]]()
    for grade in ("simple", "rich"):
        samples = TextToVideo(grade=grade, num_prompts=count).samples()
        seeds = [[render(parse_caption(s.prompt), np.random.default_rng(count * n + s.index)) for s in samples] for n in (0, 1)]
        moving = [bool(s.meta["expects_motion"]) for s in samples]
        rows.append(_row(f"toy, {grade}", seeds[0], moving, seeds[1]))
    for folder in given.runs:
        run = load_run(folder)
        first = [r for r in run.judged if r.status == "done"]
        moving = [bool(run.samples[r.sample_index].meta.get("expects_motion", True)) for r in first]
        rows.append(_row(folder.name, [run.video(r) for r in first], moving))
    worst = max(row["most_alike"] for row in rows)
    least = min(row["least_change"] for row in rows)
    figures = {
        "most alike": Figure(worst, "correlation", better="lower", goal=ALIKE),
        "least change": Figure(least, "correlation", goal=GRAIN_CORRELATION),
    }
    conclude("canary_margins", figures, given, rows)


def _row(
    name: str, videos: Sequence[NDArray[np.uint8]], moving: Sequence[bool], others: Sequence[NDArray[np.uint8]] | None = None
) -> dict[str, Any]:
    """others: of the same prompts, with other seeds."""
    looks = np.stack([look for video in videos if (look := thumbnail(video)) is not None])
    alike = functools.reduce(np.maximum, (looks @ other.T for other in turned(looks)))
    np.fill_diagonal(alike, 0)
    changes = [grain_correlation(video) for video, moves in zip(videos, moving, strict=True) if moves]
    row = {"name": name, "videos": len(videos), "pairs": len(looks) * (len(looks) - 1) // 2, "most_alike": round(float(alike.max()), 4)}
    if others is not None:
        pairs = [(thumbnail(a), thumbnail(b)) for a, b in zip(videos, others, strict=True)]
        row["another_seed"] = round(max(float(a @ b) for a, b in pairs if a is not None and b is not None), 4)
    return row | {"least_change": round(min(changes), 3), "moving": len(changes)}


if __name__ == "__main__":
    main()
