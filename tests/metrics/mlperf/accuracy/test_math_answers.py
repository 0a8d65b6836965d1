"""Mathematical results that are the same, and some that are not."""

from __future__ import annotations

import pytest

from metrics.mlperf.accuracy.math_answers import same_result


@pytest.mark.parametrize(
    ("answer", "expected", "same"),
    [
        (r"\frac{3}{8}", "3/8", True),
        (r"\tfrac38", r"\frac{3}{8}", True),
        (r"\frac{6}{16}", r"\frac{3}{8}", False),  # not in lowest terms
        ("0.375", r"\frac{3}{8}", True),
        ("10/2", "5", False),  # a whole number is written out
        ("5.0", "5", True),
        ("1,234", "1234", True),
        (r"2\sqrt{2}", r"\sqrt{8}", True),
        (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}", True),
        (r"(x+1)^2", "x^2+2x+1", True),
        (r"(x+1)^2", "x^2+2x", False),
        (r"\left(3, \frac{\pi}{2}\right)", r"(3,\frac{\pi}{2})", True),
        ("[1,2)", "(1,2)", False),
        (r"90^\circ", "90", True),
        (r"\text{east}", "East", True),
        (r"x = 5", "5", True),
        (r"12\%", "12", True),
        ("a+b+c", "c+b+a", False),  # more unknowns than two are compared as text
        ("9**9**9**9", "3", False),
        ("__import__('os').system('true')", "3", False),
        ("", "1", False),
    ],
)
def test_equal_results_are_recognised_in_any_notation(answer: str, expected: str, same: bool) -> None:
    assert same_result(answer, expected) is same
