"""Provenance of a run: system.json and manifest.json."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.errors import PluginError
from configs.registry import find, names, plugin_file, plugin_source
from configs.run_config import RunConfig
from pipelines.devices.system import package_version, system_facts
from pipelines.doctor.examination import as_json, newest_fitting, without_names
from pipelines.doctor.findings import findings
from workloads.records import Sample
from workloads.run_folder.files import prompt_set_hash, read_run, write_json
from workloads.run_folder.manifest import SCHEMA, file_hashes


def write_system(folder: Path) -> None:
    """Write system.json: CPU, memory, accelerators, settings, versions, and the doctor's last examination. Names no host and no user."""
    write_json(folder / "system.json", {**system_facts(), "doctor": last_examination(folder)})


def last_examination(folder: Path) -> dict[str, Any] | None:
    """The newest doctor*.json under outputs/ or beside the run folder that fits this launch; its `time` says when it was made.

    Hosts are numbered in it. None where `suite.py doctor` was not run, or with other ranks.
    """
    examination = newest_fitting((Path("outputs"), folder.resolve().parent))
    if examination is None:
        return None
    nameless = without_names(examination)
    return as_json(nameless, findings(nameless))


def write_manifest(folder: Path, config: RunConfig, samples: Sequence[Sample], sealed: bool = False) -> None:
    """Write manifest.json: what is needed to repeat the run, and the SHA-256 of its files. sealed: the run has ended; all files are hashed.

    Plugin files of the run are kept in plugins/, as they were when it began.
    """
    origins, hashes = _keep_plugins(folder, config)
    manifest: dict[str, Any] = {
        "schema": SCHEMA,
        "run": folder.resolve().name,
        "sealed": sealed,
        "seed": config.seed,
        "prompt_set_sha256": prompt_set_hash(samples),
        "num_samples": len(samples),
        "first_prompt": samples[0].beginning if samples else None,
        "suite_commit": suite_commit(),
        "config": config.model_dump(),
        "plugins": origins,
        "plugin_sha256": hashes,
        "files": file_hashes(folder, sealed),
    }
    write_json(folder / "manifest.json", manifest)


def seal(folder: Path) -> None:
    """Write manifest.json over all files of a run that has ended, in whichever way."""
    config, samples, _, _ = read_run(folder)
    write_manifest(folder, config, samples, sealed=True)


def run_parts(config: RunConfig) -> list[tuple[str, str]]:
    """The run's pipeline, workload and metrics: kind and name of each."""
    metrics = config.metrics or find("workloads", config.workload).default_metrics
    return [("pipelines", config.pipeline_name), ("workloads", config.workload), *(("metrics", name) for name in metrics)]


def _keep_plugins(folder: Path, config: RunConfig) -> tuple[dict[str, str], dict[str, str]]:
    """The origin of the run's parts that are not built in: `metric sharpness` -> plugins/sharp.py, or its package; and their hashes.

    Raises PluginError where two plugin files have the same name.
    """
    origins: dict[str, str] = {}
    hashes: dict[str, str] = {}
    kept: dict[str, bytes] = {}
    for kind, name in run_parts(config):
        file, source = plugin_file(kind, name), plugin_source(kind, name)
        origin = names(kind).get(name, "")
        if file is not None and source is not None:
            origin = f"plugins/{file.name}"
            if kept.setdefault(origin, source) != source:
                raise PluginError(f"two plugin files of the run are named {file.name!r}; rename one of them")
            if not (folder / origin).exists():
                (folder / "plugins").mkdir(exist_ok=True)
                (folder / origin).write_bytes(source)
        elif origin.startswith("package "):
            origin += f" {package_version(origin.removeprefix('package '))}"
        if origin != "built in":
            part = f"{kind.removesuffix('s')} {name}"
            origins[part] = origin
            if source is not None:
                hashes[part] = hashlib.sha256(source).hexdigest()
    return origins, hashes


def suite_commit() -> str | None:
    """The checkout's commit, with `+changes` where files differ from it; None outside a checkout."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
