"""The mock server in C: compiled, started, stopped."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from configs.errors import RunError

SOURCE = Path(__file__).with_name("mock_server.c")


def compile_mock(folder: Path) -> Path:
    """The program. Raises RunError where there is no C compiler, or it fails."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise RunError("the mock server is written in C, and there is no compiler: install cc (gcc or clang)")
    program = folder / "mock_server"
    done = subprocess.run([compiler, "-O2", "-o", str(program), str(SOURCE)], capture_output=True, text=True)
    if done.returncode:
        raise RunError(f"the mock server does not compile here, it needs Linux: {done.stderr.strip()[:300]}")
    return program


@contextlib.contextmanager
def serving(program: Path, num_tokens: int, first_s: float = 0.0, gap_s: float = 0.0, tail_s: float = 0.0) -> Iterator[str]:
    """The server's url, while it runs. See mock_server.c."""
    times = [str(round(seconds * 1e6)) for seconds in (first_s, gap_s, tail_s)]
    process = subprocess.Popen([str(program), str(num_tokens), *times], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.kill()
        process.communicate()
