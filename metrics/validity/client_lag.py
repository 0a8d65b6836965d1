"""Truth check of a run against a server: the client was quick enough to measure it.

client_lag  the delay of the client's event loop is at most 5 % of the TTFT, at every percentile that the report gives
"""

from __future__ import annotations

from metrics.base import Run
from metrics.performance.latency import SHARES
from metrics.performance.token_latency import first_token_waits, first_tokens_in_service
from metrics.statistics.intervals import min_queries, percentile
from metrics.validity.check import Check, differs, holds

LARGEST = 0.05  # share of the TTFT
FLOOR_S = 0.0002  # Linux wakes a process that late on an idle machine too


def checks(run: Run) -> list[Check]:
    """None where the pipeline is no client; `allowed` where the run allows the difference."""
    lags = [r.client_lag_s for r in run.timed if r.client_lag_s is not None]
    if not lags:
        return []
    waits = first_tokens_in_service(run.timed) if run.config.scenario == "offline" else first_token_waits(run.timed)
    what = "time to first token" if waits else "latency"
    waits = waits or [r.latency_s for r in run.timed]
    found = []
    for share in (share for share in SHARES if share <= 0.5 or min(len(lags), len(waits)) >= min_queries(share, 1)):
        lag_s, wait_s = percentile(lags, share), percentile(waits, share)
        text = f"p{share * 100:.0f} {lag_s * 1e3:.3g} ms of a {what} of {wait_s * 1e3:.4g} ms"
        found.append((lag_s > max(FLOOR_S, LARGEST * wait_s), text))
    if late := [text for is_late, text in found if is_late]:
        check = differs(
            "client_lag",
            f"the client was the bottleneck: its event loop was late by more than {LARGEST:.0%}, {', '.join(late)}; give it a CPU of its "
            "own or more ranks, or send less; --set allow_fallback=[client_lag] accepts the times as they are",
        )
        return [check.allowed() if "client_lag" in run.config.allow_fallback else check]
    return [holds("client_lag", f"the client's event loop was late by at most {LARGEST:.0%}: {', '.join(text for _, text in found)}")]
