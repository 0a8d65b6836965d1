"""The conductor's clock as another process estimates it, from round trips.

A message goes out at `sent` on our clock, the conductor notes `at` on its own, and the answer is here at `now`: the conductor's clock
then showed `at` at some moment between, so that offset = at - (sent + now) / 2, wrong by (now - sent) / 2 at most.
Source: Cristian, Probabilistic clock synchronization, 1989.
"""

from __future__ import annotations

import math

DRIFT = 50e-6  # seconds a second by which two quartz clocks may drift apart


class ConductorClock:
    """Keeps the best round trip; an old one loses to a new one as the clocks may have drifted apart since."""

    def __init__(self) -> None:
        self.offset_s, self._error_s, self._since = 0.0, math.inf, 0.0

    def add_round_trip(self, sent: float, at: float, now: float) -> None:
        """A round trip; `sent` and `now` on our clock (time.perf_counter), `at` on the conductor's."""
        if (now - sent) / 2 < self.error_s(now):
            self.offset_s, self._error_s, self._since = at - (sent + now) / 2, (now - sent) / 2, now

    def error_s(self, now: float) -> float:
        """How far off a time may be that is converted to the conductor's clock; infinite before the first round trip."""
        return self._error_s + DRIFT * (now - self._since)

    def of(self, own: float) -> float | None:
        """Convert a time on our clock to the conductor's; None before the first round trip."""
        return None if math.isinf(self._error_s) else own + self.offset_s
