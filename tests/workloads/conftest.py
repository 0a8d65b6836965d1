"""Configurations under MLPerf's rules, and LoadGen in processes of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from configs.load_config import parse_config
from configs.run_config import RunConfig
from tests.conftest import ROOT
from workloads.mlperf.benchmarks import ROUNDS

IN_FORKS = """
import json, os, sys
def ask(question):
    there, here = os.pipe()
    if not os.fork():
        os.write(here, json.dumps(question()).encode())
        os._exit(0)
    os.close(here)
    with os.fdopen(there) as answer:
        result = json.load(answer)
    os.wait()
    return result
def plain(s):
    names = [n for n in dir(s) if n[0] != "_" and n != "FromConfig"]
    return {n: getattr(s, n) for n in names if isinstance(getattr(s, n), (bool, int, float))}
"""


def ask_loadgen(script: str, *arguments: str) -> Any:
    command = [sys.executable, "-c", IN_FORKS + script, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def mlperf_values(name: str, scenario: str = "offline", rules: str = "mlperf-v6.1", **more: Any) -> dict[str, Any]:
    workload = next((table[name].workload for table in ROUNDS.values() if name in table), "llm")
    return {"workload": workload, "pipeline": {"name": f"toy_{workload}"}, "rules": rules, "benchmark": name, "scenario": scenario, **more}


def mlperf_config(name: str, scenario: str = "offline", rules: str = "mlperf-v6.1", **more: Any) -> RunConfig:
    return parse_config(mlperf_values(name, scenario, rules, **more), "test")
