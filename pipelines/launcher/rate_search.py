"""The highest rate at which a server run is still VALID: bracket it, bisect, confirm with one full run.

Every probe is a run folder of its own under probes/, which `suite.py report` can read. search.json holds their results.
The confirming run becomes the run itself.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from configs.errors import RunError
from configs.output import echo
from configs.run_config import RunConfig
from pipelines.distributed.ranks import share
from pipelines.launcher.provenance import seal
from pipelines.launcher.session import Session
from workloads.loadgen.load_test import read_summary
from workloads.run_folder.files import begin_run, write_json
from workloads.run_folder.search import Probe

PROBE_SHARE, MIN_PROBE_S = 0.4, 2.0  # of the full run's minimum duration; and at least so long
CLOSE_ENOUGH = 1.08  # the search ends when the lowest INVALID rate is at most this far above the highest VALID one
STEP = 1.6  # from one rate to the next until there is a VALID and an INVALID one
RETREAT = 0.95  # after a full run that was INVALID
MAX_PROBES, MAX_CONFIRMATIONS = 14, 6


def search_rate(config: RunConfig, session: Session, folder: Path) -> list[Probe]:
    """Find the highest VALID rate; its full run is left in `folder`. Raises RunError where there is none."""
    probes: list[Probe] = []
    rate = None if config.load.target_qps == "auto" else float(config.load.target_qps)
    low = high = None
    while len(probes) < MAX_PROBES:
        probe = _probe(config, session, folder, probes, rate, full=False)
        if probe.verdict == "VALID":
            low = max(low or 0.0, probe.target_qps)
        else:
            high = min(high or math.inf, probe.target_qps)
        if low is None and high is not None:
            rate = high / STEP
        elif high is None and low is not None:
            rate = low * STEP
        elif low is not None and high is not None:
            if high <= low * CLOSE_ENOUGH:
                break
            rate = math.sqrt(low * high)
    if low is None or high is None:
        tried = ", ".join(f"{p.target_qps:.3g}" for p in probes)
        which = "no rate was VALID" if low is None else "every rate was VALID"
        raise RunError(f"{which} (tried {tried} queries a second). Loosen the limits, or set load.target_qps nearer to the right rate.")
    for _ in range(MAX_CONFIRMATIONS):
        probe = _probe(config, session, folder, probes, low, full=True)
        if probe.verdict == "VALID":
            _adopt(folder, probe, session)
            return probes
        low *= RETREAT
    raise RunError(
        f"short probes were VALID but full runs down to {low / RETREAT:.3g} queries a second were not. Set load.target_qps lower."
    )


def _probe(config: RunConfig, session: Session, folder: Path, probes: list[Probe], rate: float | None, full: bool) -> Probe:
    duration_s = config.load.min_duration_s
    load = config.load.model_copy(
        update={
            "target_qps": "auto" if rate is None else rate,
            "min_duration_s": duration_s if full else min(duration_s, max(MIN_PROBE_S, duration_s * PROBE_SHARE)),
        }
    )
    own = folder / "probes" / f"{len(probes) + 1:02d}"
    truth = config.truth if full else config.truth.model_copy(update={"replays": 0})  # a probe's answers are not the run's
    one = config.model_copy(update={"load": load, "mode": "performance", "truth": truth})
    if session.ranks.rank == 0:
        (own / "media").mkdir(parents=True, exist_ok=True)
        begin_run(own, one, session.samples)
    outcome = session.run(one, "performance", own)
    probe = None
    if session.ranks.rank == 0:
        seal(own)
        probe = _read(own, folder, one, float(outcome.get("target_qps") or 0.0), full)
    probe = share(probe, session.ranks)
    assert probe is not None
    probes.append(probe)
    if session.ranks.rank == 0:
        _write(folder, config, probes)
        echo(_line(config, probe, len(probes)), to_stderr=True)
    return probe


def _read(own: Path, folder: Path, config: RunConfig, target_qps: float, full: bool) -> Probe:
    summary = read_summary(own / "performance")
    percent, limits = f"{config.load.target_percentile * 100:.2f} percentile", config.limits

    def seconds(name: str, limit: float | None) -> float | None:
        value = summary.get(f"{percent} {name} (ns)")
        return None if limit is None or value is None else float(value) / 1e9

    return Probe(
        target_qps,
        "VALID" if summary.get("Result is") == "VALID" else "INVALID",
        float(summary.get("Completed samples per second", 0.0)),
        seconds("first token latency", limits.target_ttft_s),
        seconds("time to output token", limits.target_tpot_s),
        seconds("latency", None if limits.by_token else limits.target_latency_s),
        os.path.relpath(own, folder),
        full,
    )


def _write(folder: Path, config: RunConfig, probes: Sequence[Probe]) -> None:
    valid = [p.target_qps for p in probes if p.verdict == "VALID"]
    full = [p for p in probes if p.full and p.verdict == "VALID"]
    content = {
        "limits": config.limits.model_dump(exclude_none=True) | {"percentile": config.load.target_percentile},
        "probes": [msgspec.structs.asdict(p) for p in probes],
        "max_valid_qps": full[-1].target_qps if full else max(valid, default=None),
        "confirmed": bool(full),
    }
    write_json(folder / "search.json", content)


def _line(config: RunConfig, probe: Probe, number: int) -> str:
    limits = config.limits
    pairs = (
        ("TTFT", probe.ttft_s, limits.target_ttft_s),
        ("TPOT", probe.tpot_s, limits.target_tpot_s),
        ("latency", probe.latency_s, limits.target_latency_s),
    )
    shown = ", ".join(f"{name} {value:.3g} of {limit:.3g} s" for name, value, limit in pairs if value is not None and limit is not None)
    kind = "full run" if probe.full else "probe"
    return f"{kind} {number}: {probe.target_qps:.4g} queries/s {probe.verdict}  p{config.load.target_percentile * 100:.0f} {shown}"


def _adopt(folder: Path, probe: Probe, session: Session) -> None:
    """Make the confirming run the run itself."""
    if session.ranks.rank == 0:
        for item in (folder / probe.folder).iterdir():
            target = folder / item.name
            if target.is_dir():
                shutil.rmtree(target)  # such as the empty media/ of a new run folder
            item.replace(target)
        (folder / probe.folder).rmdir()
