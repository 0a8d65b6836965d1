"""MLPerf's data sets: `dataset.source` names one, `dataset.path` says where its files lie.

A set is read from local files in the form that MLCommons distributes (docs/mlperf.md lists every field), and its number of rows is checked.
With the path `builtin:made-up` it is a small set of the same form that comes with the suite, read by the same code, for tests and shrunk
models. Results on it say nothing about the benchmark.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from configs.errors import ConfigError, unknown
from workloads.mlperf import language, shopify, vbench_prompts
from workloads.readers.table_file import Row, read_rows
from workloads.records import Sample

MADE_UP = "builtin:made-up"
_SHIPPED = Path(__file__).parent / "example_data"
_R2 = "bash <(curl -s https://raw.githubusercontent.com/mlcommons/r2-downloader/refs/heads/main/mlc-r2-downloader.sh) -d data "
_STORE = "https://inference.mlcommons-storage.org/metadata/"
_RAW = "https://raw.githubusercontent.com/mlcommons/inference/master/"


@dataclass(frozen=True)
class Source:
    """One data set. counts: allowed numbers of rows. parts: rows of each subset, where known.

    patterns: its files in a folder. fetch: the command that downloads it. read: samples from rows, with indices from 0.
    """

    workload: str
    title: str
    counts: tuple[int, ...]
    patterns: tuple[str, ...]
    fetch: str
    read: Callable[[Iterable[Row]], Iterator[Sample]]
    parts: Mapping[str, int] | None = None


SOURCES: dict[str, Source] = {
    "openorca": Source(
        "llm",
        "OpenOrca, the set of llama2-70b",
        (24_576,),
        ("*sampled_24576*",),
        f"{_R2}{_STORE}llama-2-70b-open-orca-dataset.uri",
        language.openorca,
    ),
    "gpt-oss-performance": Source(
        "llm",
        "the performance set of gpt-oss-120b",
        (6_396,),
        ("*perf_eval_ref*",),
        f"{_R2}{_STORE}gpt-oss-data.uri",
        language.unscored,
    ),
    "gpt-oss-accuracy": Source(
        "llm",
        "the accuracy set of gpt-oss-120b: AIME 2025 eight times, GPQA diamond five times, LiveCodeBench v6 three times",
        (4_395,),
        ("*acc_eval_ref*",),
        f"{_R2}{_STORE}gpt-oss-data.uri",
        language.reasoning,
        {"aime": 240, "gpqa": 990, "livecodebench": 3_165},
    ),
    "gpt-oss-gpqa": Source(
        "llm",
        "the compliance set of gpt-oss-120b: GPQA diamond five times",
        (990,),
        ("*acc_eval_compliance_gpqa*",),
        f"{_R2}{_STORE}gpt-oss-data.uri",
        language.reasoning,
        {"gpqa": 990},
    ),
    "deepseek-r1": Source(
        "llm",
        "the set of deepseek-r1: AIME, MATH-500, GPQA, MMLU-Pro, LiveCodeBench",
        (4_388,),
        ("*dataset_4388*", "deepseek_r1_eval*"),
        f"{_R2}{_STORE}deepseek-r1-datasets-fp8-eval.uri",
        language.reasoning,
    ),
    "cnn-dailymail": Source(
        "llm",
        "CNN/DailyMail's validation split, the set of llama3.1-8b",
        (13_368,),
        ("cnn_eval*",),
        f"{_R2}{_STORE}llama3-1-8b-cnn-eval.uri",
        language.cnn_dailymail,
    ),
    "shopify": Source(
        "vlm",
        "Shopify's product catalogue",
        (48_289, 8_000),  # train and test splits; the set of the interactive scenario in v6.1
        ("*",),
        "hf download Shopify/product-catalogue --repo-type dataset --local-dir data/shopify "
        "--revision d5c517c509f5aca99053897ef1de797d6d7e5aa5",
        shopify.shopify,
    ),
    "vbench": Source(
        "t2v",
        "the 248 prompts of VBench for wan-2.2-t2v-a14b",
        (vbench_prompts.NUM_PROMPTS,),
        ("vbench_prompts.txt",),
        f"curl --create-dirs -o data/vbench_prompts.txt {_RAW}text_to_video/wan-2.2-t2v-a14b/data/vbench_prompts.txt",
        vbench_prompts.vbench,
        {"subject": 72, "style": 90, "scene": 86},
    ),
}


def read_source(name: str, path: str | None, workload: str, num_prompts: int | None = None, sha256: str | None = None) -> list[Sample]:
    """The set's samples in its own order; with num_prompts only the first ones.

    sha256: of the file, checked. Raises ConfigError naming the file, row and field, a wrong number of rows, or the command that downloads
    a missing set.
    """
    known = [n for n, s in SOURCES.items() if s.workload == workload]
    if name not in known:
        raise ConfigError(f"workload {workload!r}: {unknown('dataset.source', name, known)}")
    source = SOURCES[name]
    fix = f"Fetch {source.title}: {source.fetch}"
    if path is None:
        raise ConfigError(f"dataset.source {name!r} requires dataset.path: its file or folder, or {MADE_UP}. {fix}")
    if path == MADE_UP:
        shipped = next(_SHIPPED.glob(f"{name}.*"))
        return list(source.read(_drawn(_rows(shipped, source, "The set that the suite ships is damaged; reinstall it."))))[:num_prompts]
    file = Path(path)
    if sha256 is not None:
        _check_hash(file, sha256, fix)
    samples = list(source.read(_rows(file, source, fix)))
    _check_counts(name, path, source, samples, fix)
    return samples[:num_prompts]


def check_options(workload: str, source: str | None, path: str | None, sha256: str | None, others: Mapping[str, object]) -> None:
    """Raises ConfigError if the options of a data set contradict each other. others: options that choose samples in another way."""
    if source is None:
        for option, value in (("path", path), ("sha256", sha256)):
            if value is not None:
                known = ", ".join(n for n, s in SOURCES.items() if s.workload == workload)
                raise ConfigError(f"workload {workload!r}: dataset.{option} requires a dataset.source; known: {known}")
        return
    if given := [option for option, value in others.items() if value]:
        raise ConfigError(
            f"workload {workload!r}: dataset.source {source!r} cannot be combined with dataset.{given[0]}; leave one of them out"
        )
    if path == MADE_UP and sha256 is not None:
        raise ConfigError(f"workload {workload!r}: dataset.sha256 cannot be combined with {MADE_UP}; leave it out")


def _rows(path: Path, source: Source, fix: str) -> Iterable[Row]:
    if source.workload == "t2v":
        return vbench_prompts.read_lines(path, source.patterns[0], fix)
    return read_rows(path, source.patterns, fix)


def _drawn(rows: Iterable[Row]) -> Iterator[Row]:
    """Made-up products come without a picture, which is drawn here."""
    for row in rows:
        yield replace(row, values=shopify.with_picture(row.values)) if "drawn" in row.values else row


def _check_hash(file: Path, sha256: str, fix: str) -> None:
    if not file.is_file():
        raise ConfigError(f"dataset.sha256 requires that dataset.path is a file, got {str(file)!r}. {fix}")
    with file.open("rb") as opened:
        actual = hashlib.file_digest(opened, "sha256").hexdigest()
    if actual != sha256.lower():
        raise ConfigError(f"{str(file)!r} has SHA-256 {actual}, and dataset.sha256 is {sha256}. {fix}")


def _check_counts(name: str, path: str, source: Source, samples: list[Sample], fix: str) -> None:
    if len(samples) not in source.counts:
        expected = " or ".join(map(str, source.counts))
        raise ConfigError(
            f"{path!r} has {len(samples)} rows, and {name} has {expected}: it is incomplete, or another set. {fix} "
            "(Use dataset.prompts for a set of your own, dataset.num_prompts=n for the first n rows.)"
        )
    subsets = Counter(str(s.meta.get("subset")) for s in samples)
    if source.parts and subsets != Counter(source.parts):
        shown, expected = (", ".join(f"{part} {count}" for part, count in sorted(parts.items())) for parts in (subsets, source.parts))
        raise ConfigError(f"{path!r} has the subsets {shown}, and {name} has {expected}. {fix}")
