"""Right and wrong answers to the same prompts, and how far a simulated rate may be off."""

from __future__ import annotations

import math


def right_wrong(both: int, losses: int, gains: int, neither: int) -> tuple[list[float], list[float]]:
    """Scores of the reference and of the candidate: prompts that both, the reference alone, the candidate alone, or neither got right."""
    return [1.0] * (both + losses) + [0.0] * (gains + neither), [1.0] * both + [0.0] * losses + [1.0] * gains + [0.0] * neither


def three_deviations(rate: float, num: int) -> float:
    """How far the rate of `num` simulations with fixed seeds may miss its goal: three standard deviations."""
    return 3 * math.sqrt(rate * (1 - rate) / num)
