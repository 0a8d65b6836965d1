"""MLPerf's language sets: samples from rows.

openorca        input, output                                    (gt_output for output, in some copies)
gpt-oss         text_input, dataset, ground_truth                (the performance set needs text_input alone)
deepseek-r1     text_input or question, dataset, ground_truth
cnn-dailymail   input, output, instruction: {"llama": "... {input} ..."}

Prompts are texts, which the engine tokenises; the token ids in the sets are not read. A row may carry `tests` (JSON) and `function_name`,
as in the made-up sets. The real sets name LiveCodeBench's questions, whose tests are in LiveCodeBench's own files (livecodebench.py).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from configs.errors import unknown
from workloads.readers.table_file import Row
from workloads.records import Sample

# Part of the name in the column `dataset` -> subset; the first match counts.
SUBSETS = {"gpqa": "gpqa", "mmlu": "mmlu", "math": "math", "aime": "aime", "livecodebench": "livecodebench"}
CHOICES = {"gpqa": "ABCD", "mmlu": "ABCDEFGHIJ"}


def openorca(rows: Iterable[Row]) -> Iterator[Sample]:
    """Instructions with a reference answer, in Llama 2's own template."""
    for index, row in enumerate(rows):
        yield Sample(index, row.text("input"), {"answer": row.text("output", "gt_output"), "scored_by": "rouge", "subset": "openorca"})


def unscored(rows: Iterable[Row]) -> Iterator[Sample]:
    """Prompts without a reference answer."""
    for index, row in enumerate(rows):
        yield Sample(index, row.text("text_input"))


def reasoning(rows: Iterable[Row]) -> Iterator[Sample]:
    """Questions with an answer that a program can check. `repeat`: how often the same question occurred before."""
    repeats: Counter[tuple[str, str]] = Counter()
    for index, row in enumerate(rows):
        prompt, subset = row.text("text_input", "question"), _subset(row)
        meta: dict[str, Any] = {"answer": _answer(row, subset), "scored_by": subset, "subset": subset, "repeat": repeats[subset, prompt]}
        repeats[subset, prompt] += 1
        if row.values.get("tests") is not None:
            meta["tests"] = _tests(row)
            if row.values.get("function_name"):
                meta["function_name"] = row.text("function_name")
        yield Sample(index, prompt, meta)


def cnn_dailymail(rows: Iterable[Row]) -> Iterator[Sample]:
    """Articles to summarise."""
    for index, row in enumerate(rows):
        instruction = row.values[row.named("instruction")]
        template = instruction.get("llama") if isinstance(instruction, Mapping) else instruction
        if not isinstance(template, str) or "{input}" not in template:
            raise row.wrong("instruction", "has no '{input}' for the article")
        prompt = template.replace("{input}", row.text("input"))
        yield Sample(index, prompt, {"answer": row.text("output"), "scored_by": "rouge", "subset": "cnn-dailymail"})


def _subset(row: Row) -> str:
    name = row.text("dataset").lower()
    for part, subset in SUBSETS.items():
        if part in name:
            return subset
    raise row.wrong("dataset", f"names an {unknown('subset', name, SUBSETS)}")


def _answer(row: Row, subset: str) -> str:
    field = row.named("ground_truth", "gt_output")
    answer = str(row.values[field]).strip()
    if subset == "aime" and not _is_whole(answer):
        raise row.wrong(field, "must be a whole number, as the answers of AIME are")
    if subset in CHOICES and (len(answer) != 1 or answer.upper() not in CHOICES[subset]):
        raise row.wrong(field, f"must be one of {', '.join(CHOICES[subset])}")
    if not answer:
        raise row.wrong(field, "is empty")
    return answer


def _is_whole(answer: str) -> bool:
    try:
        int(answer)
    except ValueError:
        return False
    return True


def _tests(row: Row) -> str:
    """The tests as one JSON text: [{"input": ..., "output": ..., "kind": "stdin" | "functional"}]."""
    tests = row.values["tests"]
    try:
        tests = json.loads(tests) if isinstance(tests, str) else tests
    except (ValueError, RecursionError):
        raise row.wrong("tests", "is not JSON") from None
    if not isinstance(tests, list) or not tests:
        raise row.wrong("tests", "must be a list of tests")
    for test in tests:
        if not isinstance(test, Mapping) or not all(isinstance(test.get(k), str) for k in ("input", "output")):
            raise row.wrong("tests", "has a test without 'input' and 'output' as texts")
        if test.get("kind") not in ("stdin", "functional"):
            raise row.wrong("tests", "has a test whose 'kind' is not 'stdin' or 'functional'")
    return json.dumps(tests)
