"""A Run from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from configs.decode import reading
from configs.errors import PluginError
from configs.registry import find, plugin_file
from metrics.base import Run
from pipelines.launcher.messages import Answer
from workloads.run_folder.files import read_run
from workloads.run_folder.manifest import read_manifest


def load_run(folder: Path) -> Run:
    """The run in the folder. Raises ConfigError naming the file that is missing or damaged."""
    config, samples, records, outcome = read_run(folder)
    for mode, test in outcome.items():
        with reading(f"{folder / 'outcome.json'}, replays of {mode},"):
            msgspec.convert(test.get("replays", []), list[Answer])
    return Run(folder, config, find_plugin(folder, "workloads", config.workload)(), samples, records, outcome)


def find_plugin(folder: Path, kind: str, name: str) -> type[Any]:
    """The plugin that the run used. Raises PluginError where it is not installed, or came from a plugin file that is not given."""
    try:
        origin = read_manifest(folder).get("plugins", {}).get(f"{kind.removesuffix('s')} {name}", "")
    except ValueError:
        origin = ""
    from_file = origin.startswith("plugins/")
    try:
        found: type[Any] = find(kind, name)
        if not from_file or plugin_file(kind, name):
            return found
    except PluginError:
        if not origin:
            raise
    fix = f"read {str(folder / origin)!r}, then give it as --plugin" if from_file else "install it"
    raise PluginError(f"{kind.removesuffix('s')} {name!r} of the run is from {origin!r} and is not installed; {fix}")
