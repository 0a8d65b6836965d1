"""What is wrong with a cluster, and how to mend it. Pure functions over an Examination; each returns Findings."""

from __future__ import annotations

from collections.abc import Callable

from pipelines.doctor.device_findings import (
    broken_devices,
    cpu_fallback,
    missing_devices,
    slow_devices,
    unequal_hosts,
    unequal_software,
    unsuitable_settings,
)
from pipelines.doctor.examination import Examination, Finding
from pipelines.doctor.link_findings import odd_links, slow_groups, slow_pairs, wrong_values
from pipelines.doctor.phrases import who


def findings(examination: Examination) -> list[Finding]:
    """The findings of all checks, errors first."""
    results = [finding for check in CHECKS for finding in check(examination)]
    return sorted(results, key=lambda f: f.level != "error")


def silent_ranks(examination: Examination) -> list[Finding]:
    """Ranks that did not answer within the time limit."""
    results = []
    for step in dict.fromkeys(examination.silent.values()):
        ranks = [rank for rank, seen in examination.silent.items() if seen == step]
        named = who(examination, ranks)
        if len(ranks) == examination.num_ranks > 1:
            text = f"no rank got through step {step!r}: the link between them is stuck; run with NCCL_DEBUG=INFO and read its last lines"
        else:
            where = "the link between them" if step.startswith("pairs") and len(ranks) > 1 else "that device and at its host's log"
            text = f"{named} did not get through step {step!r}; look at {where}, or leave it out"
        results.append(Finding("error", text, ranks))
    return results


CHECKS: tuple[Callable[[Examination], list[Finding]], ...] = (
    silent_ranks,
    broken_devices,
    cpu_fallback,
    missing_devices,
    unequal_hosts,
    slow_devices,
    wrong_values,
    slow_pairs,
    slow_groups,
    odd_links,
    unequal_software,
    unsuitable_settings,
)
