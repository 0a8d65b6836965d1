"""An accuracy run that was cut short is finished, and comes to what an unbroken one comes to."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from configs.errors import ConfigError, RunError
from configs.load_config import parse_config
from configs.run_config import RunConfig
from pipelines.launcher.provenance import write_manifest, write_system
from pipelines.launcher.resume import prepare_rest, resumed_config
from tests.conftest import SuiteRun, read_report, record, suite_env
from tests.forked_ranks import start_ranks
from workloads.records import Sample
from workloads.run_folder.files import write_config, write_json, write_samples

NUM = 8
ACCURACY = ["--config", "t2v/toy", "--mode", "accuracy", "--set", f"dataset.num_prompts={NUM}", "--set", "pipeline.batch_size=2"]
ACCURACY += ["--set", "metrics=[world_score]", "--set", "report_videos=0"]


def read(folder: Path, name: str = "records.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


def test_a_run_that_was_killed_is_finished_on_other_ranks_with_the_answers_of_an_unbroken_one(suite: SuiteRun, tmp_path: Path) -> None:
    whole = read_report(suite(*ACCURACY, "--output", "whole"))
    (rank,) = start_ranks(tmp_path, [*ACCURACY, "--set", "pipeline.seconds=0.3", "--output", "run"], 1, suite_env())
    process = rank.process
    file = tmp_path / "run/records.jsonl"
    while process.exitcode is None and not (file.exists() and file.read_bytes().count(b"\n") >= 4):
        time.sleep(0.05)
    for child in psutil.Process(process.pid).children():
        child.kill()  # the conductor
    process.kill()
    process.join()
    before = read(tmp_path / "run")
    assert 4 <= len(before) < NUM
    left = suite("report", "run")
    assert "the accuracy test did not finish" in left.stderr.replace("\n", " ")
    assert f"{NUM - len(before)} of {NUM} queries failed or did not finish" in read_report(left)["reasons"]
    file.write_bytes(file.read_bytes() + b'{"query_id":999,"samp')
    lost = tmp_path / "run" / before[0]["media"]
    lost.unlink(missing_ok=True)  # as if it had not reached the disk

    done = suite("--resume", "run", ranks=2)
    assert done.returncode == 0, done.stderr
    report = read_report(done)
    assert report["verdict"] == "VALID"
    assert report["figures"]["world_score"] == whole["figures"]["world_score"]
    after = read(tmp_path / "run")
    assert {r["sample_index"]: r["digest"] for r in after} == {r["sample_index"]: r["digest"] for r in read(tmp_path / "whole")}
    kept = [r for r in before if (tmp_path / "run" / r["media"]).is_file() and r != before[0]]
    assert after[: len(kept)] == kept
    assert len(after) == NUM == len({r["query_id"] for r in after})
    assert before[0] in read(tmp_path / "run", "records.failed.jsonl")
    assert {r["rank"] for r in after[len(kept) :]} == {0, 1}

    again = suite("--resume", "run")
    assert again.returncode == 0
    assert f"nothing to do: all {NUM} samples of run are answered" in again.stderr
    assert read(tmp_path / "run") == after


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "seed=3", "--mode", "accuracy"], "--resume cannot be combined with --mode, --set"),
        ([], "'gone' is not a run folder: it has no config.yaml"),
    ],
)
def test_what_resume_cannot_do_is_said(suite: SuiteRun, arguments: list[str], message: str) -> None:
    done = suite("--resume", "gone", *arguments)
    assert done.returncode == 1
    assert message in done.stderr


def interrupted(folder: Path, **changes: Any) -> tuple[Path, RunConfig, list[Sample]]:
    """A run of three samples: 0 is answered, 1 failed, 2 was never issued."""
    values = {"workload": "t2v", "mode": "accuracy", "seed": 7, "pipeline": {"name": "toy_t2v", "seconds": 0.0}, **changes}
    config, samples = parse_config(values, "test"), [Sample(0, "a"), Sample(1, "b"), Sample(2, "c")]
    write_config(folder, config)
    write_samples(folder, samples)
    write_system(folder)
    write_manifest(folder, config, samples)
    write_json(folder / "outcome.json", {"accuracy": {"aborted": "rank 1 on node7 died", "num_issued": 2, "ranks": []}})
    lines = [record(0, mode="accuracy"), record(4, sample_index=1, mode="accuracy", status="failed")]
    (folder / "records.jsonl").write_bytes(msgspec.json.Encoder().encode_lines(lines))
    return folder, config, samples


def test_what_is_left_excludes_what_is_answered_and_follows_its_numbers_and_times(tmp_path: Path) -> None:
    rest = prepare_rest(*interrupted(tmp_path))
    assert rest is not None
    assert (rest.samples, rest.num_kept, rest.first_id, rest.began_s, rest.logs) == ([1, 2], 1, 5, 1.0, "accuracy")
    assert [e["aborted"] for e in rest.earlier] == ["rank 1 on node7 died"]
    assert [r["query_id"] for r in read(tmp_path)] == [0]
    assert [r["query_id"] for r in read(tmp_path, "records.failed.jsonl")] == [4]


def test_a_run_that_lacks_only_its_outcome_gets_it(tmp_path: Path) -> None:
    folder, config, samples = interrupted(tmp_path)
    (folder / "records.jsonl").write_bytes(msgspec.json.Encoder().encode_lines([record(i, mode="accuracy") for i in range(3)]))
    assert prepare_rest(folder, config, samples) is None
    outcome = json.loads((folder / "outcome.json").read_text(encoding="utf-8"))["accuracy"]
    assert (outcome["aborted"], outcome["num_done"]) == (None, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 8}, r"config.yaml: seed is now 8, but was 7 when the run began"),
        ({"pipeline": {"name": "toy_t2v", "seconds": 1.0}}, r"config.yaml: pipeline.seconds is now 1.0, but was 0.0 when"),
    ],
)
def test_a_changed_option_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder, config, samples = interrupted(tmp_path)
    with pytest.raises(ConfigError, match=message):
        prepare_rest(folder, parse_config(config.model_dump() | changes, "test"), samples)
    assert len(read(folder)) == 2


def test_a_changed_prompt_is_named(tmp_path: Path) -> None:
    folder, config, samples = interrupted(tmp_path)
    with pytest.raises(ConfigError, match=r"prompt 1 of the prompt set is now 'z', but 'b' in samples.jsonl"):
        prepare_rest(folder, config, [samples[0], Sample(1, "z"), samples[2]])
    with pytest.raises(ConfigError, match=r"the prompt set now has 2 prompts, but samples.jsonl has 3"):
        prepare_rest(folder, config, samples[:2])


def test_a_changed_package_is_named(tmp_path: Path) -> None:
    folder, config, samples = interrupted(tmp_path)
    system = json.loads((folder / "system.json").read_text(encoding="utf-8"))
    system["packages"]["torch"] = "1.0"
    write_json(folder / "system.json", system)
    with pytest.raises(ConfigError, match=r"package.torch is now '.*', but was '1.0' when the run began"):
        prepare_rest(folder, config, samples)


def test_settings_that_change_no_answer_may_change(tmp_path: Path) -> None:
    folder, config, samples = interrupted(tmp_path)
    assert prepare_rest(folder, config.model_copy(update={"answer_timeout_s": 900.0}), samples) is not None


def test_performance_is_not_resumed(tmp_path: Path) -> None:
    folder, _, _ = interrupted(tmp_path, mode="performance")
    with pytest.raises(ConfigError, match="is a performance run: its figures come from one uninterrupted load"):
        resumed_config(folder)
    folder, config, samples = interrupted(tmp_path, mode="both")
    with pytest.raises(ConfigError, match=r"its performance test was given up \(it did not finish\)"):
        prepare_rest(folder, config, samples)


def test_a_run_that_goes_on_is_left_alone(tmp_path: Path) -> None:
    from workloads.run_folder.record_log import RecordLog

    folder, config, samples = interrupted(tmp_path)
    log = RecordLog(folder, "accuracy", 5)
    with pytest.raises(ConfigError, match="is still being written"):
        prepare_rest(folder, config, samples)
    with pytest.raises(RunError, match=r"records\.jsonl is being written by another run"):
        RecordLog(folder, "accuracy", 5)
    log.close()
    assert prepare_rest(folder, config, samples) is not None
