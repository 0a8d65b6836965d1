"""Programs that work, and programs that try to break out of the sandbox."""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import suite
from configs.errors import ConfigError
from metrics.mlperf.accuracy import code_results
from metrics.mlperf.accuracy.code_results import run_code
from metrics.mlperf.accuracy.code_sandbox import STRONG, Limits, Outcome, isolation, run_tests, same_lines
from metrics.mlperf.accuracy.gpt_oss_accuracy import GptOssAccuracy
from metrics.report.load_run import load_run
from tests.conftest import record
from tests.metrics.conftest import write_run
from workloads.records import Sample
from workloads.run_folder.manifest import modifications

LIMITS = Limits(seconds=15)
ADD = "a, b = map(int, input().split())\nprint(a + b)"
NOT_REACHED = "OSError as error:\n    print('ok')"

isolated = pytest.mark.skipif(not set(STRONG) <= set(isolation()), reason="the kernel allows no namespaces or no Landlock")


def stdin(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"input": text, "output": expected, "kind": "stdin"} for text, expected in pairs]


def functional(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"input": text, "output": expected, "kind": "functional"} for text, expected in pairs]


def test_a_program_passes_when_it_passes_all_tests() -> None:
    assert run_tests(ADD, stdin(("2 3\n", "5\n"), ("-1 1", "0")), None, LIMITS) == (True, "")
    assert run_tests(ADD, stdin(("2 3\n", "5\n"), ("1 1", "3")), None, LIMITS) == (False, "test 2: wrong answer")
    assert run_tests("print(nothing)", stdin(("", "")), None, LIMITS) == (False, "test 1: ended with an error")
    assert run_tests("print(", stdin(("", "")), None, LIMITS) == (False, "test 1: ended with an error")


def test_a_function_gives_its_answer_whatever_the_program_prints() -> None:
    method = "class Solution:\n    def pair(self, a, b):\n        print('noise')\n        return (a, b)"
    assert run_tests(method, functional(('1\n["x"]', '[1, ["x"]]')), "pair", LIMITS).passed  # a tuple is as good as a list
    assert run_tests("def double(x): return 2 * x", functional(("4", "8"), ("0.5", "1.0")), "double", LIMITS).passed
    assert not run_tests("def double(x): return x", functional(("4", "8")), "double", LIMITS).passed
    assert not run_tests("def other(x): return 8", functional(("4", "8")), "double", LIMITS).passed
    assert not run_tests("def double(x): return (y for y in [8])", functional(("4", "[8]")), "double", LIMITS).passed


def test_names_that_livecodebench_imports_are_defined() -> None:
    code = "print(sqrt(16), Counter('aab')['a'], gcd(12, 18), pow(2, 3), List[int], sum(accumulate([1, 2])), bisect_left([1, 3], 2))"
    assert run_tests(code, stdin(("", "4.0 2 6 8 typing.List[int] 4 1")), None, LIMITS).passed


def test_lines_are_compared_without_surrounding_space_and_as_numbers() -> None:
    assert same_lines("1 2 \n 3\n\n", "1 2\n3")
    assert same_lines("1.0 2", "1 2.00")
    assert same_lines("Yes", "Yes")
    assert not same_lines("yes", "Yes")
    assert not same_lines("1\n2", "1 2")
    assert not same_lines("50000000000000000", "50000000000000001")  # as floats they would be the same


def test_a_program_that_does_not_end_is_killed() -> None:
    for code in ("while True: pass", "import time\ntime.sleep(60)"):
        start = time.monotonic()
        assert run_tests(code, stdin(("", "")), None, Limits(seconds=1)) == (False, "test 1: still running after 1 s")
        assert time.monotonic() - start < 8


@isolated
@pytest.mark.parametrize(
    "attempt",
    [
        "socket.create_connection(('127.0.0.1', PORT), 2)",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', PORT))",
        "open(SECRET).read()",
        "open(SECRET, 'w')",
        "os.remove(SECRET)",
        "open('here.txt', 'w')",
        "os.listdir(FOLDER)",
        "os.kill(SUITE, 9)",
    ],
)
def test_a_program_reaches_no_network_no_file_and_no_process(attempt: str, tmp_path: Path) -> None:
    import socket

    secret = tmp_path / "secret.txt"
    secret.write_text("mine", encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as server:
        names = f"PORT, SUITE = {server.getsockname()[1]}, {os.getpid()}\nSECRET, FOLDER = {str(secret)!r}, {str(tmp_path)!r}\n"
        code = f"import os, socket\n{names}try:\n    {attempt}\n    print('reached')\nexcept {NOT_REACHED}"
        outcome = run_tests(code, stdin(("", "ok")), None, LIMITS)
    assert outcome.passed, f"{attempt}: {outcome.why}"
    assert secret.read_text(encoding="utf-8") == "mine"


@isolated
def test_processes_that_a_program_leaves_running_end_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # so that its processes can be recognised by their command lines
    code = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(30)\nprint('ok')"
    assert run_tests(code, stdin(("", "ok")), None, LIMITS).passed
    assert not [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path).encode() in _read(p)]


def test_memory_and_output_are_limited() -> None:
    assert not run_tests("x = bytearray(2**28)\nprint('ok')", stdin(("", "ok")), None, Limits(5, memory_bytes=2**27)).passed
    assert run_tests("x = bytearray(2**20)\nprint('ok')", stdin(("", "ok")), None, Limits(5, memory_bytes=2**27)).passed
    assert not run_tests("print('x' * 2**21)", stdin(("", "x" * 2**21)), None, Limits(5, output_bytes=2**20)).passed


def test_tests_that_cannot_be_run_are_refused() -> None:
    with pytest.raises(ConfigError, match="has no function_name"):
        run_tests("", functional(("1", "2")), None, LIMITS)
    with pytest.raises(ConfigError, match="test 1 is not JSON"):
        run_tests("", functional(("one", "2")), "f", LIMITS)


def coding_run(tmp_path: Path, answers: list[str], **meta: Any) -> Path:
    """A run folder of answers to `print the sum`."""
    metas = {"scored_by": "livecodebench", "subset": "livecodebench", "answer": "q1", **meta}
    samples = [Sample(i, f"add {i}", metas) for i in range(len(answers))]
    records = [record(i, text=text, num_units=3) for i, text in enumerate(answers)]
    return write_run(tmp_path / "run", samples, records, metrics=["gpt_oss_accuracy"], dataset={"source": "gpt-oss-accuracy"})


RIGHT, WRONG, EMPTY = f"```python\n{ADD}\n```", "```python\nprint(4)\n```", "I cannot do this."


@isolated
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


@isolated
def test_the_command_runs_them_and_writes_the_report_again(tmp_path: Path) -> None:
    folder = coding_run(tmp_path, [RIGHT, WRONG], tests=json.dumps(stdin(("2 3", "5"))))
    done = CliRunner().invoke(suite.app, ["run-code", str(folder), "--timeout", "15"])
    assert "1 programs pass, 1 fail; sandbox: " in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["headline"]["gpt_oss_accuracy"] == 0.5
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert report["figures"]["gpt_oss_livecodebench"]["value"] == 0.5


@isolated
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


@isolated
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
    with pytest.raises(ConfigError, match=r"no files and no namespaces.*--weak-sandbox"):
        run_code(load_run(folder), limits=LIMITS)
    assert ran == []
    assert run_code(load_run(folder), limits=LIMITS, weak=True).passed == 1
    assert ran == [ADD]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
