"""What many tests need: the suite as a user starts it, runs made by hand, and a tiny Wan with random weights.

The results of tests marked `feature` are stored where `--features FILE` is given: tests/features.py.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # here and in what tests start: workers side by side, each with all cores, take twice as long
os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read once, when the hub's library is imported
# Container images set this; without saved bytecode each short run compiles the suite's own modules twice again, a fifth of its time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job; processes that tests interrupt would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

import numpy as np
import pytest
from numpy.typing import NDArray

from configs.load_config import parse_config
from metrics.base import Run
from tests import features
from tests.forked_ranks import start_ranks
from workloads.records import Record, Sample
from workloads.run_folder.media import write_video
from workloads.t2v import TextToVideo

sys.dont_write_bytecode = False  # of this process, which read the variable before

ROOT = Path(__file__).parent.parent
ACCELERATE = [str(Path(sys.executable).with_name("accelerate")), "launch"]
TWO_RANKS = [*ACCELERATE, "--config_file", str(ROOT / "configs/accelerate/cpu_2.yaml"), "--main_process_port", "0"]
QUICK = ["--set", "load.min_duration_s=0.2", "--set", "load.min_query_count=8", "--set", "dataset.num_prompts=8"]

BRIEF = [*QUICK, "--set", "metrics=[throughput]", "--set", "report_videos=0"]  # half of a short run's time are scores and clips

TIMEOUT_S = 240

SuiteRun = Callable[..., "subprocess.CompletedProcess[str]"]


_results: list[features.FeatureResult] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("features", "Results of tests marked `feature`")
    group.addoption("--features", metavar="FILE", help="store the results of tests marked `feature` in FILE, such as docs/features.json")
    group.addoption("--features-on", metavar="PLACE", default="CPU", help="the place that the results are stored under (default: CPU)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in item.iter_markers("feature"):
            item.user_properties.append(("feature", _read_mark(*mark.args, **mark.kwargs)))
        if item.get_closest_marker("gpu") is not None and not _has_accelerator():
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))


def _read_mark(engine: str, feature: str, refused: str | None = None, note: str | None = None) -> dict[str, str | None]:
    return {"engine": engine, "feature": feature, "refused": refused, "note": note}


@functools.cache
def _has_accelerator() -> bool:
    import torch

    return torch.cuda.is_available()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":  # a test that is skipped or breaks before its call has none
        why = report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""
        marks = [dict(mark) for name, mark in report.user_properties if name == "feature"]  # type: ignore[call-overload]
        _results.extend(features.result_of(mark, report.outcome, why) for mark in marks)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if (file := session.config.getoption("--features")) and not hasattr(session.config, "workerinput"):
        features.save(Path(file), session.config.getoption("--features-on"), _results)


def suite_env() -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")}
    return env | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(autouse=True)
def signals_stay() -> Iterator[None]:
    """A run that fails ignores signals to its end; in the process of the tests that would go on, and pass to what later tests start."""
    kept = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in kept]
    yield
    for number, handler in zip(kept, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def suite(tmp_path: Path) -> SuiteRun:
    return suite_in(tmp_path)


def suite_in(tmp_path: Path) -> SuiteRun:
    """Run suite.py with these arguments from this folder; `launcher` starts it in place of Python.

    Both are forked from a process that has its imports behind it, without a launcher each of its `ranks`: half of a short run's time, and
    a third of what `accelerate launch` takes for two ranks.
    """

    def run(
        *arguments: str, launcher: Sequence[str] = (), ranks: int = 1, env: dict[str, str] | None = None, path: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        assert ranks == 1 or not (launcher or env), "several ranks are forked, with the environment that the fork server has"
        command = [*(launcher or (sys.executable,)), str(ROOT / "suite.py"), *arguments]
        environment = suite_env() | (env or {}) | ({"PYTHONPATH": str(path)} if path else {})
        if env is not None:  # read when Python starts, or a command line that ranks look at
            return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
        script, *words = [*launcher, *command[-1 - len(arguments) :]]
        started = start_ranks(tmp_path, words, ranks, environment, Path(script))[
            ::-1
        ]  # rank 0 is the last: its output ends what all have printed
        ends = time.monotonic() + TIMEOUT_S
        for process, _ in started:
            process.join(max(ends - time.monotonic(), 0.1))
        if any(process.is_alive() for process, _ in started):
            for process, _ in started:
                process.kill()
            raise subprocess.TimeoutExpired(command, TIMEOUT_S, *(b"".join(o[n].read_bytes() for _, o in started) for n in (0, 1)))
        texts = ["".join(outputs[n].read_text(encoding="utf-8") for _, outputs in started) for n in (0, 1)]
        code = next((process.exitcode for process, _ in reversed(started) if process.exitcode), 0)
        return subprocess.CompletedProcess(command, code, *texts)

    return run


def last_line(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The JSON line that ends a run's stdout."""
    assert done.stdout.strip(), done.stderr
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def read_report(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(last_line(done)["run"]) / "report.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    """A Run from videos (one a sample), or from records made by hand."""

    def make(
        videos: Sequence[NDArray[np.uint8]] = (),
        prompts: Sequence[str] = (),
        records: Sequence[Record] | None = None,
        metas: Sequence[dict[str, Any]] = (),
        **config: Any,
    ) -> Run:
        texts = list(prompts) or [
            f"prompt {i}" for i in range(max(len(videos), 1 + max((r.sample_index for r in records or ()), default=0)))
        ]
        samples = [Sample(i, text, metas[i] if metas else {}) for i, text in enumerate(texts)]
        if records is None:
            records = []
            for i, video in enumerate(videos):
                write_video(tmp_path / f"media/{i}.mkv", video, 8)
                digest = f"{hash(video.tobytes()) & 0xFFFFFFFFFFFFFFFF:016x}"
                records.append(record(i, media=f"media/{i}.mkv", digest=digest, num_units=len(video)))
        values = {"workload": "t2v", "pipeline": {"name": "toy_t2v"}, **config}
        return Run(tmp_path, parse_config(values, "test"), TextToVideo(), samples, records, {})

    return make


def record(query_id: int, **fields: Any) -> Record:
    """A finished record; query i is issued at 0 s and done at i + 1 s, where nothing else is said."""
    values: dict[str, Any] = {
        "query_id": query_id,
        "sample_index": query_id,
        "seed": 1,
        "mode": "performance",
        "status": "done",
        "rank": 0,
        "issued_s": 0.0,
        "completed_s": query_id + 1.0,
    }
    return Record(**values | fields)


@pytest.fixture(scope="session")
def tiny_wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder of Wan's classes with two experts and random weights, and 4 frames a latent, as Wan's have."""
    import torch
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel

    from pipelines.embedded.training.t2v.text import TEXT_DIM, build_text_encoder, build_tokenizer

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    experts = [
        WanTransformer3DModel(
            num_attention_heads=2, attention_head_dim=12, num_layers=2, ffn_dim=32, in_channels=16, out_channels=16, text_dim=TEXT_DIM
        )
        for _ in range(2)
    ]
    pipe = WanPipeline(
        tokenizer=tokenizer,
        text_encoder=build_text_encoder(tokenizer),
        vae=AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        transformer=experts[0],
        transformer_2=experts[1],
        boundary_ratio=0.875,
    )
    folder = tmp_path_factory.mktemp("tiny-wan")
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders of the video families by their name in tests/pipelines/diffusers/tiny_families.py, each built on first use."""
    from tests.pipelines.diffusers import tiny_families

    @functools.cache
    def folder(name: str) -> Path:
        made = tmp_path_factory.mktemp(name)
        tiny_families.save(name, made)
        return made

    return folder
