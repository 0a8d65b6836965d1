"""Canaries that examine the text of an answer alone."""

from __future__ import annotations

import unicodedata

MAX_UNIT = 200  # characters: a longer unit is not taken for a loop
MIN_LOOP = 32  # characters of a loop, at least
LONG_UNIT = 24  # characters; a unit of this length or more loops when it is repeated LONG_TIMES times, a shorter one SHORT_TIMES
LONG_TIMES, SHORT_TIMES = 4, 6
INVISIBLE = ("Cc", "Cf", "Zs", "Zl", "Zp")  # categories of Unicode
BLANKS = "\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"  # Hangul and Khmer fillers and the empty Braille cell: letters and symbols to Unicode
MIN_ECHO, BEFORE_ECHO = 8, 200  # words of a prompt that is taken for one; characters before it, such as those of a chat template
CLOSED = tuple(".!?:;)]}\"'`*>\u3002\uff01\uff1f\u201d\u2019\u2026")  # what a text that was not cut short may end with
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # decoders write it for bytes that are not UTF-8


def check_text(text: str, was_cut: bool = False) -> list[str]:
    """Which of `empty`, `looping` and `utf8` the text triggers. was_cut: it ended at the length limit, perhaps inside a character."""
    if not any(_is_visible(c) for c in text):
        return ["empty"]
    found = ["looping"] if _loops(text) else []
    whole = text.rstrip(REPLACEMENT) if was_cut else text
    if REPLACEMENT in whole or any("\ud800" <= c <= "\udfff" for c in whole):
        found.append("utf8")
    return found


def is_echo(text: str, prompt: str) -> bool:
    """Whether the text begins with its whole prompt: what the model was given counts as what it generated."""
    words = prompt.split()
    return len(words) >= MIN_ECHO and " ".join(words) in " ".join(text[: len(prompt) + BEFORE_ECHO].split())


def _is_visible(character: str) -> bool:
    """Not spaces, controls, joiners, or letters that are drawn as nothing."""
    return unicodedata.category(character) not in INVISIBLE and character not in BLANKS


def _loops(text: str) -> bool:
    """Whether the text ends in one unit that is repeated character by character.

    Numbers and lists change from one item to the next and do not count; nor does a list that is closed by a bracket.
    """
    text = text.rstrip().rstrip(".!?,;:") or text.strip()
    for unit in range(1, min(MAX_UNIT, len(text) // LONG_TIMES) + 1):
        times = LONG_TIMES if unit >= LONG_UNIT else SHORT_TIMES
        length = max(MIN_LOOP, times * unit)
        if length <= len(text) and text[-length + unit :] == text[-length:-unit]:
            return True
    return False
