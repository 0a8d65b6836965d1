"""A run folder: everything that a run writes and a report needs.

outputs/<run>/
  .claim            the process that writes the run; workloads/run_folder/claim.py
  config.yaml       the effective RunConfig
  system.json       machine, devices, package versions
  samples.jsonl     the data set
  inputs/           its images, named by sample index and number
  records.jsonl     one line for each query, appended as it finishes
  records.failed.jsonl   failed records of the parts before a resumption
  power.jsonl       power samples of the devices that have a meter
  outcome.json      how each test ended, the effective settings of each rank, peak memory
  <mode>/           LoadGen's logs: mlperf_log_summary.txt, mlperf_log_detail.txt ...
  media/            answers that are files, named by test and query
  attempts/         tests that were too short and were run again; workloads/run_folder/attempts.py
  plugins/          the run's plugin files
  manifest.json     seeds, hashes of all files; workloads/run_folder/manifest.py
  report.json, report.html, contact_sheet.png
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from configs.decode import reading
from configs.errors import ConfigError
from configs.load_config import parse_config, read_yaml
from configs.run_config import RunConfig
from configs.yaml_text import write_yaml_text
from workloads.records import Record, Sample
from workloads.run_folder.claim import Claim, check_unclaimed, claim, unwritable
from workloads.run_folder.outcome import Outcome, read_outcome

MIN_FREE_BYTES = 64 * 2**20
OWN = ("records.jsonl", "config.yaml", "manifest.json", "search.json", "probes")  # any of them shows that a folder holds a run
_MEDIA = re.compile(r"media/[A-Za-z0-9_][A-Za-z0-9_.-]*")  # no file outside the run folder is read
_MAGIC = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpg", b"GIF8": "gif", b"BM": "bmp"}


class SampleLine(msgspec.Struct, frozen=True):
    """A line of samples.jsonl. images: files in inputs/."""

    index: int
    prompt: str
    meta: dict[str, Any]
    images: list[str] = []


def create_run_folder(output: str | None, workload: str) -> Claim:
    """Create `output`, by default outputs/<workload>-<time>, and claim it for this process.

    Raises ConfigError if it holds a run, another run is being written there, it is not writable, or its disk is full.
    """
    claimed = claim(Path(output)) if output else _claim_unused(Path("outputs") / f"{workload}-{time.strftime('%Y%m%d-%H%M%S')}")
    try:
        _check_writable(claimed.folder)
    except BaseException:
        claimed.release()
        raise
    return claimed


def _check_writable(folder: Path) -> None:
    if any((folder / name).exists() for name in OWN):
        raise ConfigError(f"output folder {str(folder)!r} already holds a run; give --output another folder, or remove it")
    try:
        (folder / "media").mkdir(exist_ok=True)
        probe = folder / ".probe"
        probe.write_bytes(b"\0" * 4096)
        probe.unlink()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise unwritable(folder, error) from None
    if free < MIN_FREE_BYTES:
        raise ConfigError(f"output folder {str(folder)!r} has {free // 2**20} MiB free, under {MIN_FREE_BYTES // 2**20}; free some space")


def begin_run(folder: Path, config: RunConfig, samples: Sequence[Sample]) -> None:
    """What a run folder holds before the first answer."""
    write_config(folder, config)
    write_samples(folder, samples)
    (folder / "records.jsonl").touch()


def write_config(folder: Path, config: RunConfig) -> None:
    write_text(folder / "config.yaml", write_yaml_text(config.model_dump()))


def write_samples(folder: Path, samples: Sequence[Sample]) -> None:
    """Write samples.jsonl, and every image unchanged under inputs/."""
    lines = []
    for sample in samples:
        names = [f"inputs/{sample.index:06d}-{i}.{_extension(image)}" for i, image in enumerate(sample.images)]
        if names:
            (folder / "inputs").mkdir(exist_ok=True)
        for name, image in zip(names, sample.images, strict=True):
            (folder / name).write_bytes(image)
        line = {"index": sample.index, "prompt": sample.prompt, "meta": dict(sample.meta)} | ({"images": names} if names else {})
        lines.append(json.dumps(line, ensure_ascii=False))
    write_text(folder / "samples.jsonl", "".join(f"{line}\n" for line in lines))


def read_run(folder: Path) -> tuple[RunConfig, list[Sample], list[Record], dict[str, Outcome]]:
    """Configuration, samples, records and outcome of a run. Raises ConfigError naming the file that is wrong.

    A last record that a crash cut short is dropped; records are in the order in which they finished. A missing image is empty.
    """
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"{str(folder)!r} is not a run folder: it has no config.yaml; give a folder that a run wrote")
    config = parse_config(read_yaml(folder / "config.yaml"), str(folder / "config.yaml"))
    samples = [_sample(folder, line) for line in _read_lines(folder / "samples.jsonl", SampleLine)]
    records = _read_lines(folder / "records.jsonl", Record)
    for record in records:
        for name in ("mode", "finish_reason"):  # one string for all records: a tenth of a million records' memory
            if (text := getattr(record, name)) is not None:
                msgspec.structs.force_setattr(record, name, sys.intern(text))
        if not 0 <= record.sample_index < len(samples):
            raise ConfigError(f"{folder / 'records.jsonl'}: query {record.query_id} has sample {record.sample_index} of {len(samples)}")
        if record.media is not None and not _MEDIA.fullmatch(record.media):
            raise ConfigError(
                f"{folder / 'records.jsonl'}: query {record.query_id} names the file {record.media!r:.80}, which is not in media/"
            )
    return config, samples, records, read_outcome(folder)


def write_outcome(folder: Path, mode: str, outcome: Mapping[str, Any]) -> None:
    """Add one test's outcome to those of earlier tests."""
    write_json(folder / "outcome.json", {**read_outcome(folder), mode: outcome})


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write with an indent of two. Raises ValueError where a number is not finite."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)  # with its own indent it takes three times as long
    write_bytes(path, msgspec.json.format(text.encode(), indent=2) + b"\n")


def write_text(path: Path, text: str) -> None:
    """Write the whole file or nothing."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write the whole file or nothing."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def prompt_set_hash(samples: Iterable[Sample]) -> str:
    """SHA-256 over the prompts in order, with their images."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(sample.prompt.encode() + b"\0" + b"".join(sample.images) + b"\0")
    return digest.hexdigest()


def check_at_rest(folder: Path) -> None:
    """Raises ConfigError if a run still writes into the folder."""
    check_unclaimed(folder)
    check_unlocked(folder)


def check_unlocked(folder: Path) -> None:
    """Raises ConfigError if a conductor still writes records, even where its rank 0 is gone, and with it the claim."""
    with (folder / "records.jsonl").open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"run {str(folder)!r} is still being written; wait until it ends, or end it") from None
        except OSError:
            pass  # a file system without locks


def _sample(folder: Path, line: SampleLine) -> Sample:
    for name in line.images:
        if not re.fullmatch(r"inputs/[0-9]+-[0-9]+\.[a-z]+", name):  # no file outside the run folder is read
            raise ConfigError(f"{folder / 'samples.jsonl'}: sample {line.index} names the image {name!r:.80}, which is not in inputs/")
    return Sample(line.index, line.prompt, line.meta, tuple(_read_image(folder / name) for name in line.images))


def _read_image(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _extension(image: bytes) -> str:
    """By the first bytes; `bin` for formats that browsers do not show."""
    if image.startswith(b"RIFF") and image[8:12] == b"WEBP":
        return "webp"
    return next((kind for magic, kind in _MAGIC.items() if image.startswith(magic)), "bin")


def _read_lines(path: Path, kind: type[Any]) -> list[Any]:
    """The whole lines, decoded. Line by line: a million records are half a gigabyte, which is not needed beside what they become."""
    decode, place = msgspec.json.Decoder(kind).decode, _Place(path)
    try:
        lines = path.open("rb")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); this run folder is incomplete") from None
    with lines, reading(place, "remove the line to continue without that record"):
        for line in lines:
            if line.endswith(b"\n"):
                place.decoded.append(decode(line))
    return place.decoded


@dataclass
class _Place:
    """Where a file is being read."""

    path: Path
    decoded: list[Any] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.path}, line {len(self.decoded) + 1}"


def _claim_unused(folder: Path) -> Claim:
    """The folder, or one with -2, -3 ... if several runs start in the same second."""
    candidate, number = folder, 2
    while True:
        try:
            candidate.mkdir(parents=True)
        except FileExistsError:
            candidate, number = folder.with_name(f"{folder.name}-{number}"), number + 1
        except OSError as error:
            raise unwritable(candidate, error) from None
        else:
            claimed = claim(candidate)
            claimed.is_new = True
            return claimed
