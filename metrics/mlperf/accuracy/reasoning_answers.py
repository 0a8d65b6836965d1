"""Answers read out of what a reasoning model wrote: letters, whole numbers, boxed results, programs.

As MLPerf reads them, which is not the same for its two models: gpt-oss has channels, of which the last is the answer; deepseek-r1 has
none. Source: mlcommons/inference, language/gpt-oss-120b/eval_accuracy.py and language/deepseek-r1/eval_accuracy.py.
"""

from __future__ import annotations

import re

_FINAL = re.compile(r"<\|channel\|>final[^<]*<\|message\|>(.*?)(?:<\|return\|>|$)", re.DOTALL)
_FINAL_WITHOUT_MARKS = "assistantfinal"  # what is left of the marks in a text that was decoded without special tokens
_BOLD = re.compile(r"\*\*([^*]+)\*\*")
_BOXED_NUMBER = re.compile(r"\\boxed{\s*(\d+)\s*}")
_ANSWER_NUMBER = re.compile(r"Answer:\s*(\d+)(?!\.)\b", re.IGNORECASE)
_PYTHON_FENCE = re.compile(r"```python(.*?)```", re.DOTALL)
_ANY_FENCE = re.compile(r"```(.*?)```", re.DOTALL)
_LANGUAGE = re.compile(r"^(?:python|py)\s*\n", re.IGNORECASE)


def final_part(text: str) -> str:
    """What gpt-oss wrote on its channel `final`; all of it where there is none."""
    if marked := _FINAL.search(text):
        return marked[1].strip()
    _, sign, rest = text.rpartition(_FINAL_WITHOUT_MARKS)
    return rest.strip() if sign else re.sub(r"^final(?=\S)", "", text)  # where it thought nothing before


def gpt_oss_letter(text: str, letters: str) -> str | None:
    """A choice. From the final channel: the letter that it begins with, else the first after `Answer:`; else as deepseek_letter."""
    final = _plain(_BOLD.sub(r"\1", final_part(text.strip())))
    wanted = f"[{letters[0]}-{letters[-1]}]"
    for found in (
        re.match(rf"[^a-zA-Z]*({wanted})(?:[^a-zA-Z]|$)", final.strip(), re.IGNORECASE),
        re.search(rf"\bAnswer\s*[:.]?\s*({wanted})\b", final, re.IGNORECASE),
    ):
        if found:
            return found[1].upper()
    return deepseek_letter(text, letters, loose=False)


def deepseek_letter(text: str, letters: str, loose: bool) -> str | None:
    """A choice: the last letter after `ANSWER`. loose: else the last letter that stands alone, as for MMLU-Pro."""
    plain, wanted = _plain(text.strip()), f"[{letters[0]}-{letters[-1]}]"
    found = re.findall(rf"\bANSWER\b\s*[:=]?\s*\(?\s*({wanted})\s*\)?(?:\s*$|[^A-Za-z])", plain, re.IGNORECASE)
    if not found and loose:
        found = re.findall(rf"\b({wanted})\b", plain, re.IGNORECASE)
    return found[-1].upper() if found else None


def aime_number(text: str) -> int | None:
    """The last boxed whole number, else the last after `Answer:`; None for one above 999."""
    found = _BOXED_NUMBER.findall(text) or _ANSWER_NUMBER.findall(text)
    if not found:
        return None
    digits = found[-1].lstrip("0") or "0"
    return int(digits) if len(digits) <= 3 else None


def boxed(text: str) -> str | None:
    r"""What stands in the last \boxed{...}, to the brace that closes it."""
    start = text.rfind(r"\boxed{")
    if start < 0:
        return None
    start += len(r"\boxed{")
    depth = 1
    for end in range(start, len(text)):
        depth += (text[end] == "{") - (text[end] == "}")
        if not depth:
            return text[start:end].strip()
    return None


def gpt_oss_program(text: str) -> str | None:
    """The last Python block of the final channel, else its last block of any kind; else the same of the whole text."""
    for part in (final_part(text), text):
        if found := _PYTHON_FENCE.findall(part):
            return str(found[-1]).strip()
        if found := _ANY_FENCE.findall(part):
            return _LANGUAGE.sub("", str(found[-1]).strip())
    return None


def deepseek_program(text: str) -> str | None:
    """The first Python block."""
    found = _PYTHON_FENCE.search(text)
    return found[1].strip() if found else None


def _plain(text: str) -> str:
    r"""Without what a list's repr leaves: ['...'], and \n and \' written out."""
    if text.startswith(("['", '["')) and text.endswith(("']", '"]')):
        text = text[2:-2].strip()
    return text.replace(r"\n", "\n").replace(r"\'", "'")
