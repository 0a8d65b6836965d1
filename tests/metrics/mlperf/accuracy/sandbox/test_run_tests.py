"""Programs that work, programs that fail, and programs that try to pass without the right answer."""

from __future__ import annotations

import json
import resource
import time

import pytest

from configs.errors import ConfigError
from metrics.mlperf.accuracy.sandbox.compare import same_lines, same_value, write_value
from metrics.mlperf.accuracy.sandbox.run_tests import Limits, run_tests, still_open
from tests.metrics.mlperf.accuracy.programs import ADD, LIMITS, functional, stdin, strong


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


def test_memory_and_output_are_limited() -> None:
    assert not run_tests("x = bytearray(2**28)\nprint('ok')", stdin(("", "ok")), None, Limits(5, memory_bytes=2**27)).passed
    assert run_tests("x = bytearray(2**20)\nprint('ok')", stdin(("", "ok")), None, Limits(5, memory_bytes=2**27)).passed
    too_large = (False, "test 1: its output is larger than 1 MiB")
    assert run_tests("print('x' * 2**21)", stdin(("", "x" * 2**21)), None, Limits(5, output_bytes=2**20)) == too_large
    assert run_tests("def f(n): return 'x' * n", functional((str(2**21), '"x"')), "f", Limits(5, output_bytes=2**20)) == too_large


def test_tests_that_cannot_be_run_are_refused() -> None:
    with pytest.raises(ConfigError, match="has no function_name"):
        run_tests("", functional(("1", "2")), None, LIMITS)
    with pytest.raises(ConfigError, match="test 1 is not JSON"):
        run_tests("", functional(("one", "2")), "f", LIMITS)


def test_an_answer_is_compared_under_the_limits_of_the_sandbox() -> None:
    """8 MB of nested lists took the suite's own process 70 s and 3.7 GB."""
    before, limits = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, Limits(15, memory_bytes=2**27)
    lists, tuples = (f"def f(n): return {kind}([[[]] for _ in range(n)])" for kind in ("list", "tuple"))  # tuples are not JSON
    assert run_tests(lists, functional(("100000", json.dumps([[[]]] * 100_000))), "f", limits) == (True, "")
    too_costly = (False, "test 1: its output takes too much time or memory to compare")
    assert run_tests(tuples, functional(("100000", "[1]")), "f", limits) == too_costly
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16  # KiB


def test_values_keep_their_types() -> None:
    written = {
        "[1, 2]": "[1, 2]",
        "(1, 2)": "[1, 2]",
        "{1: 2}": '{"1": 2}',
        "[(1, 2)]": "[[1, 2]]",
        "'1'": "1",
        "True": "1",
        "None": "null",
    }
    passed = [value for value, expected in written.items() if same_value(write_value(eval(value)), json.loads(expected))]
    assert passed == ["[1, 2]", "(1, 2)", "True", "None"]  # True == 1, as LiveCodeBench compares
    assert same_value(write_value("\ud800"), "\ud800")
    assert not same_value(write_value(float("nan")), float("nan"))
    assert not same_value(b"", [])
    assert not same_value(b"p" + b"[" * 10_000, [])
    assert not same_value(b"j" + b"[" * 10_000, [])


@strong
@pytest.mark.parametrize(
    "code",
    [
        "os._exit(0)",
        "os._exit(97)",  # the code by which the sandbox says that it was not isolated
        "os.write(1, b'ok?'); os._exit(98)",
        "os.close(1)",
        "print([o for o in gc.get_objects() if 'o' + 'k' == o])",
        "print(open('expected').read())",
        "print([os.read(fd, 9) for fd in range(3, 64)])",
        "print(''.join(str(v) for f in frames() for v in f.f_locals.values() if v == 'o' + 'k'))",
        "threading.Thread(target=os._exit, args=(0,)).start()",
        "sys.modules['metrics.mlperf.accuracy.sandbox.child'].PASSED = 94",
        "sys.modules['metrics.mlperf.accuracy.sandbox.child']._compare = lambda *_, **__: 0",
    ],
)
def test_a_program_cannot_pass_without_the_right_answer(code: str) -> None:
    frames = "def frames():\n    frame = sys._getframe()\n    while frame:\n        yield frame\n        frame = frame.f_back\n"
    outcome = run_tests(f"import gc, os, sys, threading\n{frames}{code}", stdin(("", "ok")), None, LIMITS)
    assert outcome.why in ("test 1: ended with an error", "test 1: wrong answer")


def test_programs_use_what_python_offers() -> None:
    code = """
import asyncio, concurrent.futures, dataclasses, decimal, resource, signal, sys, threading, time
import numpy
sys.setrecursionlimit(10**6)
resource.setrlimit(resource.RLIMIT_STACK, (2**26, resource.getrlimit(resource.RLIMIT_STACK)[1]))
threading.stack_size(2**26)
@dataclasses.dataclass(order=True)
class Point:
    x: int
def depth(n): return 0 if n == 0 else 1 + depth(n - 1)
def main():
    first, *rest = sys.stdin.buffer.read().split()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        squares = list(pool.map(lambda n: int(n) ** 2, rest))
    async def wait():
        await asyncio.sleep(0.01)
        return await asyncio.to_thread(lambda: int(first))
    print(depth(40_000), sum(squares), asyncio.run(wait()), min(Point(2), Point(1)).x, int(numpy.arange(4) @ numpy.ones(4)))
    print(decimal.Decimal(1) / 8, time.monotonic() > 0, gcd(4, 6))
signal.signal(signal.SIGALRM, lambda *_: None)
thread = threading.Thread(target=main)
thread.start()
thread.join()
exit()
"""
    assert run_tests(code, stdin(("5 1 2 3", "40000 14 5 1 6\n0.125 True 2")), None, LIMITS) == (True, "")


def test_what_stays_open_is_said() -> None:
    assert still_open(["namespaces", "mounts", "user", "files", "tcp", "calls"]) == []
    assert still_open(["namespaces", "files", "calls"]) == ["names, sizes and times of all files (stat)"]
    assert still_open(["namespaces", "files"]) == [
        "permissions, owners and times of files",
        "names, sizes and times of all files (stat)",
        "all system calls",
    ]
    assert "the contents of files" in still_open(["user"])
    assert "the network" in still_open(["files", "tcp"])


@strong
def test_threads_are_limited() -> None:
    code = """
import os, sys, threading, time
started = 0
try:
    while started < 1000:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        started += 1
except RuntimeError:
    pass
print(started < 64)
sys.stdout.flush()
os._exit(0)
"""
    assert run_tests(code, stdin(("", "True")), None, LIMITS).passed
