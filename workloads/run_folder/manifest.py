"""The hashes in manifest.json: which files of a run were modified, lost or added since it ended.

During the run the manifest has the hashes of the files that do not change; at its end it is sealed and has those of all files. It is not a
signature: whoever can edit a file can edit its hash. A bundle therefore has a hash of its own (bundle.py), to be sent by another way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Required, TypedDict

from configs.decode import read_document
from configs.errors import PluginError
from configs.registry import names, plugin_file, plugin_source
from workloads.run_folder.files import write_json

SCHEMA = "triptych-manifest/1"
COMPUTED = ("manifest.json", "report.json", "report.html", "contact_sheet.png")  # made from the other files
FIXED = ("config.yaml", "system.json", "samples.jsonl", "inputs", "plugins")  # does not change during a run
SHOWN = 5  # at most so many files of a kind are named


class Manifest(TypedDict, total=False):
    """manifest.json, as far as it is read. files: SHA-256 by path. plugins, plugin_sha256: origin and hash by kind and name."""

    files: Required[dict[str, str]]
    run: str
    sealed: bool
    plugins: dict[str, str]
    plugin_sha256: dict[str, str]
    config: dict[str, Any]
    prompt_set_sha256: str
    first_prompt: str | None
    suite_commit: str | None


class Changes(NamedTuple):
    """Modified, missing and added files, as paths in the run folder. sealed: whether all files were compared."""

    changed: list[str]
    missing: list[str]
    added: list[str]
    sealed: bool

    @property
    def sentences(self) -> list[str]:
        """One for each kind of change."""
        kinds = (
            (self.changed, "modified after the run, by its hash in manifest.json"),
            (self.missing, "missing, though manifest.json lists it"),
            (self.added, "added after the run, for manifest.json does not list it"),
        )
        return [f"{_named(files)}: {what}" for files, what in kinds if files]


def file_hashes(folder: Path, sealed: bool = True) -> dict[str, str]:
    """SHA-256 by path in the folder: of every file of the run, or only of FIXED.

    Where a run is sealed, FIXED files keep the hashes from its beginning: one that was changed while it went on is named as well.
    """
    hashes = {name: _hash(folder / name) for name in run_files(folder) if sealed or name.partition("/")[0] in FIXED}
    try:
        began = read_manifest(folder)
    except ValueError:
        return hashes
    return hashes | began["files"] if sealed and began.get("sealed") is False else hashes


def run_files(folder: Path) -> list[str]:
    """Sorted paths of the run's files in the folder, without computed, unfinished and hidden ones."""
    paths = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file() and p.name not in COMPUTED and p.suffix != ".partial")
    return sorted(p.as_posix() for p in paths if not any(part.startswith(".") for part in p.parts))


def read_manifest(folder: Path) -> Manifest:
    """Raises ValueError, without the path, if it is missing or damaged."""
    if not (folder / "manifest.json").exists():
        raise ValueError("manifest.json is missing")
    return read_document(folder / "manifest.json", Manifest, "manifest.json", ValueError)


def changes(folder: Path, but: str = "") -> Changes:
    """Compare the folder's files with their hashes. but: a folder in it to leave out. Raises ValueError as read_manifest does."""
    manifest = read_manifest(folder)
    sealed = manifest.get("sealed") is not False  # manifests of older versions do not say

    def is_compared(name: str) -> bool:
        top = name.partition("/")[0]
        return top != but and (sealed or top in FIXED)

    hashes = {name: digest for name, digest in manifest["files"].items() if is_compared(name)}
    there = set(filter(is_compared, run_files(folder)))
    return Changes(
        [name for name, digest in hashes.items() if name in there and _hash(folder / name) != digest],
        [name for name in hashes if name not in there],
        sorted(there - hashes.keys()),
        sealed,
    )


def modifications(folder: Path, but: str = "") -> list[str]:
    """How the folder's files differ from their hashes, a sentence for each kind; empty where none differs.

    Of a run that never ended only the FIXED files are compared.
    """
    try:
        return changes(folder, but).sentences
    except ValueError as error:
        return [f"{error}: no file of the run can be verified"]


def plugin_changes(folder: Path, parts: Sequence[tuple[str, str]]) -> list[str]:
    """How the plugins that are loaded now differ from those of the run, a sentence each. parts: kind and name, such as (metrics, mine).

    One that is not there is not compared. Manifests of older versions have the hashes of plugin files alone.
    """
    try:
        manifest = read_manifest(folder)
    except ValueError:
        return []  # `modifications` says so
    origins, hashes = manifest.get("plugins", {}), manifest.get("plugin_sha256", {})
    sentences = []
    for kind, name in parts:
        part = f"{kind.removesuffix('s')} {name}"
        origin = origins.get(part, "built in")
        try:
            source, file = plugin_source(kind, name), plugin_file(kind, name)
        except PluginError:
            continue
        now = str(file) if file else names(kind).get(name, "")
        before = hashes.get(part) or manifest["files"].get(origin)
        if before is not None and source is not None and hashlib.sha256(source).hexdigest() != before:
            sentences.append(f"{part} from {now} differs from the one that the run was made with ({origin}), by its hash in manifest.json")
    return sentences


def add_file(folder: Path, name: str) -> None:
    """Add a file that a later command made from the run. Raises ValueError as read_manifest does."""
    manifest = read_manifest(folder)
    manifest["files"] = dict(sorted({**manifest["files"], name: _hash(folder / name)}.items()))
    write_json(folder / "manifest.json", manifest)


def is_sealed(folder: Path) -> bool:
    try:
        return read_manifest(folder).get("sealed") is not False
    except ValueError:
        return False


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _named(files: list[str]) -> str:
    more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
    return ", ".join(files[:SHOWN]) + more
