"""Canaries that examine the text of an answer alone."""

from __future__ import annotations

MAX_UNIT = 200  # characters: a longer unit is not taken for a loop
MIN_LOOP = 32  # characters of a loop, at least
LONG_UNIT = 24  # characters; a unit of this length or more loops when it is repeated LONG_TIMES times, a shorter one SHORT_TIMES
LONG_TIMES, SHORT_TIMES = 4, 6
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # decoders write it for bytes that are not UTF-8


def check_text(text: str, was_cut: bool = False) -> list[str]:
    """Which of `empty`, `looping` and `utf8` the text triggers. was_cut: it ended at the length limit, perhaps inside a character."""
    if not text.strip():
        return ["empty"]
    found = ["looping"] if _loops(text) else []
    whole = text.rstrip(REPLACEMENT) if was_cut else text
    if REPLACEMENT in whole or any("\ud800" <= c <= "\udfff" for c in whole):
        found.append("utf8")
    return found


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
