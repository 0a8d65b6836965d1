"""manifest.json's hashes: what a run left behind, and what is no longer so.

Until the run has ended the manifest holds the hashes of what does not change meanwhile; then it is sealed and holds those of all files.
It shows what was damaged, lost or edited by the way. It is no signature: whoever can edit a file can edit its hash too, which is why a
bundle has a hash of its own (workloads/run_folder/bundle.py) to be told by another way.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from workloads.run_folder.files import write_json

SCHEMA = "triptych-manifest/1"
COMPUTED = ("manifest.json", "report.json", "report.html", "contact_sheet.png")  # from the other files, or over them
FIXED = ("config.yaml", "system.json", "samples.jsonl", "inputs", "plugins")  # what does not change while a run lasts
SHOWN = 5  # files of one kind that are named


class Changes(NamedTuple):
    """Files by what is wrong with them, paths in the run folder. sealed: whether all files were compared."""

    changed: list[str]
    missing: list[str]
    added: list[str]
    sealed: bool

    @property
    def in_words(self) -> list[str]:
        """A sentence for each kind."""
        kinds = (
            (self.changed, "modified after the run, by its hash in manifest.json"),
            (self.missing, "missing, though manifest.json lists it"),
            (self.added, "added after the run, for manifest.json does not list it"),
        )
        return [f"{_named(files)}: {what}" for files, what in kinds if files]


def file_hashes(folder: Path, sealed: bool = True) -> dict[str, str]:
    """SHA-256 by path in the folder: of every file of the run, or of FIXED only."""
    names = (n for n in run_files(folder) if sealed or n.partition("/")[0] in FIXED)
    return {name: _hash(folder / name) for name in names}


def run_files(folder: Path) -> list[str]:
    """Paths in the folder of every file of the run, in order: all but what is computed from others, unfinished or hidden."""
    found = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file() and p.name not in COMPUTED and p.suffix != ".partial")
    return sorted(p.as_posix() for p in found if not any(part.startswith(".") for part in p.parts))


def read_manifest(folder: Path) -> dict[str, Any]:
    """Raises ValueError, naming no path, where there is none or it is damaged."""
    try:
        found = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError("manifest.json is missing") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"manifest.json is damaged: {error}") from None
    if not isinstance(found, dict) or not isinstance(found.get("files"), dict):
        raise ValueError("manifest.json is damaged: it holds no hashes of files")
    return found


def changes(folder: Path, but: str = "") -> Changes:
    """The folder's files against their hashes. but: a folder in it that is not looked at. Raises ValueError as read_manifest does."""
    manifest = read_manifest(folder)
    sealed = manifest.get("sealed") is not False  # manifests of older versions do not say

    def looked_at(name: str) -> bool:
        top = name.partition("/")[0]
        return top != but and (sealed or top in FIXED)

    told = {name: digest for name, digest in manifest["files"].items() if looked_at(name)}
    there = set(filter(looked_at, run_files(folder)))
    return Changes(
        [name for name, digest in told.items() if name in there and _hash(folder / name) != digest],
        [name for name in told if name not in there],
        sorted(there - told.keys()),
        sealed,
    )


def modifications(folder: Path, but: str = "") -> list[str]:
    """How the folder's files differ from their hashes, a sentence for each kind; empty where none differs.

    Of a run that never ended only the FIXED files are compared.
    """
    try:
        return changes(folder, but).in_words
    except ValueError as error:
        return [f"{error}: no file of the run can be verified"]


def add_file(folder: Path, name: str) -> None:
    """Take into the manifest a file that a later command made from the run, as it is now. Raises ValueError as read_manifest does."""
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
