"""Signs, in a text alone, that it is no answer."""

from __future__ import annotations

MAX_UNIT = 200  # characters: what repeats beyond this is a chapter
MIN_LOOP = 32  # characters that a loop goes on for, at least
LONG_UNIT = 24  # characters; a unit from this length on loops when it is said LONG_TIMES times, a shorter one SHORT_TIMES
LONG_TIMES, SHORT_TIMES = 4, 6
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # what a decoder writes for bytes that are not UTF-8


def watch_text(text: str, was_cut: bool = False) -> list[str]:
    """`empty`, `looping` and `utf8`, as far as they hold. was_cut: it ended at the length limit, perhaps inside a character."""
    if not text.strip():
        return ["empty"]
    found = ["looping"] if _loops(text) else []
    whole = text.rstrip(REPLACEMENT) if was_cut else text
    if REPLACEMENT in whole or any("\ud800" <= c <= "\udfff" for c in whole):
        found.append("utf8")
    return found


def _loops(text: str) -> bool:
    """Whether the text's end is one unit said again and again, letter by letter.

    What goes on changing, as numbers and lists do, is no such unit, and what is closed by a bracket was a list.
    """
    text = text.rstrip().rstrip(".!?,;:") or text.strip()
    for unit in range(1, min(MAX_UNIT, len(text) // LONG_TIMES) + 1):
        times = LONG_TIMES if unit >= LONG_UNIT else SHORT_TIMES
        length = max(MIN_LOOP, times * unit)
        if length <= len(text) and text[-length + unit :] == text[-length:-unit]:
            return True
    return False
