"""MLPerf's data sets from files made by hand, in the forms that MLCommons distributes."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest

from configs.errors import ConfigError
from configs.registry import make
from workloads.mlperf.datasets import MADE_UP, SOURCES, read_source
from workloads.mlperf.vbench_prompts import DIMENSIONS, STYLES
from workloads.records import Sample

ORCA = {"input": "<s>[INST] why? [/INST]", "output": "because", "tok_input": [1, 2], "origin": "cot"}
PRODUCT = {
    "product_title": "plate",
    "product_description": "red",
    "potential_product_categories": ["A > B", "C"],
    "product_image": {"bytes": b"\x89PNG", "path": None},
    "ground_truth_category": "A > B",
    "ground_truth_brand": "Hollin",
    "ground_truth_is_secondhand": False,
}


def jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([dict(r) for r in rows]), path)
    return str(path)


def counts_of(monkeypatch: pytest.MonkeyPatch, name: str, count: int, parts: Mapping[str, int] | None = None) -> None:
    """Let the set have so many rows, for the test."""
    monkeypatch.setitem(SOURCES, name, replace(SOURCES[name], counts=(count,), parts=parts))


def prompts_of_vbench() -> list[str]:
    """248 made-up prompts in the order of VBench's."""
    styled = [f"scene {i}, {style}" for i in range(10) for style in STYLES]
    return [f"a person does {i}" for i in range(72)] + styled + [f"place {i}" for i in range(86)]


@pytest.mark.parametrize("name", SOURCES)
def test_a_made_up_set_of_every_schema_is_read_by_the_same_code(name: str) -> None:
    source = SOURCES[name]
    workload = make("workloads", source.workload, {"source": name, "path": MADE_UP})
    samples = workload.samples()
    assert 6 <= len(samples) <= 12
    assert [s.index for s in samples] == list(range(len(samples)))
    if source.parts:
        assert {s.meta["subset"] for s in samples} == set(source.parts)
    assert make("workloads", source.workload, {"source": name, "path": MADE_UP, "num_prompts": 3}).samples() == samples[:3]


def test_rows_are_the_same_from_parquet_arrow_and_json(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    counts_of(monkeypatch, "openorca", 2)
    rows = [ORCA, ORCA | {"input": "two", "output": "deux"}]
    arrow = tmp_path / "stream.arrow"
    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.OSFile(str(arrow), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    (tmp_path / "array.json").write_text(json.dumps(rows), encoding="utf-8")
    files = [jsonl(tmp_path / "a.jsonl", rows), parquet(tmp_path / "a.parquet", rows), str(arrow), str(tmp_path / "array.json")]
    read = [read_source("openorca", file, "llm") for file in files]
    assert read[0] == [
        Sample(0, "<s>[INST] why? [/INST]", {"answer": "because", "scored_by": "rouge", "subset": "openorca"}),
        Sample(1, "two", {"answer": "deux", "scored_by": "rouge", "subset": "openorca"}),
    ]
    assert all(samples == read[0] for samples in read)


def test_a_folders_files_are_read_by_split_and_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    counts_of(monkeypatch, "shopify", 3)
    (tmp_path / "data").mkdir()
    for name in ("test-00000-of-00001", "train-00001-of-00002", "train-00000-of-00002"):
        parquet(tmp_path / "data" / f"{name}.parquet", [PRODUCT | {"ground_truth_brand": name[:11]}])
    samples = read_source("shopify", str(tmp_path), "vlm")
    assert [json.loads(s.meta["answer"])["brand"] for s in samples] == ["train-00000", "train-00001", "test-00000-"]


def test_a_product_keeps_its_images_bytes_and_its_descriptions_braces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    counts_of(monkeypatch, "shopify", 2)
    in_base64 = {k: v for k, v in PRODUCT.items() if k != "product_image"} | {
        "product_image_base64": base64.b64encode(b"\xff\xd8\xff").decode(),
        "potential_product_categories": '["A > B", "C"]',
        "ground_truth_is_secondhand": "true",
        "product_description": "p { color: red }",
    }
    first, second = (
        read_source("shopify", parquet(tmp_path / "p.parquet", [PRODUCT, PRODUCT]), "vlm")[0],
        read_source("shopify", jsonl(tmp_path / "p.jsonl", [in_base64, in_base64]), "vlm")[1],
    )
    assert (first.images, second.images) == ((b"\x89PNG",), (b"\xff\xd8\xff",))
    assert "p { color: red }" in second.prompt
    assert "['A > B', 'C']" in first.prompt
    assert "['A > B', 'C']" in second.prompt
    assert json.loads(second.meta["answer"]) == {"category": "A > B", "brand": "Hollin", "is_secondhand": True}


def test_parts_and_repeats_of_the_gpt_oss_mixture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    counts_of(monkeypatch, "gpt-oss-accuracy", 4, {"aime": 2, "gpqa": 1, "livecodebench": 1})
    rows = [
        {"dataset": "aime25", "text_input": "q", "ground_truth": "70"},
        {"dataset": "aime25", "text_input": "q", "ground_truth": "70"},
        {"dataset": "gpqa_diamond", "text_input": "q", "ground_truth": "B"},
        {"dataset": "livecodebench_v6", "text_input": "q", "ground_truth": "abc301_a"},
    ]
    samples = read_source("gpt-oss-accuracy", parquet(tmp_path / "acc_eval_ref.parquet", rows), "llm")
    assert [(s.meta["scored_by"], s.meta["answer"], s.meta["repeat"]) for s in samples] == [
        ("aime", "70", 0),
        ("aime", "70", 1),
        ("gpqa", "B", 0),
        ("livecodebench", "abc301_a", 0),
    ]
    short = parquet(tmp_path / "short.parquet", [rows[0], rows[2], rows[2], rows[3]])
    with pytest.raises(ConfigError, match="aime 1, gpqa 2, livecodebench 1, and gpt-oss-accuracy has aime 2, gpqa 1, livecodebench 1"):
        read_source("gpt-oss-accuracy", short, "llm")


def test_the_subsets_of_deepseek_r1_are_known_by_part_of_their_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    named = {"math500": "math", "aime1983": "aime", "gpqa": "gpqa", "mmlu_pro": "mmlu", "livecodebench": "livecodebench"}
    counts_of(monkeypatch, "deepseek-r1", 5)
    answers = {"aime1983": 7, "gpqa": "d", "mmlu_pro": "J"}
    rows = [{"dataset": name, "question": name, "ground_truth": answers.get(name, "x")} for name in named]
    samples = read_source("deepseek-r1", jsonl(tmp_path / "d.jsonl", rows), "llm")
    assert [s.meta["subset"] for s in samples] == list(named.values())


def test_an_article_is_inserted_into_its_instruction(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    counts_of(monkeypatch, "cnn-dailymail", 1)
    row = {"instruction": {"llama": "Sum up.\n{input}\nSummary: "}, "input": "A {curly} story.", "output": "Story.", "tok_input": [1]}
    file = tmp_path / "cnn_eval.json"
    file.write_text(json.dumps([row]), encoding="utf-8")
    sample = read_source("cnn-dailymail", str(tmp_path), "llm")[0]
    assert sample.prompt == "Sum up.\nA {curly} story.\nSummary: "
    assert (sample.meta["answer"], sample.meta["scored_by"]) == ("Story.", "rouge")


def test_vbenchs_prompts_have_their_dimensions_by_place(tmp_path: Path) -> None:
    (tmp_path / "vbench_prompts.txt").write_text("\n".join(prompts_of_vbench()), encoding="utf-8")
    samples = read_source("vbench", str(tmp_path), "t2v")
    videos = Counter(dimension for s in samples for dimension in s.meta["dimensions"])
    assert videos == {
        "subject_consistency": 72,
        "dynamic_degree": 72,
        "motion_smoothness": 72,
        "appearance_style": 90,
        "scene": 86,
        "background_consistency": 86,
    }
    assert tuple(samples[100].meta["dimensions"]) == DIMENSIONS["style"]
    assert [s.meta["vbench_index"] for s in samples] == list(range(248))


def test_prompts_in_another_order_are_refused_by_line(tmp_path: Path) -> None:
    prompts = prompts_of_vbench()
    prompts[3], prompts[80] = prompts[80], prompts[3]
    (tmp_path / "v.txt").write_text("\n".join(prompts), encoding="utf-8")
    with pytest.raises(ConfigError, match="prompt 4: field 'prompt' is at another place than in VBench's file: prompts 73 to 162"):
        read_source("vbench", str(tmp_path / "v.txt"), "t2v")


@pytest.mark.parametrize(("prompt", "wrong"), [("a" * 240, False), ("a" * 241, True), ("a/b", True), ("\u00e9" * 121, True)])
def test_a_prompt_that_cannot_name_a_file_is_refused(tmp_path: Path, prompt: str, wrong: bool) -> None:
    (tmp_path / "v.txt").write_text("\n".join([prompt, *prompts_of_vbench()[1:]]), encoding="utf-8")
    if wrong:
        with pytest.raises(ConfigError, match="prompt 1: field 'prompt'"):
            read_source("vbench", str(tmp_path / "v.txt"), "t2v")
    else:
        assert read_source("vbench", str(tmp_path / "v.txt"), "t2v")[0].prompt == prompt


def test_too_few_rows_are_refused_with_the_command_that_fetches_all(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has 1 rows, and openorca has 24576.*mlc-r2-downloader.*llama-2-70b-open-orca-dataset"):
        read_source("openorca", jsonl(tmp_path / "o.jsonl", [ORCA]), "llm")


@pytest.mark.parametrize("name", SOURCES)
def test_a_missing_set_is_refused_with_the_command_that_fetches_it(name: str, tmp_path: Path) -> None:
    for path in (None, str(tmp_path / "nowhere"), str(tmp_path)):
        with pytest.raises(ConfigError) as caught:
            read_source(name, path, SOURCES[name].workload)
        assert SOURCES[name].fetch in str(caught.value)


def test_a_pickle_is_refused_with_the_conversion(tmp_path: Path) -> None:
    file = tmp_path / "open_orca_gpt4_tokenized_llama.sampled_24576.pkl.gz"
    file.write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    for path in (file, tmp_path):
        with pytest.raises(ConfigError, match=r"is a pickle.*python -c .*read_pickle.*sampled_24576.parquet"):
            read_source("openorca", str(path), "llm")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"input": "a"}, "row 2 has no field 'output' or 'gt_output'; it has input"),
        ({"input": 3, "output": "b"}, "row 2: field 'input' must be a text: 3"),
        ({"input": "  ", "output": "b"}, "row 2: field 'input' must be a text"),
    ],
)
def test_a_wrong_row_is_named_with_file_row_field_and_fix(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    file = jsonl(tmp_path / "o.jsonl", [ORCA, row])
    with pytest.raises(ConfigError, match=message) as caught:
        read_source("openorca", file, "llm")
    assert file in str(caught.value)
    assert SOURCES["openorca"].fetch in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"product_image": {"bytes": None}}, "'product_image' has no image"),
        ({"ground_truth_is_secondhand": "maybe"}, "must be true or false: 'maybe'"),
        ({"potential_product_categories": []}, "must be a list of category paths"),
    ],
)
def test_a_wrong_product_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_source("shopify", jsonl(tmp_path / "p.jsonl", [PRODUCT | {"product_image": {"bytes": "aGk="}} | change]), "vlm")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"dataset": "aime25", "ground_truth": "7.5"}, "must be a whole number"),
        ({"dataset": "gpqa", "ground_truth": "E"}, "must be one of A, B, C, D"),
        ({"dataset": "trivia", "ground_truth": "x"}, "unknown subset 'trivia'"),
        ({"dataset": "livecodebench", "ground_truth": "x", "tests": [{"input": "1"}]}, "without 'input' and 'output'"),
        ({"dataset": "livecodebench", "ground_truth": "x", "tests": "{"}, "is not JSON"),
    ],
)
def test_a_question_whose_answer_cannot_be_checked_is_refused(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_source("deepseek-r1", jsonl(tmp_path / "d.jsonl", [row | {"text_input": "q"}]), "llm")


@pytest.mark.parametrize("name", ["cut.parquet", "cut.arrow", "cut.jsonl", "cut.json"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b'{"input": "a", "outp')
    with pytest.raises(ConfigError, match=name):
        read_source("openorca", str(tmp_path / name), "llm")


def test_the_files_hash_is_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    counts_of(monkeypatch, "openorca", 1)
    file = jsonl(tmp_path / "o.jsonl", [ORCA])
    right = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    assert len(make("workloads", "llm", {"source": "openorca", "path": file, "sha256": right}).samples()) == 1
    with pytest.raises(ConfigError, match=f"has SHA-256 {right}"):
        make("workloads", "llm", {"source": "openorca", "path": file, "sha256": "0" * 64}).samples()


@pytest.mark.parametrize(
    ("workload", "options", "message"),
    [
        ("llm", {"source": "open-orca"}, "did you mean 'openorca'"),
        ("vlm", {"source": "openorca"}, "known: shopify"),
        ("llm", {"path": "x"}, "dataset.path requires a dataset.source"),
        ("llm", {"source": "openorca", "prompts": "mine.txt"}, "dataset.prompts; leave one of them out"),
        ("t2v", {"source": "vbench", "path": MADE_UP, "sha256": "0"}, "cannot be combined with builtin:made-up"),
    ],
)
def test_options_that_contradict_each_other_are_refused(workload: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make("workloads", workload, options).samples()


def test_a_missing_pyarrow_is_refused_with_the_pip_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "o.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match="pip install pyarrow"):
        read_source("openorca", str(tmp_path / "o.parquet"), "llm")
