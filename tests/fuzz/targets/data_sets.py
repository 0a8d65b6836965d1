"""Files that users bring for the data set: prompts in every form, questions with images, MLPerf's tables."""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from pathlib import Path

import numpy as np

from configs.registry import make
from tests.fuzz.fuzzing import Refused, Target, from_file
from workloads.mlperf import vbench_prompts
from workloads.mlperf.datasets import _SHIPPED, SOURCES
from workloads.mlperf.livecodebench import read_problems
from workloads.readers.image_file import read_image
from workloads.readers.prompt_file import read_entries
from workloads.readers.table_file import read_rows
from workloads.vlm import encode_png

PROMPTS = {
    "prompts.txt": b"a red circle moves to the left\n# a comment\n\na blue square grows\n",
    "prompts.jsonl": b'{"prompt": "why?", "answer": "because", "scored_by": "exact_match", "task": "own"}\n{"prompt_en": "how?"}\n',
    "prompts.json": b'[{"prompt": "why?", "dimension": ["x"]}, {"conversations": [{"from": "human", "value": "hello"}]}, {"prompt": "a"}]',
    "prompts.csv": b'id,prompt\n1,why?\n2,"how, and\nwhen?"\n',
}
QUESTIONS = b'{"prompt": "what is this?", "images": ["one.png"], "answer": "a cat"}\n{"prompt": "a dog runs", "image": "one.png"}\n'
PROBLEM = {
    "question_id": "q1",
    "public_test_cases": json.dumps([{"input": "1", "output": "2"}]),
    "private_test_cases": base64.b64encode(zlib.compress(pickle.dumps(json.dumps([{"input": "3", "output": "4"}])))).decode(),
    "metadata": json.dumps({"func_name": "f"}),
}


def targets(place: Path) -> list[Target]:
    image = encode_png(np.zeros((1, 8, 8, 3), np.uint8))[0]
    (place / "one.png").write_bytes(image)
    tables = {f"{name}+{file.name}": file.read_bytes() for name in SOURCES for file in _SHIPPED.glob(f"{name}.*")}
    return [
        Target("prompts", PROMPTS, from_file(place, lambda file: read_entries(str(file), ("answer", "scored_by"))), 12),
        Target("prompts of a workload", {**PROMPTS, "questions.jsonl": QUESTIONS}, from_file(place, _workloads), 6),
        Target("image", {"one.png": image}, _image, 8),
        Target("MLPerf's data sets", {**tables, **_arrow_files(place)}, from_file(place, _table), 12),
        Target(
            "LiveCodeBench",
            {"test6.jsonl": json.dumps(PROBLEM).encode() + b"\n"},
            from_file(place, lambda file: list(read_problems(file, {"q1"}))),
            3,
        ),
    ]


def _workloads(file: Path) -> None:
    kind = {"prompts.txt": "t2v", "prompts.csv": "i2v", "questions.jsonl": "vlm"}.get(file.name, "llm")
    make("workloads", kind, {"prompts": str(file)}).samples()


def _image(name: str, content: bytes) -> None:
    try:
        read_image(content)
    except ValueError as error:  # its way to say that it is no image
        raise Refused(str(error)) from None


def _table(file: Path) -> None:
    name = file.name.partition("+")[0]
    rows = vbench_prompts.read_lines(file, "*", "fix") if name == "vbench" else read_rows(file, ("*",), "fix")
    list(SOURCES[name].read(rows))


def _arrow_files(place: Path) -> dict[str, bytes]:
    """The first rows of a set as Parquet and Arrow files."""
    import pyarrow
    import pyarrow.ipc
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist([{"input": "<s>[INST] why? [/INST]", "output": "because", "tok_input": [1, 2], "origin": "cot"}])
    pyarrow.parquet.write_table(table, place / "openorca+a.parquet")
    with pyarrow.OSFile(str(place / "openorca+a.arrow"), "wb") as sink, pyarrow.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return {name: (place / name).read_bytes() for name in ("openorca+a.parquet", "openorca+a.arrow")}
