"""A bundle: a run folder as one zip file, from which the run can be scored again on another machine.

It holds the run's files, manifest.json and report.json; pages and plots are generated again from these. The same folder gives the same
bytes. A bundle may come from an untrusted source: only plain files with plain names are unpacked, into a new folder, and only as many bytes
as the archive's size can account for.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from configs.decode import SHOWN
from configs.errors import ConfigError, first_line
from workloads.run_folder.files import MIN_FREE_BYTES, check_at_rest
from workloads.run_folder.manifest import run_files

NEEDED = ("config.yaml", "samples.jsonl", "records.jsonl", "manifest.json")
STORED = ("media", "inputs")  # folders with files that are compressed already
MAX_FILES = 1_000_000
# At most this factor times the archive's size, plus these bytes, are unpacked; LoadGen's logs compress to a 30th.
MAX_GROWTH, GROWTH_BYTES = 200, 64 * 2**20
DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError)  # zipfile's errors, by what is damaged
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip file can hold
_NAME = re.compile(r"[^/\\:\x00-\x1f\x7f]+")


class Bundle(NamedTuple):
    """A written bundle."""

    path: Path
    sha256: str
    num_files: int
    num_bytes: int


def write_bundle(folder: Path, output: Path | None = None) -> Bundle:
    """Pack the run into `output`, by default RUN.zip beside it. Raises ConfigError if that exists, or the folder has no finished run."""
    for name in NEEDED:
        if not (folder / name).is_file():
            raise ConfigError(f"{str(folder)!r} cannot be bundled: it has no {name}; give a folder that a run wrote")
    check_at_rest(folder)
    home = folder.resolve()
    target = output or home.with_name(f"{home.name}.zip")
    if target.exists():
        raise ConfigError(f"{str(target)!r} exists; give --output another file, or remove it")
    names = [*run_files(folder), "manifest.json", *(["report.json"] if (folder / "report.json").is_file() else [])]
    partial = target.with_name(target.name + ".partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(partial, "w") as archive:
            for name in sorted(names):
                _add(archive, folder / name, f"{home.name}/{name}")
        partial.replace(target)
    except OSError as error:
        raise ConfigError(f"bundle {str(target)!r} cannot be written: {error.strerror or error}; give --output another place") from None
    finally:
        partial.unlink(missing_ok=True)
    with target.open("rb") as file:
        return Bundle(target, hashlib.file_digest(file, "sha256").hexdigest(), len(names), target.stat().st_size)


def unpack(bundle: Path, output: Path | None = None) -> Path:
    """Unpack the bundle into a new folder: `output`, by default NAME-unpacked beside it. All files, or no folder at all.

    Raises ConfigError if the file is not a bundle, is damaged or has foreign content, or the folder exists.
    """
    target = output or bundle.with_name(f"{bundle.stem}-unpacked")
    if target.exists():
        raise ConfigError(f"{str(target)!r} exists; give --output another folder, or report on that one: suite.py report {target}")
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with zipfile.ZipFile(bundle) as archive:
            members = _members(archive, bundle)
            target.parent.mkdir(parents=True, exist_ok=True)
            _check_room(members, bundle, target.parent)
            for name, member in members.items():
                path = partial / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as packed, path.open("xb") as file:
                    shutil.copyfileobj(packed, file, 2**20)
        partial.rename(target)
    except DAMAGED as error:
        if _first_bytes(bundle) != b"PK\x03\x04":
            raise ConfigError(f"{str(bundle)!r} is not a bundle; suite.py bundle RUN writes one") from None
        raise ConfigError(f"{str(bundle)!r} is damaged or incomplete ({first_line(error)[:SHOWN]}); copy it again") from None
    except OSError as error:
        raise ConfigError(f"bundle {str(bundle)!r} cannot be unpacked to {str(target)!r}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _add(archive: zipfile.ZipFile, path: Path, name: str) -> None:
    """Add the file without its time, owner and mode, on which no score depends."""
    member = zipfile.ZipInfo(name, _LONG_AGO)
    member.create_system, member.external_attr = 3, (stat.S_IFREG | 0o644) << 16
    member.compress_type = zipfile.ZIP_STORED if PurePosixPath(name).parts[1] in STORED else zipfile.ZIP_DEFLATED
    member.file_size = path.stat().st_size
    with path.open("rb") as file, archive.open(member, "w") as packed:
        shutil.copyfileobj(file, packed, 2**20)


def _members(archive: zipfile.ZipFile, bundle: Path) -> dict[str, zipfile.ZipInfo]:
    """Members by path in the run folder. Raises ConfigError naming the first one that does not belong in a bundle."""
    members: dict[str, zipfile.ZipInfo] = {}
    infos = archive.infolist()
    if len(infos) > MAX_FILES:
        raise ConfigError(f"bundle {str(bundle)!r} has {len(infos)} files, more than {MAX_FILES}; it is not unpacked")
    tops = {info.filename.partition("/")[0] for info in infos}
    for info in infos:
        parts = info.filename.removesuffix("/").split("/")
        kind = stat.S_IFMT(info.external_attr >> 16)
        wrong = ""
        if len(tops) > 1:
            wrong = f"is outside the one folder of a bundle ({', '.join(map(repr, sorted(tops)[:3]))})"
        elif not all(_NAME.fullmatch(part) and part not in (".", "..") for part in parts):
            wrong = "is not a path inside a run folder"
        elif kind not in (0, stat.S_IFREG) and not info.is_dir():
            wrong = "is a link or a device"
        elif info.flag_bits & 1:
            wrong = "is encrypted"
        elif "/".join(parts[1:]) in members:
            wrong = "occurs twice"
        if wrong:
            raise ConfigError(f"bundle {str(bundle)!r} is not unpacked: its file {info.filename!r} {wrong}")
        if not info.is_dir():
            members["/".join(parts[1:])] = info
    for name in NEEDED:
        if name not in members:
            raise ConfigError(f"{str(bundle)!r} is not a bundle of a run: it has no {name}; suite.py bundle RUN writes one")
    return members


def _check_room(members: dict[str, zipfile.ZipInfo], bundle: Path, place: Path) -> None:
    """Check the sizes that the archive declares; zipfile never unpacks a file beyond its own."""
    total, packed = sum(m.file_size for m in members.values()), bundle.stat().st_size
    if total > MAX_GROWTH * packed + GROWTH_BYTES:
        raise ConfigError(f"bundle {str(bundle)!r} is not unpacked: its {packed:,} bytes would grow to {total:,}, more than a run can pack")
    need, have = total + MIN_FREE_BYTES, shutil.disk_usage(place).free
    if need > have:
        raise ConfigError(f"bundle {str(bundle)!r} needs {need // 2**20} MiB, and {str(place)!r} has {have // 2**20} free; give --output")


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)
