"""New prompts of the same length as given ones, for the fresh queries of a replay.

A third of a prompt's words is replaced: words by words that stand between the same neighbours in other prompts of the data set, so that
"a red disc moves" becomes "a blue disc moves"; numbers by numbers with as many digits. No prompt of the data set has the same words,
in whatever order, so that a cache by an unordered set of words has no answer either. One with images keeps its prompt, and one pixel of
each image changes.
"""

from __future__ import annotations

import dataclasses
import io
import random
import re
from collections.abc import Sequence

from workloads.records import Sample

SHARE = 1 / 3  # of a prompt's words
MAX_PROMPTS = 2000  # of a data set, whose words are drawn from
TRIES = 20
LIKE_LENGTHS = 2  # characters by which a word may be longer or shorter than the one that it replaces
_PARTS = re.compile(r"(\W*)(.*?)(\W*)", re.DOTALL)


class FreshPrompts:
    """Draws from the words of these samples' prompts."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples
        self._between: dict[tuple[str, str], set[str]] | None = None  # words by their neighbours; "" for a neighbour that does not matter
        self._known: set[tuple[str, ...]] = set()  # the words of each prompt, without order

    def altered(self, sample: Sample, seed: int) -> Sample:
        """The sample with a new prompt or, where it has images, with new images."""
        rng = random.Random(seed)
        if sample.images:
            return dataclasses.replace(sample, images=tuple(_retouched(image, rng) for image in sample.images))
        if self._between is None:
            self._between = {}
            for other in self._samples[:MAX_PROMPTS]:
                self._learn(other.prompt.split(" "))
        words = sample.prompt.split(" ")
        for _ in range(TRIES):
            new = self._replaced(words, rng)
            if _bag(new) not in self._known and _bag(new) != _bag(words):
                break
        else:  # there is no other word: letters take the place of the last one
            new = [*words[:-1], "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=max(len(words[-1]), 8)))]
        return dataclasses.replace(sample, prompt=" ".join(new))

    def _learn(self, words: Sequence[str]) -> None:
        assert self._between is not None
        self._known.add(_bag(words))
        bare = ["", *(_bare(word) for word in words), ""]
        for before, word, after in zip(bare, bare[1:], bare[2:], strict=False):
            if word:
                for neighbours in ((before, after), (before, ""), ("", after), ("", "")):
                    self._between.setdefault(neighbours, set()).add(word)

    def _replaced(self, words: Sequence[str], rng: random.Random) -> list[str]:
        new, bare = [*words], ["", *(_bare(word) for word in words), ""]
        places = [i for i in range(len(words)) if bare[i + 1].isalnum()]
        rng.shuffle(places)
        num_left = max(2, round(SHARE * len(words)))
        for near in ((True, True), (True, False), (False, True), (False, False)):  # words with both neighbours in common come first
            for place in [i for i in places if new[i] == words[i]]:
                neighbours = (bare[place] if near[0] else "", bare[place + 2] if near[1] else "")
                if num_left and (other := self._other(rng, bare[place + 1], neighbours)):
                    before, word, after = _PARTS.fullmatch(words[place]).groups()  # type: ignore[union-attr]
                    new[place] = before + (other.capitalize() if word[:1].isupper() else other) + after
                    num_left -= 1
        return new

    def _other(self, rng: random.Random, word: str, neighbours: tuple[str, str]) -> str | None:
        if word.isdecimal():
            least = 10 ** (len(word) - 1) if len(word) > 1 else 0
            number = rng.randrange(least, 10 ** len(word))
            return str(number) if number != int(word) else None
        assert self._between is not None
        others = self._between.get(neighbours, set()) - {word}
        like = sorted(o for o in others if o.isalpha() and abs(len(o) - len(word)) <= LIKE_LENGTHS)
        return rng.choice(like) if like else None


def _bag(words: Sequence[str]) -> tuple[str, ...]:
    """Without order."""
    return tuple(sorted(map(_bare, words)))


def _bare(word: str) -> str:
    """The word in lower case, without what stands around it."""
    return _PARTS.fullmatch(word).group(2).lower()  # type: ignore[union-attr]


def _retouched(image: bytes, rng: random.Random) -> bytes:
    """As a PNG with one pixel changed; bytes that are no image stay as they are."""
    from PIL import Image

    try:
        picture = Image.open(io.BytesIO(image)).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return image
    place = rng.randrange(picture.width), rng.randrange(picture.height)
    red, *others = picture.getpixel(place)  # type: ignore[misc]
    picture.putpixel(place, ((red + 1 + rng.randrange(250)) % 256, *others))
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()
