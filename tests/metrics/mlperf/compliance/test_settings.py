"""LoadGen's settings and data set of each compliance test."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from metrics.base import Run
from metrics.mlperf.compliance import comply, settings
from tests.metrics.mlperf.compliance.conftest import answer


def test_settings_are_those_of_the_official_files(reference: Run) -> None:
    seed = {"mode": 2, "accuracy_log_rng_seed": 720381539243781796}
    unlimited = {"min_duration": 0, "sample_concatenate_permutation": 0}
    assert settings.settings(reference, "TEST01", 10) == seed | {"accuracy_log_sampling_target": 128}
    assert settings.settings(reference, "TEST06", 10) == seed | unlimited | {
        "accuracy_log_sampling_target": 100,
        "min_query_count": 100,
        "use_token_latencies": 1,
    }
    assert settings.settings(reference, "TEST09", 10) == seed | unlimited | {"accuracy_log_sampling_target": 10_000, "min_query_count": 10}


@pytest.mark.parametrize("file", [None, "perf/perf_eval_ref.jsonl", "perf_eval_ref.jsonl"])
def test_gpt_oss_answers_the_data_set_of_test07(reference: Run, tmp_path: Path, file: str | None) -> None:
    """All of it, without the run's own options. The data sets are in two folders beside each other, or in one."""
    path = "builtin:made-up" if file is None else str(tmp_path / "data" / file)
    if file is not None:
        questions = tmp_path / "data" / ("acc" if "/" in file else ".") / "acc_eval_compliance_gpqa.jsonl"
        for each in (Path(path), questions):
            each.parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps({"text_input": "?"}) + "\n", encoding="utf-8")
        rows = [{"text_input": f"question {i}", "dataset": "gpqa", "ground_truth": "A"} for i in range(990)]
        questions.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    dataset = {"source": "gpt-oss-performance", "path": path, "sha256": "00", "num_prompts": 3}
    config = reference.config.model_copy(update={"benchmark": "gpt-oss-120b", "dataset": dataset})
    run = replace(reference, config=config, outcome={"performance": {"target_qps": 9.0}})
    audit = comply.make_audit(run, "TEST07", tmp_path / "out")
    count = len(audit.samples)
    assert audit.config.dataset["source"] == "gpt-oss-gpqa"
    assert audit.config.dataset.keys() == {"source", "path"}
    assert {s.meta["subset"] for s in audit.samples} == {"gpqa"}
    assert count == 990 if file else 1 < count < 990
    assert audit.settings == {
        "mode": 2,
        "accuracy_log_rng_seed": 720381539243781796,
        "accuracy_log_sampling_target": 10_000,
        "min_duration": 0,
        "sample_concatenate_permutation": 0,
        "min_query_count": count,
    }
    assert comply.reason_not_run(run, "TEST07") == ""


def test_a_missing_data_set_of_test07_is_reported_with_the_command_that_fetches_it(reference: Run) -> None:
    config = reference.config.model_copy(update={"benchmark": "gpt-oss-120b", "dataset": {}})
    assert "'gpt-oss-gpqa' requires dataset.path: its file or folder, or builtin:made-up." in comply.reason_not_run(
        replace(reference, config=config), "TEST07"
    )


@pytest.mark.parametrize(("scenario", "index"), [("offline", 4), ("single_stream", 8)])
def test_of_texts_a_sample_of_typical_length_is_repeated(reference: Run, scenario: str, index: int) -> None:
    config = reference.config.model_copy(update={"scenario": scenario})
    records = [answer(i, num_units=10 * (i + 1) - 5, num_input_tokens=1) for i in range(10)]  # 5, 15 .. 95 tokens
    run = replace(reference, config=config, records=records)
    place = settings.settings(run, "TEST04", 10)["performance_issue_same_index"]
    assert settings.library_order(config, 10)[place] == index


def test_loadgens_order_is_a_permutation_and_depends_on_the_seed(reference: Run) -> None:
    orders = [settings.library_order(reference.config.model_copy(update={"seed": seed}), 10) for seed in (1, 1, 2)]
    assert sorted(orders[0]) == list(range(10))
    assert orders[0] == orders[1] != orders[2]
