r"""Compares two mathematical results: \frac{3}{8} and 3/8 are the same, 6/16 and 3/8 are not.

It follows MLPerf's grader for MATH-500 (openai/prm800k, grading/grader.py), with two differences. That grader passes a model's answer to
Python's `eval` through SymPy; this one parses arithmetic with a grammar of its own. And terms with letters are compared at points instead
of being simplified. The two can disagree in rare notations. What cannot be parsed is compared as text.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

MAX_LENGTH = 200
MAX_LETTERS = 2  # terms with more unknowns are compared as text, as in prm800k
MAX_EXPONENT = 1_000
_POINTS = ((0.7390851332, 1.3247179572), (1.6180339887, 0.5671432904), (2.2360679775, 3.1462643699))  # for the letters, in turn
_DIGITS = 40
_UNITS = "degree|cm|centimeter|meter|mile|second|minute|hour|day|week|month|year|foot|feet|inch|yard"
_BRACKETS = "()[]"


def same_result(answer: str, expected: str) -> bool:
    """Whether the answer is the expected result. Integers and plain fractions must be given as such, not as a term to evaluate."""
    ours, theirs = _plain(answer), _plain(expected)
    if not ours or not theirs:
        return False
    if ours == theirs:
        return True
    if len(ours) > MAX_LENGTH or len(theirs) > MAX_LENGTH:
        return False
    parts, right = _parts(ours), _parts(theirs)
    if len(parts) != len(right) or (len(right) > 1 and (ours[0], ours[-1]) != (theirs[0], theirs[-1])):
        return False
    return all(_same_part(a, b) for a, b in zip(parts, right, strict=True))


def _same_part(answer: str, expected: str) -> bool:
    if answer == expected:
        return True
    if _is_fraction(answer) and _is_fraction(expected):
        return False
    if _is_whole(answer) != _is_whole(expected):
        return False
    try:
        ours, theirs = _tree(answer), _tree(expected)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return False
    letters = sorted(_letters(ours) | _letters(theirs))
    if len(letters) > MAX_LETTERS:
        return False
    return all(_agree(ours, theirs, dict(zip(letters, point, strict=False))) for point in _POINTS)


def _agree(answer: ast.expr, expected: ast.expr, values: Mapping[str, float]) -> bool:
    import mpmath

    with mpmath.workdps(_DIGITS):
        try:
            a, b = _value(answer, values), _value(expected, values)
        except (ValueError, ZeroDivisionError, OverflowError):
            return False
        return bool(abs(a - b) <= mpmath.mpf(10) ** (10 - _DIGITS) * max(1, abs(b)))


def _value(node: ast.expr, values: Mapping[str, float]) -> Any:
    import mpmath

    match node:
        case ast.Constant(value=str(number)):
            return mpmath.mpf(number)
        case ast.Name(id="pi"):
            return mpmath.pi()
        case ast.Name(id=name):
            return mpmath.mpf(values[name])
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_value(inner, values)
        case ast.Call(args=[inner]):
            return mpmath.sqrt(_value(inner, values))
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _value(left, values), _value(right, values)
            if isinstance(op, ast.Pow):
                if abs(b) > MAX_EXPONENT or abs(a) > 10**MAX_EXPONENT:
                    raise ValueError("too large to evaluate")
                return a**b
            return a + b if isinstance(op, ast.Add) else a - b if isinstance(op, ast.Sub) else a * b if isinstance(op, ast.Mult) else a / b
    raise ValueError("not arithmetic")


_TOKEN = re.compile(r"\d+(?:\.\d+)?|\.\d+|sqrt|pi|[a-z]|\*\*|[-+*/()]")


def _tree(text: str) -> ast.expr:
    """Parse numbers, letters, pi, sqrt( ), + - * / ** and brackets; numbers stay texts. Raises ValueError for anything else."""
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != text or not tokens:
        raise ValueError("not arithmetic")
    written = []
    for before, token in zip([None, *tokens], tokens, strict=False):
        ends = before is not None and (before == ")" or before[0].isdigit() or before[0] == "." or (before.isalpha() and before != "sqrt"))
        begins = token == "(" or token[0].isdigit() or token[0] == "." or token.isalpha()
        if ends and begins:
            written.append("*")  # 2x, 3(x+1), x sqrt(2)
        written.append(f"'{token}'" if token[0].isdigit() or token[0] == "." else token)
    return ast.parse("".join(written), mode="eval").body


def _letters(tree: ast.expr) -> set[str]:
    return {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} - {"pi", "sqrt"}


def _parts(text: str) -> list[str]:
    """The elements of a pair, an interval or a list in brackets; otherwise the text alone."""
    bracketed = len(text) > 2 and text[0] in _BRACKETS and text[-1] in _BRACKETS and not set(text[1:-1]) & set(_BRACKETS)
    return (
        text[1:-1].split(",")
        if bracketed and "," in text
        else text.split(",")
        if "," in text and not set(text) & set(_BRACKETS)
        else [text]
    )


def _is_whole(text: str) -> bool:
    return re.fullmatch(r"-?\d+(\.0*)?", text) is not None


def _is_fraction(text: str) -> bool:
    return re.fullmatch(r"-?\(?\d+\)?/\(?\d+\)?|-?\(\(?\d+\)?/\(?\d+\)?\)", text) is not None


def _plain(text: str) -> str:
    r"""LaTeX as plain arithmetic, lower case, without space: \frac{1}{2}x^{2} is (1/2)x**(2)."""
    text = text.strip().rstrip(".")
    if whole := re.fullmatch(r"\\(?:text|mbox|mathrm)\{(.+)\}", text):
        text = whole[1]
    text = re.sub(r"\\(?:text|mbox|mathrm)\{([^{}]*)\}", r" \1 ", text)
    for old, new in _WORDS:
        text = text.replace(old, new)
    text = re.sub(r"\\(?:left|right|big|Big|displaystyle)\b|\\[!,;: ]|~", "", text)
    text = re.sub(r"(\d),(\d{3})(?!\d)", r"\1\2", re.sub(r"(\d),(\d{3})(?=,\d{3})", r"\1\2", text))
    text = re.sub(rf"\s*\b(?:{_UNITS})(?:es|s)?\b\s*(?:\^\s*\{{?\d+\}}?)?", "", text)
    text = re.sub(r"(\d)\s+(\d+/\d+)", r"\1+\2", text)
    if re.match(r"^[a-z]\s*=", text) and text.count("=") == 1:  # x = 5
        text = text.split("=")[1]
    text = _fractions(re.sub(r"\s+", "", text))
    text = re.sub(r"\^\{([^{}]*)\}", r"**(\1)", text)
    text = text.replace("^", "**").replace("{", "").replace("}", "").replace("\\", "").lower()
    if re.fullmatch(r"-?\d+\.0*", text):
        text = text.split(".")[0]
    return re.sub(r"^(-?)\.(\d)", r"\g<1>0.\2", text)


_WORDS = (
    ("\\tfrac", "\\frac"),
    ("\\dfrac", "\\frac"),
    ("\\cfrac", "\\frac"),
    ("^\\circ", ""),
    ("^{\\circ}", ""),
    ("\\$", ""),
    ("$", ""),
    ("\\%", ""),
    ("%", ""),
    ("\\cdot", "*"),
    ("\\times", "*"),
    ("\\pi", "pi"),
    ("\\infty", "inf"),
    ("\\cup", "U"),
    (" or ", ","),
    (" and ", ","),
)


def _fractions(text: str) -> str:
    r"""\frac{a}{b}, \frac12 and \sqrt{a}, from the inside out, as a/b and sqrt(a) in brackets where they need them."""
    text = re.sub(r"\\frac(\d)(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac(\d)\{", r"\\frac{\1}{", text)
    text = re.sub(r"\\sqrt(\d)", r"\\sqrt{\1}", text)
    inner = r"\{([^{}]*)\}"
    for _ in range(MAX_LENGTH):
        before = text
        text = re.sub(rf"(\d?)\\frac{inner}{inner}", _fraction, text)
        text = re.sub(rf"\\sqrt\[(\d+)\]{inner}", r"((\2)**(1/\1))", text)
        text = re.sub(rf"\\sqrt{inner}", r"sqrt(\1)", text)
        text = re.sub(rf"\^{inner}", r"**(\1)", text)
        if text == before:
            break
    return text


def _fraction(match: re.Match[str]) -> str:
    whole, above, below = match[1], match[2], match[3]
    if above.isdigit() and below.isdigit():
        return f"({whole}+{above}/{below})" if whole else f"{above}/{below}"  # 2\frac{1}{3} is mixed, as prm800k has it
    return f"{whole}(({above})/({below}))"
