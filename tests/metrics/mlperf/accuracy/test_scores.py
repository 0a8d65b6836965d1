"""MLPerf's scores on answers made by hand, with the arithmetic written out, and on figures that AMD has published."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from configs.errors import ConfigError, RunError
from metrics.base import Run
from metrics.mlperf.accuracy import code_results
from metrics.mlperf.accuracy.deepseek_r1_accuracy import DeepseekR1Accuracy
from metrics.mlperf.accuracy.generation_length import GenerationLength
from metrics.mlperf.accuracy.gpt_oss_accuracy import GptOssAccuracy
from metrics.mlperf.accuracy.hierarchical_f1 import HierarchicalF1
from metrics.mlperf.accuracy.math_answers import same_result
from metrics.mlperf.accuracy.reasoning_answers import (
    aime_number,
    boxed,
    deepseek_letter,
    deepseek_program,
    final_part,
    gpt_oss_letter,
    gpt_oss_program,
)
from metrics.quality.exact_match import ExactMatch
from metrics.quality.rouge import Rouge
from metrics.quality.vbench.environment import evaluate, plan_setup
from metrics.quality.vbench.metric import ALL, FILE, VBench
from metrics.report.report import load_run
from tests.conftest import record
from tests.metrics.conftest import write_run
from workloads.mlperf.datasets import MADE_UP, read_source
from workloads.records import Record, Sample
from workloads.run_folder.manifest import distrust

MakeRun = Callable[..., Run]

# AMD, MLPerf Inference v6.0, open division, wan-2.2-t2v-a14b on 8 x MI355X: its eval_results.json, reported as 69.98.
AMD = {
    "subject_consistency": 0.9132,
    "background_consistency": 0.9237,
    "motion_smoothness": 0.9267,
    "dynamic_degree": 0.9444,
    "appearance_style": 0.2103,
    "scene": 0.2805,
}


def final(text: str) -> str:
    draft = "<|channel|>analysis<|message|>Perhaps A. Answer: A \\boxed{1}<|end|>"
    return f"{draft}<|start|>assistant<|channel|>final<|message|>{text}<|return|>"


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        (final("**C**"), "C"),
        (final("C) the third"), "C"),
        (final("The answer is clear.\n\nAnswer: b"), "B"),
        (final("Because of that.\n**Answer: D**"), "D"),
        (final("no letter at all here"), "A"),  # then the whole text counts, drafts too
        (final("E"), "A"),
        ("analysisPerhaps Answer: A.assistantfinalAnswer: B", "B"),  # decoded without special tokens
        ("finalAnswer: C", "C"),
        ("['ANSWER: C']", "C"),
        ("nothing", None),
        ("", None),
    ],
)
def test_a_letter_is_read_from_the_final_channel(text: str, letter: str | None) -> None:
    assert gpt_oss_letter(text, "ABCD") == letter


def test_a_letter_of_deepseek_is_the_last_one_announced() -> None:
    assert deepseek_letter("Answer: A? No. ANSWER: (c)", "ABCD", loose=False) == "C"
    assert deepseek_letter("FINAL ANSWER = D", "ABCD", loose=False) == "D"
    assert deepseek_letter("Answer: J.", "ABCDEFGHIJ", loose=True) == "J"
    assert deepseek_letter("It must be G", "ABCDEFGHIJ", loose=True) == "G"  # MMLU-Pro: any letter that stands alone
    assert deepseek_letter("It must be C", "ABCD", loose=False) is None


def test_numbers_and_boxes_are_the_last_ones() -> None:
    assert aime_number(r"\boxed{12} no, \boxed{ 034 }") == 34
    assert aime_number(r"Answer: 5 and answer: 73") == 73
    assert aime_number(r"\boxed{1000}") is None
    assert aime_number(r"\boxed{x}") is None
    assert boxed(r"\boxed{1} so \boxed{\frac{1}{2}} done") == r"\frac{1}{2}"
    assert boxed(r"\boxed{never closed") is None
    assert final_part("no channels") == "no channels"


def test_programs_are_found_as_each_model_s_grader_finds_them() -> None:
    two = "```python\nfirst\n```\ntext\n```python\nsecond\n```"
    assert gpt_oss_program(final(two)) == "second"
    assert gpt_oss_program(final("```\npy\nplain\n```")) == "plain"
    assert gpt_oss_program("```python\ndraft\n```<|channel|>final<|message|>no code") == "draft"
    assert deepseek_program(two) == "first"
    assert deepseek_program("```\nplain\n```") is None


@pytest.mark.parametrize(
    ("told", "expected", "same"),
    [
        (r"\frac{3}{8}", "3/8", True),
        (r"\tfrac38", r"\frac{3}{8}", True),
        (r"\frac{6}{16}", r"\frac{3}{8}", False),  # not in lowest terms
        ("0.375", r"\frac{3}{8}", True),
        ("10/2", "5", False),  # a whole number is written out
        ("5.0", "5", True),
        ("1,234", "1234", True),
        (r"2\sqrt{2}", r"\sqrt{8}", True),
        (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}", True),
        (r"(x+1)^2", "x^2+2x+1", True),
        (r"(x+1)^2", "x^2+2x", False),
        (r"\left(3, \frac{\pi}{2}\right)", r"(3,\frac{\pi}{2})", True),
        ("[1,2)", "(1,2)", False),
        (r"90^\circ", "90", True),
        (r"\text{east}", "East", True),
        (r"x = 5", "5", True),
        (r"12\%", "12", True),
        ("a+b+c", "c+b+a", False),  # more unknowns than two are compared as text
        ("9**9**9**9", "3", False),
        ("__import__('os').system('true')", "3", False),
        ("", "1", False),
    ],
)
def test_results_of_mathematics_are_the_same_or_not(told: str, expected: str, same: bool) -> None:
    assert same_result(told, expected) is same


def mixture(tmp_path: Path, right: dict[str, int], total: dict[str, int], tested: bool = True) -> Run:
    """Answers of gpt-oss of which so many are right; programs have verdicts, where they were tested."""
    answers = {"aime": ("70", r"\boxed{70}", r"\boxed{7}"), "gpqa": ("B", final("B"), final("C"))}
    answers["livecodebench"] = ("q", final("```python\nright\n```"), final("```python\nwrong\n```"))
    samples: list[Sample] = []
    records, verdicts = [], {}
    for part, count in total.items():
        answer, good, bad = answers[part]
        for i in range(count):
            index = len(samples)
            samples.append(Sample(index, f"{part} {i // 2}", {"scored_by": part, "subset": part, "answer": answer}))
            records.append(record(index, text=good if i < right[part] else bad, num_units=5))
            if part == "livecodebench":
                word = "right" if i < right[part] else "wrong"
                verdicts[str(index)] = {"program": code_results._hash(word), "passed": word == "right", "why": ""}
    if tested:
        kept = json.dumps({"schema": code_results.SCHEMA, "verdicts": verdicts})
        (tmp_path / code_results.FILE).write_text(kept, encoding="utf-8")
    folder = write_run(tmp_path, samples, records, dataset={"source": "gpt-oss-accuracy"})
    return load_run(folder)


def test_the_gpt_oss_mixture_weighs_each_part_by_its_repeats(tmp_path: Path) -> None:
    run = mixture(tmp_path, {"aime": 12, "gpqa": 5, "livecodebench": 4}, {"aime": 16, "gpqa": 10, "livecodebench": 6})
    figures = GptOssAccuracy().compute(run)
    # (12/8 + 5/5 + 4/3) / (16/8 + 10/5 + 6/3) = (1.5 + 1 + 1.3333) / 6
    assert figures["gpt_oss_accuracy"].value == pytest.approx((1.5 + 1 + 4 / 3) / 6)
    assert figures["gpt_oss_aime"].value == 0.75
    assert figures["gpt_oss_gpqa"].value == 0.5
    assert figures["gpt_oss_livecodebench"].value == pytest.approx(2 / 3)


def test_mlperf_s_denominator_of_the_full_mixture_is_1283_questions() -> None:
    repeats = GptOssAccuracy.repeats
    counts = {"aime": 240, "gpqa": 990, "livecodebench": 3165}
    assert sum(counts.values()) == 4395
    assert sum(counts[part] / repeats[part] for part in counts) == 30 + 198 + 1055


def test_a_mixture_with_programs_that_were_not_run_has_no_score(tmp_path: Path) -> None:
    run = mixture(tmp_path, {"aime": 1, "gpqa": 1, "livecodebench": 2}, {"aime": 2, "gpqa": 2, "livecodebench": 3}, tested=False)
    figures = GptOssAccuracy().compute(run)
    assert figures["gpt_oss_accuracy"].value is None
    assert "3 of 7 answers hold programs that were not run: suite.py run-code" in figures["gpt_oss_accuracy"].note
    assert figures["gpt_oss_gpqa"].value == 0.5
    assert "gpt_oss_livecodebench" not in figures


def test_failed_answers_and_such_without_a_program_are_wrong(make_text_run: MakeRun) -> None:
    metas = [{"scored_by": "livecodebench", "answer": "q"}, {"scored_by": "gpqa", "answer": "B"}, {"scored_by": "gpqa", "answer": "B"}]
    run = make_text_run([record(0, text="no idea"), record(1, status="failed"), record(2, text="B")], metas)
    figures = GptOssAccuracy().compute(run)
    assert figures["gpt_oss_gpqa"].value == 0.5
    assert figures["gpt_oss_accuracy"].value == pytest.approx((1 / 5) / (2 / 5 + 1 / 3))


def test_deepseek_r1_s_accuracy_is_a_plain_mean_over_five_parts(make_text_run: MakeRun, tmp_path: Path) -> None:
    samples = read_source("deepseek-r1", MADE_UP, "llm")
    right = {
        "11": r"\boxed{11}",
        "16": "Answer: 16",
        r"\frac{3}{8}": r"so \boxed{3/8}",
        "x+6": r"\boxed{6+x}",
        "D": "Answer: D",
        "A": "Answer: A",
        "E": "clearly E",
        "G": "Answer: G",
    }
    texts = [right.get(s.meta["answer"], "```python\nok\n```") for s in samples]
    verdicts = {str(i): {"program": code_results._hash("ok"), "passed": i == 8, "why": ""} for i in (8, 9)}
    (tmp_path / code_results.FILE).write_text(json.dumps({"schema": code_results.SCHEMA, "verdicts": verdicts}), encoding="utf-8")
    texts[0] = "Answer: 12"
    run = make_text_run([record(i, text=t) for i, t in enumerate(texts)], [dict(s.meta) for s in samples], [s.prompt for s in samples])
    figures = DeepseekR1Accuracy().compute(run)
    assert figures["deepseek_r1_accuracy"].value == 8 / 10  # a wrong number, and a program that fails
    assert figures["deepseek_r1_aime"].value == 0.5
    assert figures["deepseek_r1_livecodebench"].value == 0.5
    assert {figures[f"deepseek_r1_{part}"].value for part in ("math", "gpqa", "mmlu")} == {1.0}
    assert ExactMatch().compute(run) == {}  # those answers are for other metrics


def test_rouge_and_length_of_summaries_as_mlperf_counts_them(make_text_run: MakeRun) -> None:
    metas = [{"scored_by": "rouge", "answer": "a b c"}] * 3 + [{"scored_by": "gpqa", "answer": "A"}]
    records = [record(0, text=" One.  Two. "), record(1, text="a b"), record(2, status="failed", text="lost"), record(3, text="A")]
    run = make_text_run(records, metas)
    length = GenerationLength().compute(run)["generation_length"]
    assert (length.value, length.unit, length.n) == (len("One.\nTwo.") + len("a b"), "characters", 3)
    # F of `a b` against `a b c`: 2 x 1 x 2/3 / (1 + 2/3) = 0.8; the other two share nothing
    assert Rouge().compute(run)["rouge_1"].value == pytest.approx(0.8 / 3)


def product(category: str, brand: str = "Hollin", second: bool = False) -> str:
    return json.dumps({"category": category, "brand": brand, "is_secondhand": second})


def test_brand_and_condition_stand_beside_the_category(make_run: MakeRun) -> None:
    expected = [product("A > B", "Adidas", True)] * 4 + [product("A > B", "Hollin", False)] * 2
    told = [
        product("A > B", "adidas ", True),  # all right
        product("A > C", "Adidaz", False),  # one level of two; 5 of 6 letters are 83 of 100: another brand
        "{}",  # no product: nothing right, and counted as not second-hand
        json.dumps({"category": "A > B", "brand": "Adidas", "is_secondhand": True, "price": 3}),  # more than was asked
        product("A > B", "Hollin Ltd", True),
        product("A > B"),
    ]
    records = [record(i, text=text) for i, text in enumerate(told)]
    figures = HierarchicalF1().compute(make_run(records=records, metas=[{"answer": a, "scored_by": "hierarchical_f1"} for a in expected]))
    assert figures["hierarchical_f1"].value == pytest.approx(2 * (2 + 1 + 0 + 0 + 2 + 2) / 24)
    assert figures["category_parsed"].value == pytest.approx(4 / 6)
    assert figures["brand_f1"].value == pytest.approx(2 / 6)
    # second-hand: TP 1, FN 3, FP 1
    assert figures["is_secondhand_f1"].value == pytest.approx(2 * 1 / (2 * 1 + 1 + 3))


def test_a_catalogue_without_brands_has_no_figures_of_them(make_run: MakeRun) -> None:
    run = make_run(records=[record(0, text='{"category": "A"}')], metas=[{"answer": '{"category": "A"}'}])
    assert set(HierarchicalF1().compute(run)) == {"hierarchical_f1", "category_parsed"}


def video_run(tmp_path: Path, prompts: Sequence[tuple[str, Sequence[str]]], failed: Sequence[int] = ()) -> Path:
    """A sealed run folder of videos by prompt and dimensions; their files hold no picture."""
    samples = [Sample(i, text, {"world": False, "dimensions": list(d), "vbench_index": i}) for i, (text, d) in enumerate(prompts)]
    records: list[Record] = []
    (tmp_path / "media").mkdir(parents=True)
    for i in range(len(prompts)):
        if i in failed:
            records.append(record(i, status="failed", error="lost"))
            continue
        (tmp_path / f"media/{i}.mkv").write_bytes(b"video %d" % i)
        records.append(record(i, media=f"media/{i}.mkv", digest=f"{i:016x}", num_units=9))
    return write_run(tmp_path, samples, records, workload="t2v", pipeline={"name": "toy_t2v"}, metrics=["vbench"])


SUBJECT, STYLE, SCENE = (
    ("subject_consistency", "dynamic_degree", "motion_smoothness"),
    ("appearance_style",),
    ("scene", "background_consistency"),
)
PROMPTS = [("a snail runs", SUBJECT), ("a clown rides", SUBJECT), ("a mill, pixel art", STYLE), ("attic", SCENE)]


def fake_vbench(folder: Path, means: dict[str, float], breaks: str = "") -> Path:
    """An environment whose Python is a program that judges by name alone and writes what VBench writes, in VBench's form."""
    program = folder / "fake.py"
    program.write_text(
        f"""import json, pathlib, sys
asked = sys.argv[2:]
value = lambda name: asked[asked.index(name) + 1]
dimensions = asked[asked.index("--name") + 2:]
of = json.loads({json.dumps(json.dumps({p: list(d) for p, d in PROMPTS}))})
videos = sorted(pathlib.Path(value("--videos")).iterdir())
assert all(v.read_bytes().startswith(b"video") for v in videos)
means = json.loads({json.dumps(json.dumps(means))})
results = {{}}
for d in dimensions:
    seen = [v for v in videos if d in of[v.name.removesuffix("-0.mp4")]]
    results[d] = [means[d], [{{"video_path": str(v), "video_results": means[d]}} for v in seen]]
{breaks}
(pathlib.Path(value("--out")) / (value("--name") + "_eval_results.json")).write_text(json.dumps(results))
""",
        encoding="utf-8",
    )
    python = folder / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {program} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    return folder


def test_amd_s_published_dimensions_give_its_published_score(tmp_path: Path) -> None:
    folder = video_run(tmp_path / "run", PROMPTS)
    before = VBench().compute(load_run(folder))["vbench"]
    assert (before.value, before.note) == (None, "VBench has not seen this run's videos: suite.py vbench run")
    (tmp_path / "environment").mkdir()
    evaluate(load_run(folder), fake_vbench(tmp_path / "environment", AMD))
    figures = VBench().compute(load_run(folder))
    assert round(100 * (figures["vbench"].value or 0), 2) == 69.98
    assert {d: figures[f"vbench_{d}"].value for d in ALL} == pytest.approx(AMD)
    assert [figures[f"vbench_{d}"].n for d in ("subject_consistency", "appearance_style", "scene")] == [2, 1, 1]
    assert distrust(folder) == []


def test_failed_videos_stay_in_each_of_their_dimensions(tmp_path: Path) -> None:
    folder = video_run(tmp_path / "run", PROMPTS, failed=(1, 3))
    (tmp_path / "environment").mkdir()
    evaluate(load_run(folder), fake_vbench(tmp_path / "environment", AMD))
    figures = VBench().compute(load_run(folder))
    half = {d: AMD[d] / 2 for d in SUBJECT}  # one of two
    assert {d: figures[f"vbench_{d}"].value for d in SUBJECT} == pytest.approx(half)
    assert {figures[f"vbench_{d}"].value for d in SCENE} == {0.0}  # the only one
    assert figures["vbench_scene"].note == "1 of 1 videos are missing and count nought"
    assert figures["vbench"].value == pytest.approx((sum(half.values()) + AMD["appearance_style"]) / 6)


def test_a_score_is_of_the_videos_that_vbench_saw(tmp_path: Path) -> None:
    folder = video_run(tmp_path / "run", PROMPTS)
    (tmp_path / "environment").mkdir()
    evaluate(load_run(folder), fake_vbench(tmp_path / "environment", AMD))
    records = (folder / "records.jsonl").read_text(encoding="utf-8")
    (folder / "records.jsonl").write_text(records.replace(f"{2:016x}", "f" * 16), encoding="utf-8")
    assert VBench().compute(load_run(folder))["vbench"].value is None


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        ("sys.exit('out of memory')", "VBench failed with exit code 1: out of memory"),
        ("sys.exit(0)", "VBench failed with exit code 0: it wrote no results"),
    ],
)
def test_a_vbench_that_fails_is_told_in_its_own_words(tmp_path: Path, breaks: str, message: str) -> None:
    folder = video_run(tmp_path / "run", PROMPTS)
    (tmp_path / "environment").mkdir()
    with pytest.raises(RunError, match=message):
        evaluate(load_run(folder), fake_vbench(tmp_path / "environment", AMD, breaks))
    assert not (folder / FILE).exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scene": [1.5, [{"video_path": "attic-0.mp4"}]]}, "'scene' has the mean 1.5"),
        ({"scene": [0.5, [{"video_path": "attic-0.mp4"}] * 2]}, "'attic-0.mp4', which is twice there"),
        ({"scene": [0.5, [{"video_path": "a snail runs-0.mp4"}]]}, "no video of a prompt for it"),
        ({"scene": 0.5}, r"is not \[mean, \["),
        ({"scene": None}, r"is not \[mean, \["),
    ],
)
def test_results_that_are_not_as_vbench_writes_them_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = video_run(tmp_path / "run", PROMPTS)
    (tmp_path / "environment").mkdir()
    evaluate(load_run(folder), fake_vbench(tmp_path / "environment", AMD))
    kept = json.loads((folder / FILE).read_text(encoding="utf-8"))
    kept["results"].update(change)
    (folder / FILE).write_text(json.dumps(kept), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        VBench().compute(load_run(folder))


def test_no_environment_and_no_videos_are_told(tmp_path: Path) -> None:
    folder = video_run(tmp_path / "run", PROMPTS)
    with pytest.raises(ConfigError, match=r"suite\.py vbench-setup"):
        evaluate(load_run(folder), tmp_path / "nowhere")
    (tmp_path / "environment").mkdir()
    with pytest.raises(ConfigError, match="no video of a VBench prompt"):
        evaluate(load_run(video_run(tmp_path / "none", PROMPTS, failed=(0, 1, 2, 3))), fake_vbench(tmp_path / "environment", AMD))


def test_the_environment_s_commands_pin_what_they_install(tmp_path: Path) -> None:
    planned = plan_setup(sys.executable, tmp_path / "new", "https://example.org/rocm")
    assert planned.commands[0][:4] == [sys.executable, "-m", "venv", str(tmp_path / "new")]
    assert "https://example.org/rocm" in planned.commands[1]
    assert "vbench==0.1.5" in planned.commands[2]
    (tmp_path / "environment").mkdir()
    with pytest.raises(ConfigError, match="holds an environment already"):
        plan_setup(sys.executable, fake_vbench(tmp_path / "environment", AMD), None)
    with pytest.raises(ConfigError, match=r"Python 3.10 or 3.11"):
        plan_setup("python-of-nobody", tmp_path / "other", None)
