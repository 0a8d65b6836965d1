"""Ranks that answer together give the answers of one: on two gloo ranks, with random weights."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from configs.errors import ConfigError
from configs.load_config import parse_config
from configs.settings import ParallelSettings
from pipelines.diffusers.t2v import DiffusersT2V
from pipelines.distributed.replica import Replica, check_parallelism
from pipelines.transformers.tensor_parallel import check_heads
from tests.conftest import BRIEF, QUICK, ROOT, TIMEOUT_S, SuiteRun, last_line, read_report, suite_env
from tests.forked_ranks import start_ranks
from tests.pipelines.distributed.replica_ranks import CASES, CLIP, answer

# The pass of a step, and the tokens of a clip, are computed by the same kernels on the same numbers: only sums that are taken in
# another order differ. Pixels are 0 to 255; two of these clips differ by up to 30.
PIXEL_TOLERANCE = 1


@pytest.fixture(scope="module")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 heads, 2 key-value heads, random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from pipelines.embedded.training.llm.train import world_tokenizer

    torch.manual_seed(0)
    tokenizer = world_tokenizer(0)
    shape: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    config = LlamaConfig(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, max_position_embeddings=256, **shape)
    folder = tmp_path_factory.mktemp("tiny-llama")
    model: Any = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run_ranks(count: int, wan: Path, llama: Path, output: Path, *cases: str) -> None:
    script = Path(__file__).with_name("replica_ranks.py")
    started = start_ranks(output, [str(wan), str(llama), str(output), *cases], count, suite_env(), script)
    for rank in started:
        rank.process.join(TIMEOUT_S)
    errors = [rank.outputs[1].read_text(encoding="utf-8")[-4000:] for rank in started]
    for rank in started:
        rank.process.kill()
    assert [rank.process.exitcode for rank in started] == [0] * count, errors


@pytest.fixture(scope="module")
def two_ranks(tiny_wan: Path, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two ranks wrote their answers to all cases for two."""
    output = tmp_path_factory.mktemp("two-ranks")
    run_ranks(2, tiny_wan, tiny_llama, output, *[c for c in CASES if c != "context-cfg"])
    return output


@pytest.fixture(scope="module")
def one_rank_clips(tiny_wan: Path) -> Any:
    return answer("cfg", str(tiny_wan), Replica())["clips"].astype(int)


@pytest.mark.xdist_group("two-ranks")  # they share what two ranks made in one go
@pytest.mark.parametrize(
    ("case", "effective"),
    [
        pytest.param("ulysses", "context 2 (ulysses)", marks=pytest.mark.feature("diffusers_t2v", "context parallelism: Ulysses")),
        ("ring", "context 2 (ring)"),
        pytest.param("cfg", "cfg 2", marks=pytest.mark.feature("diffusers_t2v", "guidance passes on two ranks")),
        ("cfg-bfloat16", "cfg 2"),
        ("cfg-vae-whole", "cfg 2"),
    ],
)
def test_two_ranks_make_the_clip_of_one(two_ranks: Path, one_rank_clips: Any, tiny_wan: Path, case: str, effective: str) -> None:
    """`ring` runs diffusers' ring with torch's flash attention for CPUs put in place of that for accelerators."""
    clips = np.load(two_ranks / f"{case}-0.npy").astype(int)
    expected = answer(case, str(tiny_wan), Replica())["clips"].astype(int) if case == "cfg-bfloat16" else one_rank_clips
    assert np.abs(clips - expected).max() <= PIXEL_TOLERANCE
    assert np.abs(expected[0] - expected[1]).max() > 10 * PIXEL_TOLERANCE
    assert json.loads((two_ranks / f"{case}-0.json").read_text())["effective"]["parallel"] == effective


@pytest.mark.xdist_group("two-ranks")
@pytest.mark.feature("diffusers_t2v", "VAE split over ranks")
def test_two_ranks_that_decode_a_half_each_make_nearly_the_clip_of_one(two_ranks: Path, one_rank_clips: Any) -> None:
    """The random VAE attends to the whole picture, so that halves differ from it; the seam is no worse than the rest."""
    clips = np.load(two_ranks / "cfg-vae-0.npy").astype(int)
    moved = np.abs(clips - one_rank_clips)
    assert 0 < moved.mean() < 4
    seam = clips.shape[3] // 2
    steps = np.abs(np.diff(clips, axis=3)).mean((0, 1, 2, 4))
    assert steps[seam - 2 : seam + 2].max() <= steps.max()
    assert json.loads((two_ranks / "cfg-vae-0.json").read_text())["effective"]["vae"] == "split over 2 ranks"


@pytest.mark.xdist_group("two-ranks")  # they share what two ranks made in one go
@pytest.mark.feature("transformers_llm", "tensor parallelism")
@pytest.mark.parametrize("case", ["static", "static-drawn", "continuous"])
def test_two_ranks_give_the_texts_of_one(two_ranks: Path, tiny_llama: Path, case: str) -> None:
    found = json.loads((two_ranks / f"{case}-0.json").read_text())
    alone = answer(case, str(tiny_llama), Replica())
    assert found["texts"] == alone["texts"]
    assert (found["effective"].pop("parallel"), found["effective"]) == ("tensor 2", alone["effective"])


@pytest.mark.slow
def test_context_and_cfg_together_and_two_replicas_side_by_side(
    tiny_wan: Path, tiny_llama: Path, one_rank_clips: Any, tmp_path: Path
) -> None:
    run_ranks(4, tiny_wan, tiny_llama, tmp_path, "context-cfg", "cfg", "static")
    assert sorted(f.name for f in tmp_path.glob("*.npy")) == ["cfg-0.npy", "cfg-2.npy", "context-cfg-0.npy"]
    for file in tmp_path.glob("*.npy"):
        assert np.abs(np.load(file).astype(int) - one_rank_clips).max() <= PIXEL_TOLERANCE
    texts = [json.loads((tmp_path / f"static-{leader}.json").read_text())["texts"] for leader in (0, 2)]
    assert texts[0] == texts[1] == answer("static", str(tiny_llama), Replica())["texts"]


@pytest.mark.slow
def test_a_run_on_one_replica_of_two_ranks_is_valid(suite: SuiteRun) -> None:
    done = suite(
        "--workload",
        "t2v",
        *QUICK,
        *("--set", "parallel.cfg=2", "--set", "pipeline.num_inference_steps=2", "--set", "metrics=[throughput]", "--output", "run"),
        ranks=2,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert last_line(done)["verdict"] == "VALID"
    report = read_report(done)
    assert report["effective"]["parallel"] == "cfg 2"
    assert [r["rank"] for r in report["ranks"]] == [0]


def test_a_streaming_run_on_one_replica_of_two_ranks_is_valid(suite: SuiteRun, tiny_llama: Path) -> None:
    done = suite(
        "--workload",
        "llm",
        *QUICK,
        *("--set", "parallel.tensor=2", "--set", f"pipeline.model={tiny_llama}", "--set", "pipeline.max_new_tokens=4"),
        *("--set", "metrics=[throughput]", "--output", "run"),
        ranks=2,
    )
    report = read_report(done)
    assert report["effective"]["parallel"] == "tensor 2", done.stderr[-4000:]
    outcome = json.loads((Path(last_line(done)["run"]) / "outcome.json").read_text())["performance"]
    assert (outcome["aborted"], outcome["num_failed"]) == (None, 0)
    assert outcome["num_done"] == outcome["num_issued"] > 0


FRAIL = '''
import os, signal
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
from configs.registry import register
from pipelines.base import Pipeline, Response

@register("frail")
@dataclass
class Frail(Pipeline):
    """Breaks on rank 1 at its sixth query, after the warm-ups, while rank 0 waits for it."""
    way: str = "raise"
    batch_size: int = 1
    workloads: ClassVar[tuple[str, ...]] = ("t2v",)
    parallelism: ClassVar[tuple[str, ...]] = ("tensor",)

    def load(self, device):
        pass

    def generate(self, samples, queries):
        import torch.distributed as dist
        if queries[0].id == 5 and not self.replica.leads:
            if self.way == "raise":
                raise ValueError("out of colours")
            os.kill(os.getpid(), signal.SIGKILL)
        dist.barrier(group=self.replica.mesh["tensor"].get_group())
        return [Response(video_THWC=np.full((2, 16, 16, 3), 9 * q.id % 250, np.uint8), num_units=2) for q in queries]
'''


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("raise", r"rank 1 .*: ValueError: out of colours"),
        pytest.param("kill", r"rank 1 .* died|in the replica of ranks 0, 1", marks=pytest.mark.slow),
    ],
)
def test_a_follower_that_breaks_ends_the_run_by_name(suite: SuiteRun, tmp_path: Path, way: str, message: str) -> None:
    (tmp_path / "frail.py").write_text(FRAIL)
    done = suite(
        *("--workload", "t2v", "--plugin", "frail.py", *BRIEF, "--set", "pipeline={name: frail, way: " + way + "}"),
        *("--set", "parallel.tensor=2", "--set", "heartbeat_timeout_s=4", "--output", "run"),
        ranks=2,
    )
    assert done.returncode != 0
    outcome = json.loads((tmp_path / "run/outcome.json").read_text())["performance"]
    assert re.search(message, outcome["aborted"]), done.stderr[-4000:]


STUCK = """
import sys, threading, time
from pipelines.launcher.worker import follower
follower.RETURN_S = 0.1
follower.leave_where_stuck(lambda: True, threading.Event(), lambda: print("rank 1 is gone", flush=True))
time.sleep(60)
"""


def test_a_rank_that_waits_for_a_dead_one_for_ever_is_ended_once_the_test_is() -> None:
    done = subprocess.run([sys.executable, "-c", STUCK], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (1, "rank 1 is gone\n")


def test_ranks_that_make_no_whole_replicas_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "6")
    settings = ParallelSettings.model_validate({"context": 2, "cfg": 2})
    with pytest.raises(ConfigError, match=r"6 ranks cannot be split into replicas of 4 \(context 2 x cfg 2\): launch a multiple of 4"):
        check_parallelism(settings, "diffusers_t2v", ("context", "cfg"))


def test_a_launch_that_makes_no_whole_replica_says_so_and_leaves_no_folder(suite: SuiteRun, tmp_path: Path) -> None:
    done = suite("--workload", "t2v", "--set", "parallel.cfg=2", "--output", "run")
    assert done.returncode == 1
    assert "1 ranks cannot be split into replicas of 2 (cfg 2)" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_pipeline_without_the_ability_is_refused_by_name() -> None:
    settings = ParallelSettings.model_validate({"tensor": 2})
    with pytest.raises(
        ConfigError, match=r"'diffusers_t2v' does not support 'parallel.tensor' \(it is 2\); it supports parallel.context, parallel.cfg"
    ):
        check_parallelism(settings, "diffusers_t2v", ("context", "cfg"))
    with pytest.raises(ConfigError, match=r"'toy_t2v' does not support 'parallel.tensor' .*; it supports no parallel"):
        check_parallelism(settings, "toy_t2v", ())


def test_an_unknown_parallel_option_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown option 'parallel.contex' \(did you mean 'parallel.context'"):
        parse_config({"workload": "t2v", "pipeline": {"name": "toy_t2v"}, "parallel": {"contex": 2}}, "test")


def test_no_second_guidance_pass_no_second_rank(tiny_wan: Path) -> None:
    pipeline = DiffusersT2V(model=str(tiny_wan), **(CLIP | {"guidance_scale": 1.0}))
    pipeline.replica = Replica(ParallelSettings.model_validate({"cfg": 2}), (0, 1))
    with pytest.raises(ConfigError, match=r"with guidance_scale 1.0 there is no second guidance pass"):
        pipeline.load(torch.device("cpu"))


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({"context": 5}, {}, "the WanTransformer3DModel has 2 heads"),
        ({"context": 2, "context_kind": "ring"}, {}, "diffusers has none for a CPU; use ulysses"),
        ({"context": 2}, {"num_frames": 1, "height": 16, "width": 48}, "a clip of this size has 3 tokens"),
    ],
)
def test_tokens_that_cannot_be_shared_out_are_refused(
    tiny_wan: Path, settings: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    pipeline = DiffusersT2V(model=str(tiny_wan), **(CLIP | options))
    parallel = ParallelSettings.model_validate(settings)
    pipeline.replica = Replica(parallel, tuple(range(parallel.size)))
    with pytest.raises(ConfigError, match=message):
        pipeline.load(torch.device("cpu"))


def test_heads_that_cannot_be_shared_out_are_refused() -> None:
    from transformers import LlamaConfig

    config = LlamaConfig(num_attention_heads=8, num_key_value_heads=2)
    check_heads(config, 2, "some/model")
    with pytest.raises(ConfigError, match="model 'some/model' has 8 attention heads and 2 key-value heads; give a divisor of both"):
        check_heads(config, 4, "some/model")


def test_one_rank_is_a_replica_without_torch_distributed() -> None:
    alone = Replica()
    assert (alone.size, alone.leads, alone.mesh) == (1, True, None)
    alone.tell(b"nobody listens")
    code = "import sys; from pipelines.distributed.replica import Replica; Replica().tell(b'x'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=dict(os.environ)).returncode == 0
