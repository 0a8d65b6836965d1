"""Extracts answers from the text of a reasoning model: letters, integers, boxed results, programs.

MLPerf's graders differ between its two models: gpt-oss has channels, of which the last is the answer; deepseek-r1 has none.
Source: mlcommons/inference, language/gpt-oss-120b/eval_accuracy.py and language/deepseek-r1/eval_accuracy.py.
"""

from __future__ import annotations

import re

_FINAL = re.compile(r"<\|channel\|>final[^<]*<\|message\|>(.*?)(?:<\|return\|>|$)", re.DOTALL)
_FINAL_WITHOUT_MARKS = "assistantfinal"  # the rest of the marks in a text that was decoded without special tokens
_BOLD = re.compile(r"\*\*([^*]+)\*\*")
_BOXED_NUMBER = re.compile(r"\\boxed{\s*(\d+)\s*}")
_ANSWER_NUMBER = re.compile(r"Answer:\s*(\d+)(?!\.)\b", re.IGNORECASE)
_PYTHON_FENCE = re.compile(r"```python(.*?)```", re.DOTALL)
_ANY_FENCE = re.compile(r"```(.*?)```", re.DOTALL)
_LANGUAGE = re.compile(r"^(?:python|py)\s*\n", re.IGNORECASE)


def final_part(text: str) -> str:
    """The text of gpt-oss's channel `final`; the whole text if there is none."""
    if marked := _FINAL.search(text):
        return marked[1].strip()
    _, sign, rest = text.rpartition(_FINAL_WITHOUT_MARKS)
    return rest.strip() if sign else re.sub(r"^final(?=\S)", "", text)  # where no analysis precedes it


def gpt_oss_letter(text: str, letters: str) -> str | None:
    """A choice: the letter that the final channel begins with, else the first after `Answer:` there, else as deepseek_letter."""
    final = _plain(_BOLD.sub(r"\1", final_part(text.strip())))
    choices = f"[{letters[0]}-{letters[-1]}]"
    for match in (
        re.match(rf"[^a-zA-Z]*({choices})(?:[^a-zA-Z]|$)", final.strip(), re.IGNORECASE),
        re.search(rf"\bAnswer\s*[:.]?\s*({choices})\b", final, re.IGNORECASE),
    ):
        if match:
            return match[1].upper()
    return deepseek_letter(text, letters, loose=False)


def deepseek_letter(text: str, letters: str, loose: bool) -> str | None:
    """A choice: the last letter after `ANSWER`. loose: else the last letter that stands alone, as for MMLU-Pro."""
    plain, choices = _plain(text.strip()), f"[{letters[0]}-{letters[-1]}]"
    matches = re.findall(rf"\bANSWER\b\s*[:=]?\s*\(?\s*({choices})\s*\)?(?:\s*$|[^A-Za-z])", plain, re.IGNORECASE)
    if not matches and loose:
        matches = re.findall(rf"\b({choices})\b", plain, re.IGNORECASE)
    return matches[-1].upper() if matches else None


def aime_number(text: str) -> int | None:
    """The last boxed integer, else the last after `Answer:`; None for one above 999."""
    numbers = _BOXED_NUMBER.findall(text) or _ANSWER_NUMBER.findall(text)
    if not numbers:
        return None
    digits = numbers[-1].lstrip("0") or "0"
    return int(digits) if len(digits) <= 3 else None


def boxed(text: str) -> str | None:
    r"""The content of the last \boxed{...}, up to its closing brace."""
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
        if blocks := _PYTHON_FENCE.findall(part):
            return str(blocks[-1]).strip()
        if blocks := _ANY_FENCE.findall(part):
            return _LANGUAGE.sub("", str(blocks[-1]).strip())
    return None


def deepseek_program(text: str) -> str | None:
    """The first Python block."""
    block = _PYTHON_FENCE.search(text)
    return block[1].strip() if block else None


def _plain(text: str) -> str:
    r"""Remove the traces of a list's repr: ['...'], and the escapes \n and \'."""
    if text.startswith(("['", '["')) and text.endswith(("']", '"]')):
        text = text[2:-2].strip()
    return text.replace(r"\n", "\n").replace(r"\'", "'")
