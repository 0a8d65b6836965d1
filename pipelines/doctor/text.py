"""An examination in a terminal: devices, links, findings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from configs.output import open_console, styled
from pipelines.doctor.examination import Examination, Finding, most_common


def print_examination(examination: Examination, findings: Sequence[Finding], file: Path) -> None:
    """To stderr, so that stdout holds nothing but the last JSON line."""
    console = open_console()
    failed = any(f.level == "error" for f in findings)
    num_hosts = len(examination.hosts())
    console.print(
        styled("FAIL", "bold red") if failed else styled("PASS", "bold green"),
        f"{examination.num_ranks} rank{'s' * (examination.num_ranks > 1)} on {num_hosts} host{'s' * (num_hosts > 1)}, "
        f"collectives by {examination.backend}",
        sep="  ",
    )
    if examination.ranks:
        console.print(_devices(examination))
        versions = most_common(tuple(r.versions.items()) for r in examination.ranks)
        _say(console, ", ".join(f"{name} {version}" for name, version in versions if version))
        variables = most_common(tuple(r.environment.items()) for r in examination.ranks)
        _say(console, "set: " + (" ".join(f"{name}={value}" for name, value in variables) or "none of the variables that matter"))
    if examination.collectives or examination.pairs:
        console.print(_links(examination))
    for finding in findings:
        _say(console, f"  - {finding.level}: {finding.text}")
    if not findings:
        console.print("  no findings")
    _say(console, f"written: {os.path.relpath(file)}")


def _devices(examination: Examination) -> Table:
    table = _table("rank", "host", "device", "model", "bus", "NUMA", "memory", "TFLOP/s")
    for r in examination.ranks:
        memory = f"{r.memory_bytes / 2**30:.0f} GiB" if r.memory_bytes else ""
        speed = f"{r.tflops:.4g}" if r.tflops is not None else "-"
        model = f"{r.device_name} {r.arch}" if r.arch else r.device_name
        table.add_row(str(r.rank), r.host, r.device, model, r.pci_bus or "", "" if r.numa_node is None else str(r.numa_node), memory, speed)
    return table


def _links(examination: Examination) -> Table:
    """One row for each class: how many were measured, the median, and the slowest with its ranks."""
    table = _table("link", "count", "latency us", "GB/s", "slowest", "of ranks")
    classes: dict[str, list[_Row]] = {}
    for c in examination.collectives:
        row = _Row(c.latency_s, c.bus_bandwidth, c.ranks)
        classes.setdefault(f"{c.operation}, {c.scope}, n={len(c.ranks)}", []).append(row)
    for p in examination.pairs:
        classes.setdefault(f"pair, {p.scope}", []).append(_Row(p.latency_s, p.bandwidth, p.ranks))
    for name, rows in classes.items():
        slowest = min(rows, key=lambda row: row.bandwidth)
        ranks = " ".join(map(str, slowest.ranks)) if len(slowest.ranks) <= 8 else f"{slowest.ranks[0]} ... {slowest.ranks[-1]}"
        latency_s, bandwidth = median(row.latency_s for row in rows), median(row.bandwidth for row in rows)
        table.add_row(name, str(len(rows)), f"{latency_s * 1e6:.4g}", _rate(bandwidth), _rate(slowest.bandwidth), ranks)
    return table


class _Row(NamedTuple):
    latency_s: float
    bandwidth: float
    ranks: Sequence[int]


def _rate(value: float) -> str:
    return f"{value / 1e9:.4g}"


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="left" if name in ("host", "device", "model", "bus", "of ranks") else "right")
    return table


def _say(console: Console, line: str) -> None:
    """One line, unwrapped however narrow the terminal."""
    console.print(line, soft_wrap=True)
