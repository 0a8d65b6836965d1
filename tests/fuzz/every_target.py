"""Every target, from the files of targets/."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.fuzzing import Target
from tests.fuzz.targets import bundles, checkpoints, configurations, data_sets, run_folders, servers, small_files

KINDS = (bundles, checkpoints, configurations, data_sets, run_folders, servers, small_files)


def every_target(place: Path) -> list[Target]:
    """place: an empty folder, for the files that they need."""
    found = []
    for kind in KINDS:
        folder = place / kind.__name__.rpartition(".")[2]
        folder.mkdir()
        found += kind.targets(folder)
    return found
