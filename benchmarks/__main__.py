"""Runs the benchmarks in full, one after the other: `make bench`, or python -m benchmarks [NAME ..] [--list].

A name is that of a script, such as rate or audits/honest_runs; without one, all run. Each stores its own result. Those of audits/ take
hours; a benchmark that fails does not keep the others from running, and the exit code is 1 then.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent
MAIN = re.compile(r'^if __name__ == "__main__":', re.MULTILINE)
TOOLS = ("__main__", "trend", "performance")  # these work on the results
PARTS = ("gpu", "harness", "results")  # folders without benchmarks: the one of GPUs has a program of its own, benchmarks/gpu.sh


def find() -> dict[str, Path]:
    """All benchmarks by name: every file with a main program, but for the tools and the folders of parts."""
    found = {}
    for path in sorted(FOLDER.rglob("*.py")):
        name = path.relative_to(FOLDER).with_suffix("").as_posix()
        if name not in TOOLS and name.split("/")[0] not in PARTS and MAIN.search(path.read_text(encoding="utf-8")):
            found[name] = path
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    known = find()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="the benchmarks to run (default: all)")
    parser.add_argument("--list", action="store_true", help="print the names, and run nothing")
    given = parser.parse_args(argv)
    if given.list:
        print(*known, sep="\n")
        return 0
    if unknown := sorted(set(given.names) - set(known)):
        parser.error(f"no benchmark {', '.join(unknown)}; known: {', '.join(known)}")
    failed = []
    for name in given.names or known:
        print(f"\n== {name}", flush=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        if subprocess.run([sys.executable, str(known[name])], cwd=FOLDER.parent, env=environment).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
