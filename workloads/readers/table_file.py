"""Rows of a data set from a local file or folder: Parquet, Arrow, JSON lines or a JSON array. Pickles are refused."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.decode import FORM, reading
from configs.errors import ConfigError

SUFFIXES = (".parquet", ".arrow", ".jsonl", ".json")
PICKLES = (".pkl", ".pickle", ".pkl.gz", ".pickle.gz")
SPLITS = ("train", "validation", "test")  # the order of several files
BATCH = 256
_TOKENS = ("tok_", "input_tokens")  # prefixes of columns with token ids, which are not read


@dataclass(frozen=True, slots=True)
class Row:
    """One row. where: file and row, for messages. fix: the remedy for a wrong row, for messages."""

    where: str
    values: Mapping[str, Any]
    fix: str

    def text(self, *fields: str, empty: bool = False) -> str:
        """The first of the fields that the row has. Raises ConfigError if it has none of them, or the value is not a text, or blank."""
        field = self.named(*fields)
        value = self.values[field]
        if not isinstance(value, str) or not (empty or value.strip()):
            raise self.wrong(field, "must be a text")
        return value

    def named(self, *fields: str) -> str:
        """Name of the first of the fields that the row has."""
        for field in fields:
            if self.values.get(field) is not None:
                return field
        has = ", ".join(sorted(map(str, self.values))) or "nothing"
        raise ConfigError(f"{self.where} has no field {' or '.join(map(repr, fields))}; it has {has}. {self.fix}")

    def wrong(self, field: str, how: str) -> ConfigError:
        shown = repr(self.values.get(field))
        return ConfigError(f"{self.where}: field {field!r} {how}: {shown[:80]}{' ...' * (len(shown) > 80)}. {self.fix}")


def read_rows(path: Path, patterns: Sequence[str], fix: str) -> Iterator[Row]:
    """The rows of a file, or of the files of a folder that match one of the patterns, in order of split and name.

    fix: the end of every message. Raises ConfigError naming a file that is missing, damaged or of an unknown kind.
    """
    for file in _files(path, patterns, fix):
        for number, values in enumerate(_values(file, fix), 1):
            if not isinstance(values, Mapping):
                raise ConfigError(f"{str(file)!r}, row {number} is not a JSON object. {fix}")
            yield Row(f"{str(file)!r}, row {number}", values, fix)


def _files(path: Path, patterns: Sequence[str], fix: str) -> list[Path]:
    if not path.exists():
        raise ConfigError(f"{str(path)!r} does not exist. {fix}")
    if path.is_file():
        return [path]
    files = {file for pattern in patterns for file in path.rglob(pattern) if file.suffix in SUFFIXES and file.is_file()}
    if files:
        return sorted(files, key=lambda f: (_split(f), str(f)))
    if pickles := [f for pattern in patterns for f in sorted(path.rglob(pattern)) if f.name.endswith(PICKLES)]:
        return pickles[:1]
    raise ConfigError(f"folder {str(path)!r} has no {' or '.join(patterns)} that ends in {', '.join(SUFFIXES)}. {fix}")


def _split(file: Path) -> int:
    return next((i for i, split in enumerate(SPLITS) if file.name.startswith(split)), len(SPLITS))


def _values(file: Path, fix: str) -> Iterable[Any]:
    if file.name.endswith(PICKLES):
        out = str(file).split(".pkl")[0].split(".pickle")[0] + ".parquet"
        raise ConfigError(
            f"{str(file)!r} is a pickle, which the suite refuses, because reading it can run any program. If you trust its source, convert "
            f'it once: python -c "import pandas; pandas.read_pickle({str(file)!r}).to_parquet({out!r})" '
            f"(pip install pandas pyarrow), then give dataset.path={out}"
        )
    if file.suffix not in SUFFIXES:
        raise ConfigError(f"{str(file)!r} is of an unknown kind; known: {', '.join(SUFFIXES)}. {fix}")
    return _json_values(file, fix) if file.suffix.startswith(".json") else _arrow_values(file, fix)


def _json_values(file: Path, fix: str) -> Iterator[Any]:
    with reading(repr(str(file)), fix), file.open(encoding="utf-8-sig") as lines:
        if file.suffix == ".json":
            content = json.load(lines)
            if not isinstance(content, list):
                raise ConfigError(f"{str(file)!r} is not a JSON array of rows. {fix}")
            yield from content
            return
        for number, line in enumerate(lines, 1):
            if line.strip():
                with reading(f"{str(file)!r}, line {number},", fix):
                    value = json.loads(line)
                yield value


def _arrow_values(file: Path, fix: str) -> Iterator[Any]:
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(f"reading {str(file)!r} requires pyarrow: pip install pyarrow (or the suite's extra [datasets])") from None
    with reading(repr(str(file)), fix, also=(pyarrow.ArrowException, *FORM)):
        if file.suffix == ".parquet":
            with pyarrow.parquet.ParquetFile(file) as table:
                wanted = [name for name in table.schema_arrow.names if not name.startswith(_TOKENS)]
                for batch in table.iter_batches(BATCH, columns=wanted):
                    yield from batch.to_pylist()
            return
        with pyarrow.OSFile(str(file)) as source:  # not mapped: beyond the end of a damaged file a read would end the process
            try:
                batches = iter(pyarrow.ipc.open_stream(source))
            except pyarrow.ArrowInvalid:
                source.seek(0)
                opened = pyarrow.ipc.open_file(source)
                batches = (opened.get_batch(i) for i in range(opened.num_record_batches))
            for batch in batches:
                batch.validate(full=True)  # else a damaged offset ends the process
                yield from batch.to_pylist()
