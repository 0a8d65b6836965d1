"""The entry of one test in outcome.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pipelines.launcher import messages as wire
from pipelines.launcher.conductor.job import JobSpec
from pipelines.launcher.conductor.queries import Queries
from pipelines.launcher.replay import Replays


def make_outcome(
    job: JobSpec,
    aborted: str | None,
    queries: Queries,
    ready: Mapping[int, wire.Ready],
    byes: Mapping[int, wire.Bye],
    replays: Replays,
    power: Sequence[Mapping[str, Any]],
    num_ranks: int,
) -> dict[str, Any]:
    """aborted: why the test was aborted. num_ranks: of all replicas."""
    test, rest = queries.test, queries.rest
    return {
        "aborted": aborted or (test.error if test else None),
        "num_issued": queries.num_issued + rest.num_kept,
        "num_done": queries.num_done + rest.num_kept,
        "num_failed": queries.num_failed,
        "target_qps": test.target_qps if test else None,
        "loadgen_returned": bool(test and not test.running),
        "ranks": [_rank(ready[rank], byes.get(rank), replays) for rank in sorted(ready)],
        "replays": msgspec.to_builtins(replays.answers),
        "num_ranks": num_ranks,
        "power": list(power),
        **({"earlier": rest.earlier} if job.rest else {}),
    }


def _rank(ready: wire.Ready, bye: wire.Bye | None, replays: Replays) -> dict[str, Any]:
    return {
        "rank": ready.rank,
        "device": ready.device,
        "batch_size": ready.batch_size,
        "warmup_sample_s": ready.sample_s,
        "effective": ready.effective,
        "fallbacks": ready.fallbacks,
        "repeats": ready.repeats,
        "rests": ready.rests,
        "requested": ready.requested,
        "found": ready.inspection,
        "effective_after": bye.effective if bye else None,
        "found_after": bye.inspection if bye else None,
        "counted": bye.counted if bye else {},
        "backlog_s": replays.backlog_s.get(ready.rank),
        "memory": bye.memory if bye else {},
        "clock_offset_s": bye.clock_offset_s if bye else None,
        "clock_error_s": bye.clock_error_s if bye else None,
        "error": bye.error if bye else "exited without reporting an error",
    }
