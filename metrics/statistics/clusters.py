"""Answers that belong together, such as those to one prompt with several seeds: which they are, and intervals that take them as a whole."""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from metrics.statistics.intervals import student_t

ARTICLES, PUNCTUATION = ("a", "an", "the"), ".,;:!?\"'()"


def prompt_cluster(prompt: str, images: Sequence[bytes] = ()) -> bytes:
    """A digest that is the same for prompts of the same words about the same images.

    Case, spaces, articles and the punctuation around words make no difference.
    """
    text = prompt if prompt.isascii() else unicodedata.normalize("NFKC", prompt)
    words = [word.strip(PUNCTUATION) for word in text.casefold().split()]
    digest = hashlib.sha256(" ".join([word for word in words if word and word not in ARTICLES]).encode("utf-8", "surrogatepass"))
    for image in images:
        digest.update(hashlib.sha256(image).digest())
    return digest.digest()


def numbered(labels: Sequence[Hashable]) -> NDArray[np.intp]:
    """Labels as numbers from 0, in the order in which they first come."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels], dtype=np.intp)


def clustered_interval(
    values: Sequence[float], clusters: Sequence[Hashable], is_share: bool, confidence: float = 0.95
) -> tuple[float, float] | None:
    """Interval of a mean of values in clusters: Student's t over clusters, on the linearised ratio of sums; None for one cluster.

    is_share: values are 0 and 1. Wilson's interval then, of as many values as the clusters are worth, at most as many as there are; equal
    values are worth one a cluster.
    Source: Korn and Graubard, Survey Methodology 24 (1998), 193-201.
    """
    scores, labels = np.asarray(values, dtype=float), numbered(clusters)
    n, num = len(scores), int(labels.max(initial=-1)) + 1
    if num < 2:
        return None
    mean = float(scores.mean())
    parts = np.bincount(labels, scores - mean)
    variance = num / (num - 1) * float((parts**2).sum()) / n**2
    t = student_t((1 + confidence) / 2, num - 1)
    if not is_share:
        return mean - t * math.sqrt(variance), mean + t * math.sqrt(variance)
    simple = mean * (1 - mean)
    worth = num if simple == 0 else min(float(n), simple / variance) if variance else float(n)
    middle = (mean + t * t / (2 * worth)) / (1 + t * t / worth)
    half = t / (1 + t * t / worth) * math.sqrt(simple / worth + t * t / (4 * worth**2))
    return max(0.0, middle - half), min(1.0, middle + half)
