"""VBench score of a run's videos: MLPerf's gate for wan-2.2-t2v-a14b."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from configs.decode import read_json
from configs.errors import ConfigError
from configs.registry import register
from metrics.base import Figure, Metric, Run
from workloads.mlperf.vbench_prompts import DIMENSIONS
from workloads.records import Record, Sample

FILE = "vbench_results.json"  # in the run folder; made by `suite.py vbench RUN`
SCHEMA = "triptych-vbench/1"
ALL = tuple(sorted(dimension for group in DIMENSIONS.values() for dimension in group))


@register("vbench")
@dataclass(frozen=True)
class VBench(Metric):
    """Mean of six of VBench's dimensions, as VBench computes them, 0 to 1. Higher is better; MLPerf prints it times 100.

    vbench_<dimension> = VBench's mean over the existing videos x (their number / number of prompts of that dimension): a failed video
    counts as 0 in each of its dimensions, where VBench leaves it out. vbench = sum of the six / 6, without VBench's own normalisation
    and weights. `suite.py vbench RUN` stores VBench's results in the run folder.
    Source: mlcommons/inference, text_to_video/wan-2.2-t2v-a14b, run_evaluation.py.
    """

    name: ClassVar[str] = "vbench"
    headings: ClassVar[Mapping[str, tuple[str, ...]]] = {"Quality": ("vbench",)}
    headline: ClassVar[tuple[str, ...]] = ("vbench",)

    def compute(self, run: Run) -> Mapping[str, Figure]:
        samples = [s for s in run.samples if s.meta.get("dimensions")]
        if not samples:
            return {}
        kept = read_results(run)
        if kept is None:
            note = f"VBench has not scored this run's videos; run: suite.py vbench {run.folder.name}"
            return {self.name: Figure(None, "", "higher", len(samples), note=note)}
        figures = {f"vbench_{d}": self._dimension(run, d, samples, kept) for d in ALL}
        values = [f.value for f in figures.values() if f.value is not None]
        if len(values) < len(ALL):
            lacking = ", ".join(d for d in ALL if figures[f"vbench_{d}"].value is None)
            return {self.name: Figure(None, "", "higher", len(samples), note=f"no prompts for: {lacking}")} | figures
        return {self.name: Figure(math.fsum(values) / len(ALL), "", "higher", len(samples))} | figures

    def _dimension(self, run: Run, dimension: str, samples: Sequence[Sample], kept: Mapping[str, Any]) -> Figure:
        names = {video_name(s) for s in samples if dimension in s.meta["dimensions"]}
        if not names:
            return Figure(None, "", "higher", 0, note="no prompts for this dimension")
        mean, seen = _seen(run, dimension, kept, names)
        missing = len(names) - len(seen)
        note = f"{missing} of {len(names)} videos are missing and count as 0" if missing else ""
        return Figure(mean * len(seen) / len(names), "", "higher", len(names), note=note)


class _Results(msgspec.Struct):
    schema: str
    results: dict[str, Any]
    videos: dict[str, str]


def video_name(sample: Sample) -> str:
    """VBench's file name of a prompt's first video."""
    return f"{sample.prompt}-0.mp4"


def videos(run: Run) -> dict[str, Record]:
    """Judged answers with a video, by VBench's name for it."""
    done = (r for r in run.judged if r.status == "done" and r.media and (run.folder / r.media).is_file())
    return {video_name(run.samples[r.sample_index]): r for r in done if run.samples[r.sample_index].meta.get("dimensions")}


def read_results(run: Run) -> dict[str, Any] | None:
    """VBench's own results, `dimension: [mean, videos]`; None where it has not scored the videos that the run has now.

    Raises ConfigError where the file is damaged.
    """
    file, fix = run.folder / FILE, f"create it again: suite.py vbench {run.folder}"
    if not file.exists():
        return None
    kept = read_json(file, _Results, fix)
    if kept.schema != SCHEMA:
        raise ConfigError(f"{file} is from another version; {fix}")
    return kept.results if kept.videos == {n: r.digest for n, r in videos(run).items()} else None


def _seen(run: Run, dimension: str, kept: Mapping[str, Any], names: set[str]) -> tuple[float, set[str]]:
    """VBench's mean of a dimension, and the videos that it covers."""
    where = f"{run.folder / FILE}: dimension {dimension!r}"
    if dimension not in kept:
        if names & set(videos(run)):
            raise ConfigError(f"{where} is missing; create it again: suite.py vbench {run.folder}")
        return 0.0, set()
    try:
        mean, listed = kept[dimension][0], [Path(str(video["video_path"])).name for video in kept[dimension][1]]
    except (KeyError, IndexError, TypeError):
        raise ConfigError(f"{where} must be [mean, [{{video_path, ..}}, ..]], as VBench writes it") from None
    if isinstance(mean, bool) or not isinstance(mean, (int, float)) or not 0 <= mean <= 1:
        raise ConfigError(f"{where} has the mean {mean!r}; it must be between 0 and 1")
    seen = set(listed)
    if len(seen) < len(listed) or not seen <= names:
        strange = sorted(seen - names) or [n for n in listed if listed.count(n) > 1]
        raise ConfigError(f"{where} lists {strange[0]!r}, which is there twice or is no video of a prompt for it")
    return float(mean), seen
