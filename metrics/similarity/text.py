"""How close two texts are: up to the first difference, and over all.

A run folder holds no tokenizer, so a token here is a word, a number or a punctuation mark; in Chinese and Japanese, a character. Spaces
between tokens do not count for the agreement. They do for the edit similarity, which compares characters.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_CJK = "\u3040-\u30ff\u3400-\u9fff"
TOKEN = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+|[^\w\s]")


def token_agreement(reference: str, candidate: str) -> float:
    """Share of the reference's tokens before the first that differs, 0 to 1.

    Text of the candidate after the reference's end does not lower it. A reference without a token only agrees with a candidate without one.
    """
    one, two = TOKEN.findall(reference), TOKEN.findall(candidate)
    if not one:
        return float(not two)
    agreed = next((i for i, pair in enumerate(zip(one, two, strict=False)) if pair[0] != pair[1]), min(len(one), len(two)))
    return agreed / len(one)


def edit_similarities(references: Sequence[str], candidates: Sequence[str]) -> list[float]:
    """For each pair, 1 - Levenshtein distance / length of the longer, over characters; 1 for two empty texts."""
    import numpy as np
    from rapidfuzz.distance import Levenshtein
    from rapidfuzz.process import cpdist

    found = cpdist(references, candidates, scorer=Levenshtein.normalized_similarity, dtype=np.float64, workers=-1)
    return [float(value) for value in found]
