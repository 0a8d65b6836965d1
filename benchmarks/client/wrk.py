"""wrk (https://github.com/wg/wrk) against the mock server: what C alone can do, without reading the answers' events."""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

SCRIPT = """wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"messages":[{"role":"user","content":"count from 1 to 9."}],"model":"mock","temperature":0.0,"stream":true}'
"""


class Rate(NamedTuple):
    """Requests a second, and a CPU second."""

    per_s: float
    per_cpu_s: float


def wrk(url: str, connections: int, seconds: int, folder: Path) -> Rate | None:
    """None where wrk is not installed."""
    program = shutil.which("wrk")
    if program is None:
        return None
    script = folder / "post.lua"
    script.write_text(SCRIPT, encoding="utf-8")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [program, "-t1", f"-c{connections}", f"-d{seconds}", "-s", str(script), f"{url}/v1/chat/completions"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    counted = re.search(r"(\d+) requests in", output)
    found = re.search(r"Requests/sec:\s+([\d.]+)", output)
    assert counted is not None, output
    assert found is not None, output
    return Rate(float(found[1]), int(counted[1]) / max(cpu_s, 1e-9))
