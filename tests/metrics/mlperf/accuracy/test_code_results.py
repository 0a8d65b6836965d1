"""The programs of a run: which are run, what is kept of them, and what a report says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import suite
from configs.errors import ConfigError
from metrics.mlperf.accuracy import code_results
from metrics.mlperf.accuracy.code_results import run_code
from metrics.mlperf.accuracy.gpt_oss_accuracy import GptOssAccuracy
from metrics.mlperf.accuracy.sandbox.run_tests import Outcome
from metrics.report.load_run import load_run
from tests.conftest import record
from tests.metrics.conftest import write_run
from tests.metrics.mlperf.accuracy.programs import ADD, LIMITS, stdin, strong
from workloads.records import Sample
from workloads.run_folder.manifest import modifications


def coding_run(tmp_path: Path, answers: list[str], **meta: Any) -> Path:
    """A run folder of answers to `print the sum`."""
    metas = {"scored_by": "livecodebench", "subset": "livecodebench", "answer": "q1", **meta}
    samples = [Sample(i, f"add {i}", metas) for i in range(len(answers))]
    records = [record(i, text=text, num_units=3) for i, text in enumerate(answers)]
    return write_run(tmp_path / "run", samples, records, metrics=["gpt_oss_accuracy"], dataset={"source": "gpt-oss-accuracy"})


RIGHT, WRONG, EMPTY = f"```python\n{ADD}\n```", "```python\nprint(4)\n```", "I cannot do this."


@strong
def test_programs_count_only_after_they_were_run(tmp_path: Path) -> None:
    folder = coding_run(tmp_path, [RIGHT, WRONG, EMPTY, RIGHT], tests=json.dumps(stdin(("2 3", "5"))))
    before = GptOssAccuracy().compute(load_run(folder))
    assert before["gpt_oss_accuracy"].value is None
    assert "3 of 4 answers hold programs that were not run" in before["gpt_oss_accuracy"].note
    assert not (folder / code_results.FILE).exists()
    assert run_code(load_run(folder), limits=LIMITS, workers=2)[:3] == (2, 1, 0)
    after = GptOssAccuracy().compute(load_run(folder))
    assert after["gpt_oss_accuracy"].value == 2 / 4
    assert modifications(folder) == []  # the verdicts are in the manifest


@strong
def test_the_command_runs_them_and_writes_the_report_again(tmp_path: Path) -> None:
    folder = coding_run(tmp_path, [RIGHT, WRONG], tests=json.dumps(stdin(("2 3", "5"))))
    done = CliRunner().invoke(suite.app, ["run-code", str(folder), "--timeout", "15"])
    assert "1 programs pass, 1 fail; sandbox: " in done.stderr
    assert "the kernel, which they share" in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["headline"]["gpt_oss_accuracy"] == 0.5
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert report["figures"]["gpt_oss_livecodebench"]["value"] == 0.5


@strong
def test_an_edited_verdict_is_detected(tmp_path: Path) -> None:
    folder = coding_run(tmp_path, [WRONG], tests=json.dumps(stdin(("2 3", "5"))))
    run_code(load_run(folder), limits=LIMITS)
    file = folder / code_results.FILE
    file.write_text(file.read_text(encoding="utf-8").replace("false", "true"), encoding="utf-8")
    assert "code_results.json: modified after the run" in modifications(folder)[0]
    with pytest.raises(ConfigError, match="was modified after it finished"):
        run_code(load_run(folder), limits=LIMITS)


def test_a_verdict_belongs_to_one_program(tmp_path: Path) -> None:
    verdicts = {"0": {"program": code_results._hash("print(1)"), "passed": True, "why": ""}}
    (tmp_path / code_results.FILE).write_text(json.dumps({"schema": code_results.SCHEMA, "verdicts": verdicts}), encoding="utf-8")
    assert code_results.passed(tmp_path, 0, "print(1)") is True
    assert code_results.passed(tmp_path, 0, "print(2)") is None
    assert code_results.passed(tmp_path, 1, "print(1)") is None


@strong
def test_tests_come_from_livecodebench_s_own_files(tmp_path: Path) -> None:
    import base64
    import pickle
    import zlib

    folder = coding_run(tmp_path, [RIGHT, WRONG])
    with pytest.raises(ConfigError, match=r"2 programs have no tests in the run.*--tests FOLDER"):
        run_code(load_run(folder), limits=LIMITS)
    private = base64.b64encode(zlib.compress(pickle.dumps(json.dumps([{"input": "7 7", "output": "14", "testtype": "stdin"}])))).decode()
    public = json.dumps([{"input": "1 3", "output": "4", "testtype": "stdin"}])
    row = {"question_id": "q1", "public_test_cases": public, "private_test_cases": private, "metadata": "{}"}
    files = tmp_path / "lcb"
    files.mkdir()
    (files / "test6.jsonl").write_text(json.dumps({"question_id": "q0"}) + "\n" + json.dumps(row) + "\n", encoding="utf-8")
    assert run_code(load_run(folder), files, LIMITS)[:3] == (1, 1, 0)  # the wrong one passes the public test


def test_a_pickle_that_holds_more_than_a_text_is_refused(tmp_path: Path) -> None:
    import base64
    import zlib

    from workloads.mlperf.livecodebench import read_problems

    harmful = base64.b64encode(zlib.compress(b"cos\nsystem\n(S'touch pwned'\ntR.")).decode()
    row = {"question_id": "q1", "public_test_cases": "[]", "private_test_cases": harmful, "metadata": "{}"}
    file = tmp_path / "test.jsonl"
    file.write_text(json.dumps(row), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"row 1: field 'private_test_cases'.*os.system"):
        list(read_problems(file, {"q1"}))


def test_a_machine_without_isolation_runs_nothing_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = coding_run(tmp_path, [RIGHT], tests=json.dumps(stdin(("2 3", "5"))))
    monkeypatch.setattr(code_results, "isolation", list)
    ran: list[str] = []

    def run_all(program: str, *_: Any) -> Outcome:
        ran.append(program)
        return Outcome(True, "")

    monkeypatch.setattr(code_results, "run_tests", run_all)
    with pytest.raises(ConfigError, match=r"no files and no calls and no namespaces.*--weak-sandbox.*the contents of files.*the network"):
        run_code(load_run(folder), limits=LIMITS)
    assert ran == []
    assert run_code(load_run(folder), limits=LIMITS, weak=True).passed == 1
    assert ran == [ADD]
