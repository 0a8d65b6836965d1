"""Linux's powercap tree, made by hand."""

from __future__ import annotations

from pathlib import Path


def write_package(powercap: Path, number: int = 0, energy_j: float = 1000.0, name: str = "package-0") -> Path:
    zone = powercap / f"intel-rapl:{number}"
    zone.mkdir(parents=True, exist_ok=True)
    files = {
        "name": name,
        "energy_uj": f"{energy_j * 1e6:.0f}",
        "max_energy_range_uj": "262143328850",
        "constraint_0_power_limit_uw": "150000000",
    }
    for file, text in files.items():
        (zone / file).write_text(f"{text}\n", encoding="utf-8")
    return zone / "energy_uj"
