"""Agreement of category paths in JSON answers with the expected ones: MLPerf's gate for Qwen3-VL."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from configs.registry import register
from metrics.base import Figure, Run, SampleMetric
from metrics.statistics.intervals import wilson_interval
from workloads.records import Record, Sample

SEPARATOR = " > "
BRAND_RATIO = 90  # a brand is right above this ratio of rapidfuzz, 0 to 100
_Z95 = 1.96  # 95 % of a normal distribution are within +- 1.96 standard deviations


class Product(BaseModel):
    """The JSON answer that MLPerf's catalogue requires: these three fields and no others."""

    model_config = ConfigDict(extra="forbid")

    category: str
    brand: str
    is_secondhand: bool


class Overlap(NamedTuple):
    """Of one answer: levels shared from the root on, levels answered, levels expected."""

    shared: int
    answered: int
    expected: int


@register("hierarchical_f1")
@dataclass(frozen=True)
class HierarchicalF1(SampleMetric):
    """Micro-averaged F1 over category levels, and the share of answers that could be parsed. Higher is better.

    hP = sum of shared levels / sum of answered levels, hR = sum of shared levels / sum of expected levels, F1 their harmonic
    mean; shared is the longest common prefix of the two paths. An answer that is missing or is not JSON with a category counts
    as a path of the expected length that is wrong from its root.
    Only samples whose expected answer is JSON with a `category` are judged. A single answer's score is its own F1.
    Where a brand is expected too, an answer must be a whole Product, and there are two more figures, which MLPerf reports without a gate:
    brand_f1          share of brands whose rapidfuzz ratio to the expected one is above 90, without case and surrounding space
    is_secondhand_f1  F1 of second-hand goods, 2 TP / (2 TP + FP + FN); an answer that is no Product counts as wrong (MLPerf guesses)
    Source: MLCommons inference, multimodal/qwen3-vl, evaluation.py.
    """

    name: ClassVar[str] = "hierarchical_f1"
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    headings: ClassVar[Mapping[str, tuple[str, ...]]] = {"Quality": ("hierarchical_", "category_", "brand_", "is_secondhand_")}
    headline: ClassVar[tuple[str, ...]] = ("hierarchical_f1",)

    def applies(self, sample: Sample) -> bool:
        return category(sample.meta.get("answer")) is not None

    def score(self, run: Run, sample: Sample, record: Record) -> Mapping[str, float]:
        return {self.name: f1([overlap(_answered(sample, record), _expected(sample))])}

    def compute(self, run: Run) -> Mapping[str, Figure]:
        judged = [record for record in run.judged if self.applies(run.samples[record.sample_index])]
        paths = [_answered(run.samples[record.sample_index], record) for record in judged]
        overlaps = [overlap(path, _expected(run.samples[record.sample_index])) for path, record in zip(paths, judged, strict=True)]
        if not overlaps:
            return {}
        n = len(overlaps)
        return {
            self.name: Figure(f1(overlaps), self.unit, self.better, n, _interval(overlaps)),
            "category_parsed": Figure(sum(path is not None for path in paths) / n, "", "higher", n),
            **_brand_and_condition([(product_of(run.samples[r.sample_index].meta["answer"]), _product(r)) for r in judged]),
        }


def category(answer: Any) -> str | None:
    """The category path of a JSON answer; None if there is none. The whole answer must be the JSON object."""
    try:
        value = json.loads(answer)
    except (TypeError, ValueError, RecursionError):
        return None
    path = value.get("category") if isinstance(value, dict) else None
    return path if isinstance(path, str) and path.strip() else None


def product_of(answer: Any) -> Product | None:
    """The answer, parsed with MLPerf's own schema; None if it does not fit."""
    try:
        return Product.model_validate_json(answer)
    except ValidationError:
        return None


def overlap(path: str | None, expected: str) -> Overlap:
    """Compare two paths level by level from the root; path is None if the answer could not be parsed."""
    right = _levels(expected)
    if path is None:
        return Overlap(0, len(right), len(right))
    levels = _levels(path)
    shared = next((i for i, (a, b) in enumerate(zip(levels, right, strict=False)) if a != b), min(len(levels), len(right)))
    return Overlap(shared, len(levels), len(right))


def f1(overlaps: Iterable[Overlap]) -> float:
    rows = list(overlaps)
    return (
        2 * sum(o.shared for o in rows) / sum(o.answered + o.expected for o in rows)
    )  # the harmonic mean of shared / answered and shared / expected


def _expected(sample: Sample) -> str:
    path = category(sample.meta["answer"])
    assert path is not None, "only samples that `applies` accepts are scored"
    return path


def _answered(sample: Sample, record: Record) -> str | None:
    """The category in the answer, read in the form that this sample requires."""
    if product_of(sample.meta["answer"]) is None:
        return category(record.text) if record.status == "done" else None
    product = _product(record)
    return product.category if product else None


def _product(record: Record) -> Product | None:
    return product_of(record.text or "") if record.status == "done" else None


def _brand_and_condition(pairs: Sequence[tuple[Product | None, Product | None]]) -> dict[str, Figure]:
    """Figures of brand and condition, where they are expected. pairs: expected and answered products."""
    products = [(expected, answer) for expected, answer in pairs if expected]
    if not products:
        return {}
    from rapidfuzz.fuzz import ratio

    n = len(products)
    answers = [answer.is_secondhand if answer else not expected.is_secondhand for expected, answer in products]
    true_positives = sum(expected.is_secondhand and answer for (expected, _), answer in zip(products, answers, strict=True))
    positives = sum(expected.is_secondhand for expected, _ in products) + sum(answers)
    figures = {"is_secondhand_f1": Figure(2 * true_positives / positives if positives else 0.0, "", "higher", n)}
    right = sum(answer is not None and ratio(_bare(expected.brand), _bare(answer.brand)) > BRAND_RATIO for expected, answer in products)
    return figures | {"brand_f1": Figure(right / n, "", "higher", n, wilson_interval(right, n))}


def _bare(brand: str) -> str:
    return brand.strip().lower()


def _levels(path: str) -> list[str]:
    return [level.strip() for level in path.split(SEPARATOR)]


def _interval(overlaps: Sequence[Overlap]) -> tuple[float, float] | None:
    """A 95 % interval of the ratio by the delta method; None if all answers agree or there is only one."""
    n = len(overlaps)
    ratio, scale = f1(overlaps), sum(o.answered + o.expected for o in overlaps) / n
    residuals = [2 * o.shared - ratio * (o.answered + o.expected) for o in overlaps]
    spread = math.fsum(r * r for r in residuals)
    if n < 2 or not spread:
        return None
    half = _Z95 * math.sqrt(spread / (n - 1) / n) / scale
    return max(0.0, ratio - half), min(1.0, ratio + half)
