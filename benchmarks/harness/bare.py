"""A bare prototype of a conductor and two workers: LoadGen with token events, a ZeroMQ ROUTER, two DEALERs that echo. Nothing is kept.

What a harness in Python on LoadGen and ZeroMQ cannot go below, for benchmarks/rate.py: every query is issued by LoadGen, sent to a worker
with all others that are there, echoed, and reported to LoadGen as a first token and as complete.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections import deque
from pathlib import Path
from typing import Any

import zmq

NUM_WORKERS = 2
NUM_SAMPLES = 1000
ROUND_S = 0.0005  # as the suite's conductor: larger messages at the same rate


def main() -> None:
    """echo URL NAME: a worker. Else RATE SECONDS TOKENS FOLDER KIND: a test, whose LoadGen logs are in the folder.

    KIND: `batched`, or `one by one`, where every query is a message.
    """
    if sys.argv[1] == "echo":
        echo(sys.argv[2], sys.argv[3])
    else:
        conduct(float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), sys.argv[5] == "batched")


def echo(url: str, name: str) -> None:
    """Send back every message; an empty one is the end."""
    socket = zmq.Context().socket(zmq.DEALER)
    socket.setsockopt(zmq.IDENTITY, name.encode())
    socket.connect(url)
    socket.send(b"")
    while content := socket.recv():
        socket.send(content)
    socket.close(linger=0)


def conduct(rate: float, seconds: float, num_tokens: int, folder: Path, batched: bool) -> None:
    """Run one test of LoadGen's server scenario. Prints the ids of the processes when it begins."""
    sys.setswitchinterval(0.001)  # as the suite's conductor
    with tempfile.TemporaryDirectory() as place:
        router = zmq.Context().socket(zmq.ROUTER)
        router.bind(f"ipc://{place}/bare")
        names = [f"worker-{n}".encode() for n in range(NUM_WORKERS)]
        workers = [subprocess.Popen([sys.executable, __file__, "echo", f"ipc://{place}/bare", name.decode()]) for name in names]
        for _ in names:
            router.recv_multipart()
        print(json.dumps({"conductor": os.getpid(), **{f"rank {n}": worker.pid for n, worker in enumerate(workers)}}), flush=True)
        _route(router, names, rate, seconds, num_tokens, folder, batched)
        for name, worker in zip(names, workers, strict=True):
            router.send_multipart([name, b""])
            worker.wait()
        router.close()


def _route(
    router: zmq.Socket[bytes], names: list[bytes], rate: float, seconds: float, num_tokens: int, folder: Path, batched: bool
) -> None:
    import mlperf_loadgen as lg

    issued: deque[int] = deque()
    woken, wake = os.pipe()
    asleep = False

    def on_issue(ids: list[int], indices: list[int]) -> None:
        nonlocal asleep
        issued.extend(ids)
        if asleep:
            asleep = False
            os.write(wake, b"+")

    thread = threading.Thread(target=_run_test, args=(on_issue, rate, seconds, folder))
    poller = zmq.Poller()
    poller.register(router, zmq.POLLIN)
    poller.register(woken, zmq.POLLIN)
    thread.start()
    turn, out = 0, 0
    while thread.is_alive() or out:
        asleep = True
        events = dict(poller.poll(0 if issued else 100))
        asleep = False
        began = time.perf_counter()
        if woken in events:
            os.read(woken, 4096)
        while router.poll(0):
            answered = array("Q", router.recv_multipart()[1])
            lg.FirstTokenComplete([lg.QuerySampleResponse(i, 0, 0, 1) for i in answered])
            lg.QuerySamplesComplete([lg.QuerySampleResponse(i, 0, 0, num_tokens) for i in answered])
            out -= len(answered)
        while count := len(issued) if batched else min(1, len(issued)):
            router.send_multipart([names[turn], array("Q", [issued.popleft() for _ in range(count)]).tobytes()])
            turn, out = (turn + 1) % len(names), out + count
            if batched:
                break
        if batched and (early := began + ROUND_S - time.perf_counter()) > 0:
            time.sleep(early)
    thread.join()


def _run_test(on_issue: Any, rate: float, seconds: float, folder: Path) -> None:
    """Under the limits of MLPerf's Llama 2 70B, as the suite sets them."""
    import mlperf_loadgen as lg

    settings = lg.TestSettings()
    settings.scenario, settings.mode = lg.TestScenario.Server, lg.TestMode.PerformanceOnly
    settings.server_target_qps, settings.min_duration_ms, settings.min_query_count = rate, round(seconds * 1000), 1
    settings.use_token_latencies, settings.server_target_latency_percentile = True, 0.99
    settings.ttft_latency, settings.tpot_latency, settings.server_target_latency_ns = 2 * 10**9, 2 * 10**8, 10**15
    output = lg.LogOutputSettings()
    output.outdir, output.copy_summary_to_stdout = str(folder), False
    log = lg.LogSettings()
    log.log_output, log.enable_trace = output, False

    def nothing(*_: object) -> None:
        pass

    sut = lg.ConstructFastSUT(on_issue, nothing)
    qsl = lg.ConstructQSL(NUM_SAMPLES, NUM_SAMPLES, nothing, nothing)
    lg.StartTestWithLogSettings(sut, qsl, settings, log, "")
    lg.DestroyQSL(qsl)
    lg.DestroyFastSUT(sut)


if __name__ == "__main__":
    main()
