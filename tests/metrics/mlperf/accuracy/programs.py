"""Programs as a model writes them, and tests as LiveCodeBench has them."""

from __future__ import annotations

import pytest

from metrics.mlperf.accuracy.sandbox.run_tests import STRONG, Limits, isolation

LIMITS = Limits(seconds=15)
ADD = "a, b = map(int, input().split())\nprint(a + b)"

strong = pytest.mark.skipif(not set(STRONG) <= set(isolation()), reason="the kernel has no Landlock, no seccomp or no namespaces")


def stdin(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"input": text, "output": expected, "kind": "stdin"} for text, expected in pairs]


def functional(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"input": text, "output": expected, "kind": "functional"} for text, expected in pairs]
