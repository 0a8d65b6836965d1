"""attempts/: performance tests that ended before the minimum duration and were run again.

LoadGen fixes the number of samples of an offline test before it starts. If the warm-up, from which that number follows, was slower than the
test, the test is too short. Its records, LoadGen's logs and power samples are kept in attempts/<mode>-<number>/, its media are not. No
figure counts them.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from configs.decode import read_json
from workloads.records import Count, Record, Seconds
from workloads.run_folder.files import write_json
from workloads.run_folder.outcome import Rate
from workloads.run_folder.power_log import FILE as POWER_FILE

FOLDER, SUMMARY = "attempts", "attempt.json"


class Attempt(msgspec.Struct, frozen=True):
    """A test that was too short. target_qps: the expected rate that LoadGen got. duration_s: from the first issue to the last answer."""

    mode: str
    target_qps: Rate
    num_samples: Count
    duration_s: Seconds
    min_duration_s: Seconds

    @property
    def samples_per_s(self) -> float:
        return self.num_samples / max(self.duration_s, 1e-6)

    @property
    def note(self) -> str:
        return (
            f"a {self.mode} test of {self.num_samples} samples lasted {self.duration_s:.3g} s, shorter than the minimum duration of "
            f"{self.min_duration_s:.3g} s: the warm-up was slower than the test"
        )


def measure(records: Path, mode: str, target_qps: float, min_duration_s: float) -> Attempt:
    """The attempt that these records are of, all of one test."""
    decoded = msgspec.json.Decoder(Record).decode_lines(records.read_bytes())
    return Attempt(mode, target_qps, len(decoded), max(r.completed_s for r in decoded), min_duration_s)


def set_aside(folder: Path, attempt: Attempt) -> Path:
    """Move the test out of the run folder, which is then as before the test; the attempt's own folder."""
    number = 1
    while (own := folder / FOLDER / f"{attempt.mode}-{number}").exists():
        number += 1
    own.mkdir(parents=True)
    for name in ("records.jsonl", attempt.mode, POWER_FILE):
        if (folder / name).exists():
            (folder / name).replace(own / name)
    write_json(own / SUMMARY, msgspec.structs.asdict(attempt))
    (folder / "records.jsonl").touch()
    for file in (folder / "media").iterdir():
        file.unlink()
    return own


def read_attempts(folder: Path) -> list[Attempt]:
    """In order; empty if every test was long enough. Raises ConfigError if a file is damaged."""
    attempts = []
    for path in sorted((folder / FOLDER).glob(f"*/{SUMMARY}")):
        attempts.append(read_json(path, Attempt, "remove it for a report without this attempt"))
    return attempts
