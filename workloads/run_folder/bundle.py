"""A bundle: a run folder as one zip file, from which the run can be scored again on another machine.

It holds the run's files, manifest.json and the report.json that was written beside them; pages and pictures are made again from these.
The same folder gives the same bytes. What is read back may come from anywhere: only plain files with plain names are unpacked, into a
new folder, and no more of them than the archive's size can account for.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from configs.errors import ConfigError
from workloads.run_folder.files import MIN_FREE_BYTES, check_at_rest
from workloads.run_folder.manifest import run_files

NEEDED = ("config.yaml", "samples.jsonl", "records.jsonl", "manifest.json")
STORED = ("media", "inputs")  # whose files are compressed already
MAX_FILES = 1_000_000
MAX_GROWTH, GROWTH_BYTES = 200, 64 * 2**20  # unpacked, so many times the archive's size, and so much more; LoadGen's logs shrink to a 30th
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip file knows
_NAME = re.compile(r"[^/\\:\x00-\x1f\x7f]+")


class Bundle(NamedTuple):
    """A bundle that was written."""

    path: Path
    sha256: str
    num_files: int
    num_bytes: int


def write_bundle(folder: Path, output: Path | None = None) -> Bundle:
    """Pack the run into `output`, or RUN.zip beside it. Raises ConfigError where that exists, or the folder holds no run that has ended."""
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
    """The bundle's files in a new folder: `output`, or NAME-unpacked beside the bundle. All of them, or no folder at all.

    Raises ConfigError where the file is no bundle, is damaged or holds what a bundle does not, or the folder exists.
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
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        if _first_bytes(bundle) != b"PK\x03\x04":
            raise ConfigError(f"{str(bundle)!r} is no bundle; suite.py bundle RUN writes one") from None
        raise ConfigError(f"{str(bundle)!r} is damaged, or cut short ({error}); copy it again") from None
    except OSError as error:
        raise ConfigError(f"bundle {str(bundle)!r} cannot be unpacked to {str(target)!r}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _add(archive: zipfile.ZipFile, path: Path, name: str) -> None:
    """Without the file's time, owner and mode, which no score depends on."""
    member = zipfile.ZipInfo(name, _LONG_AGO)
    member.create_system, member.external_attr = 3, (stat.S_IFREG | 0o644) << 16
    member.compress_type = zipfile.ZIP_STORED if PurePosixPath(name).parts[1] in STORED else zipfile.ZIP_DEFLATED
    member.file_size = path.stat().st_size
    with path.open("rb") as file, archive.open(member, "w") as packed:
        shutil.copyfileobj(file, packed, 2**20)


def _members(archive: zipfile.ZipFile, bundle: Path) -> dict[str, zipfile.ZipInfo]:
    """By path in the run folder. Raises ConfigError naming the first that does not belong into a bundle."""
    found: dict[str, zipfile.ZipInfo] = {}
    infos = archive.infolist()
    if len(infos) > MAX_FILES:
        raise ConfigError(f"bundle {str(bundle)!r} holds {len(infos)} files, more than {MAX_FILES}; it is not unpacked")
    tops = {info.filename.partition("/")[0] for info in infos}
    for info in infos:
        parts = info.filename.removesuffix("/").split("/")
        kind = stat.S_IFMT(info.external_attr >> 16)
        wrong = ""
        if len(tops) > 1:
            wrong = f"lies outside the one folder that a bundle has ({', '.join(map(repr, sorted(tops)[:3]))})"
        elif not all(_NAME.fullmatch(part) and part not in (".", "..") for part in parts):
            wrong = "is no path inside a run folder"
        elif kind not in (0, stat.S_IFREG) and not info.is_dir():
            wrong = "is a link or a device"
        elif info.flag_bits & 1:
            wrong = "is encrypted"
        elif "/".join(parts[1:]) in found:
            wrong = "is there twice"
        if wrong:
            raise ConfigError(f"bundle {str(bundle)!r} is not unpacked: its file {info.filename!r} {wrong}")
        if not info.is_dir():
            found["/".join(parts[1:])] = info
    for name in NEEDED:
        if name not in found:
            raise ConfigError(f"{str(bundle)!r} is no bundle of a run: it holds no {name}; suite.py bundle RUN writes one")
    return found


def _check_room(members: dict[str, zipfile.ZipInfo], bundle: Path, place: Path) -> None:
    """Sizes are as the archive tells them; no file is ever unpacked beyond its own."""
    total, packed = sum(m.file_size for m in members.values()), bundle.stat().st_size
    if total > MAX_GROWTH * packed + GROWTH_BYTES:
        raise ConfigError(
            f"bundle {str(bundle)!r} is not unpacked: its {packed:,} bytes would grow to {total:,}, beyond anything that a run packs"
        )
    need, have = total + MIN_FREE_BYTES, shutil.disk_usage(place).free
    if need > have:
        raise ConfigError(f"bundle {str(bundle)!r} needs {need // 2**20} MiB, and {str(place)!r} has {have // 2**20} free; give --output")


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)
