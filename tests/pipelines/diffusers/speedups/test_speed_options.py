"""Options that make a video model faster: in force by what its modules hold, and refused by name where they cannot be."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from configs.errors import ConfigError
from configs.load_config import load_config
from configs.registry import make
from configs.settings import ParallelSettings
from pipelines.diffusers.speedups.vae import merge, strips
from pipelines.diffusers.t2v import DiffusersT2V
from pipelines.distributed.replica import Replica
from workloads.records import Query, Sample
from workloads.t2v import draw_captions
from workloads.world.checker import check_clip

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {
    "num_frames": 5,
    "height": 32,
    "width": 48,
    "num_inference_steps": 4,
    "guidance_scale": 3.0,
    "max_sequence_length": 16,
}
EMBEDDED: dict[str, Any] = {**SMALL, "model": "embedded", "num_frames": 9, "height": 48}


def load(folder: Path | str, device: torch.device = CPU, **options: Any) -> DiffusersT2V:
    pipeline: DiffusersT2V = make("pipelines", "diffusers_t2v", {"model": str(folder), **SMALL, **options})
    pipeline.load(device)
    return pipeline


def ask(pipeline: DiffusersT2V, count: int = 1) -> Any:
    """Pixels of `count` clips as whole numbers that can be subtracted."""
    samples = [Sample(i, ("a red disc", "two blue rings")[i]) for i in range(count)]
    responses = pipeline.generate(samples, [Query(i, i, i + 1) for i in range(count)])
    return np.array([r.video_THWC for r in responses]).astype(int)


def said(refused: Callable[[], Any]) -> str:
    with pytest.raises(ConfigError) as error:
        refused()
    return str(error.value)


@pytest.fixture(scope="module")
def plain(tiny_wan: Path) -> Any:
    return ask(load(tiny_wan), 2)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.feature("diffusers_t2v", f"attention: {n}"))
        for n in ("native", "_native_math", "_native_flash", "flex")
    ],
)
def test_an_attention_backend_is_in_force_in_every_layer_and_gives_the_same_clip(tiny_wan: Path, plain: Any, name: str) -> None:
    pipeline = load(tiny_wan, attention=name)
    assert (pipeline.effective()["attention"], pipeline.fallbacks()) == (name, [])
    assert np.abs(ask(pipeline, 2) - plain).max() <= 1
    for block in pipeline._pipe.transformer_2.blocks:
        assert {p.processor._attention_backend.value for p in (block.attn1, block.attn2)} == {name}


def test_the_backend_of_one_pipeline_is_not_that_of_the_next(tiny_wan: Path) -> None:
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    before = _AttentionBackendRegistry._active_backend
    load(tiny_wan, attention="_native_math")
    assert _AttentionBackendRegistry._active_backend is before
    assert load(tiny_wan).effective()["attention"] == "native"


def test_a_backend_that_a_layer_left_is_a_fallback(tiny_wan: Path) -> None:
    pipeline = load(tiny_wan, attention="_native_math")
    pipeline._pipe.transformer_2.blocks[1].attn1.processor._attention_backend = None
    assert pipeline.fallbacks() == ["attention of transformer_2 is _native_math and native, not _native_math"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("flsh", "unknown attention 'flsh' (did you mean 'flash'?)"),
        ("_native_efficient", "does not work here, on cpu in float32: No viable backend"),
        ("_native_cudnn", "is for NVIDIA's GPUs, not a processor"),
        ("aiter_fa2_hub", "needs AITER's kernels, which cpu (a processor) has not"),
    ],
)
def test_a_backend_that_cannot_run_here_is_refused_before_weights_are_read(
    tiny_wan: Path, name: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import diffusers

    monkeypatch.delattr(diffusers.DiffusionPipeline, "from_pretrained")
    assert why in said(lambda: load(tiny_wan, attention=name))


@pytest.mark.gpu
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.feature("diffusers_t2v", f"attention: {n}"))
        for n in ("flash", "sage", "xformers", "aiter_fa2_hub", "_native_cudnn", "_native_efficient")
    ],
)
def test_a_backend_of_gpus_gives_nearly_the_clip_of_the_native_one(name: str) -> None:
    options = {**EMBEDDED, "dtype": "bfloat16"}
    try:
        pipeline = load(device=torch.device("cuda"), folder="embedded", **{**options, "attention": name})
    except ConfigError as error:
        pytest.skip(str(error))
    assert (pipeline.effective()["attention"], pipeline.fallbacks()) == (name, [])
    native = ask(load(device=torch.device("cuda"), folder="embedded", **options))
    assert np.abs(ask(pipeline) - native).mean() < 8  # of 255: two clips of different prompts differ by more


@pytest.mark.feature("diffusers_t2v", "guidance passes in one batch")
def test_both_guidance_passes_in_one_batch_give_the_same_clips_in_half_the_calls(tiny_wan: Path, plain: Any) -> None:
    pipeline, calls = load(tiny_wan, guidance_batch=True, batch_size=2), []
    for expert in (pipeline._pipe.transformer, pipeline._pipe.transformer_2):
        expert.blocks[0].register_forward_hook(lambda _m, inputs, _o: calls.append(len(inputs[0])))
    assert np.abs(ask(pipeline, 2) - plain).max() <= 1
    assert calls == [4] * SMALL["num_inference_steps"]  # two clips, each with a caption and without
    assert (pipeline.effective()["guidance"], pipeline.fallbacks()) == ("both passes in one batch", [])


def test_one_batch_for_both_passes_goes_with_a_cache(tiny_wan: Path) -> None:
    pipeline = load(
        tiny_wan, guidance_batch=True, cache={"name": "pyramid_attention_broadcast", "spatial_attention_timestep_skip_range": [-1, 1000]}
    )
    assert np.abs(ask(pipeline) - ask(load(tiny_wan))).max() > 0
    assert "work skipped" in pipeline.effective()["cache"]
    assert pipeline.fallbacks() == []


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"guidance_scale": 1.0}, "option 'guidance_batch' is on, but with guidance_scale 1.0 there is no second guidance pass"),
        ({"replica": Replica(ParallelSettings.model_validate({"cfg": 2}))}, "leave out option 'guidance_batch'"),
    ],
)
def test_one_batch_for_both_passes_is_refused_where_there_are_none_to_join(tiny_wan: Path, options: dict[str, Any], why: str) -> None:
    replica = options.pop("replica", Replica())
    pipeline: DiffusersT2V = make("pipelines", "diffusers_t2v", {"model": str(tiny_wan), **SMALL, "guidance_batch": True, **options})
    pipeline.replica = replica
    assert why in said(lambda: pipeline.load(CPU))


def test_a_guidance_pass_that_stays_by_itself_is_a_fallback(tiny_wan: Path) -> None:
    pipeline = load(tiny_wan, guidance_batch=True)
    assert pipeline.fallbacks() == ["option guidance_batch: no step made both of its passes in one batch"]  # nothing was asked yet


@pytest.mark.parametrize(
    "choice",
    [
        pytest.param(c, marks=pytest.mark.feature("diffusers_t2v", f"scheduler: {c if isinstance(c, str) else c['name']}"))
        for c in (
            {"name": "FlowMatchEulerDiscreteScheduler", "shift": 5.0},
            {"name": "UniPCMultistepScheduler", "solver_order": 1},
            "DPMSolverMultistepScheduler",
            "FlowMatchHeunDiscreteScheduler",
        )
    ],
)
def test_another_scheduler_is_in_force_with_the_shift_of_the_checkpoint(tiny_wan: Path, plain: Any, choice: Any) -> None:
    pipeline = load(tiny_wan, scheduler=choice)
    name = choice if isinstance(choice, str) else choice["name"]
    config = pipeline._pipe.scheduler.config
    assert pipeline.effective()["scheduler"].startswith(name)
    assert pipeline.fallbacks() == []
    assert (config.get("shift") or config.get("flow_shift")) == (5.0 if isinstance(choice, dict) and "shift" in choice else 3.0)
    clips = ask(pipeline, 2)
    assert np.abs(clips - plain).max() > 1
    assert np.array_equal(clips[:1], ask(pipeline, 1)) or np.abs(clips[:1] - ask(pipeline, 1)).max() <= 1  # a query's answer is its own


@pytest.mark.parametrize(
    ("choice", "why"),
    [
        ("FlowMatchEulerScheduler", "did you mean 'FlowMatchEulerDiscreteScheduler'?"),
        ({"name": "UniPCMultistepScheduler", "solver_ordre": 1}, "did you mean 'solver_order'?"),
        ("DDIMScheduler", "knows no flow matching, which the model was trained for"),
        ("FlowMatchLCMScheduler", "a query would get another answer each time"),
    ],
)
def test_a_scheduler_that_cannot_serve_is_refused(tiny_wan: Path, choice: Any, why: str) -> None:
    assert why in said(lambda: load(tiny_wan, scheduler=choice))


@pytest.fixture(scope="module")
def lora(tiny_wan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters of rank 2 for the first expert's self-attention, as diffusers saves them."""
    from diffusers import WanPipeline, WanTransformer3DModel

    denoiser = WanTransformer3DModel.from_pretrained(tiny_wan, subfolder="transformer")
    generator = torch.Generator().manual_seed(0)
    layers = {}
    for name, module in denoiser.named_modules():
        if name.endswith(("attn1.to_q", "attn1.to_v")):
            layers[f"{name}.lora_A.weight"] = torch.randn(2, module.in_features, generator=generator)
            layers[f"{name}.lora_B.weight"] = torch.randn(module.out_features, 2, generator=generator)
    folder = tmp_path_factory.mktemp("lora")
    WanPipeline.save_lora_weights(str(folder), transformer_lora_layers=layers, weight_name="few-steps.safetensors")
    return folder / "few-steps.safetensors"


@pytest.mark.feature("diffusers_t2v", "LoRA adapters")
def test_a_lora_changes_the_clip_by_its_scale_and_costs_nothing_when_fused(tiny_wan: Path, lora: Path, plain: Any) -> None:
    apart, fused = (load(tiny_wan, lora={"path": str(lora), "scale": 0.5, "fuse": fuse}) for fuse in (False, True))
    told = "few-steps.safetensors x 0.5 in 4 layers of transformer, rank 2"
    assert [p.effective()["lora"] for p in (apart, fused)] == [told, f"{told}, fused"]
    assert [p.fallbacks() for p in (apart, fused)] == [[], []]
    assert np.abs(ask(apart) - plain[:1]).max() > 1
    assert np.abs(ask(apart) - ask(fused)).max() <= 1
    assert np.abs(ask(load(tiny_wan, lora={"path": str(lora), "scale": 0.0})) - plain[:1]).max() <= 1


@pytest.mark.feature("diffusers_t2v", "LoRA distilled into two steps", note="the embedded model's own")
def test_the_distilled_lora_gets_in_two_calls_right_what_two_steps_do_not() -> None:
    config = load_config(None, "t2v/embedded-two-steps", ["dataset.num_prompts=8"])
    prompts = [text for _, text in draw_captions("simple", 8, "any")]

    def right(**changes: Any) -> int:
        pipeline: DiffusersT2V = make("pipelines", "diffusers_t2v", config.pipeline_options | {"batch_size": 8} | changes)
        pipeline.load(CPU)
        responses = pipeline.generate([Sample(i, p) for i, p in enumerate(prompts)], [Query(i, i, i) for i in range(8)])
        assert pipeline.fallbacks() == []
        clips = [r.video_THWC for r in responses]
        return sum(all(check_clip(clip, p).values()) for clip, p in zip(clips, prompts, strict=True) if clip is not None)

    assert right() >= 6
    assert right(lora=None) <= 3


def test_an_expert_of_two_gets_the_lora_that_is_meant_for_it(tiny_wan: Path, lora: Path) -> None:
    pipeline = load(tiny_wan, lora=[{"path": str(lora), "denoiser": "transformer_2"}])
    assert pipeline.effective()["lora"].endswith("in 4 layers of transformer_2, rank 2")
    assert not any("lora" in name for name, _ in pipeline._pipe.transformer.named_modules())


def test_a_lora_that_was_switched_off_is_a_fallback(tiny_wan: Path, lora: Path) -> None:
    pipeline = load(tiny_wan, lora=str(lora))
    pipeline._pipe.transformer.disable_adapters()
    assert pipeline.fallbacks() == [f"option lora: {lora} is in force in no layer of transformer"]


def test_a_lora_that_cannot_be_used_is_refused_with_its_name(tiny_wan: Path, lora: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(lora.read_bytes()[:200])
    cases: list[tuple[Any, str]] = [
        ("gone.safetensors", "'gone.safetensors' does not exist"),
        ("lora.bin", "may run a program when it is read"),
        (str(damaged), f"{str(damaged)!r} cannot be used in 'transformer'"),
        ({"path": str(lora), "denoiser": "unet"}, "denoiser is 'unet', but the model has transformer, transformer_2"),
        ({"path": str(lora), "strength": 1}, "unknown option 'strength'"),
    ]
    for given, why in cases:
        assert why in said(functools.partial(load, tiny_wan, lora=given))


@pytest.mark.parametrize("storage", ["float8_e4m3fn", "float8_e5m2"])
@pytest.mark.feature("diffusers_t2v", "quantisation: layerwise casting to float8")
def test_weights_wait_in_float8_and_are_computed_with_in_the_models_dtype(tiny_wan: Path, plain: Any, storage: str) -> None:
    pipeline = load(tiny_wan, quantisation={"name": "layerwise", "storage": storage})
    effective = pipeline.effective()
    assert (effective["quantisation"], effective["dtype"]) == (f"{storage} in 40 of 52 linear layers", "float32")
    moved = np.abs(ask(pipeline, 2) - plain)
    assert 0 < moved.mean() < 10
    assert pipeline._pipe.transformer.blocks[0].attn1.to_q.weight.dtype is getattr(torch, storage)
    assert pipeline.fallbacks() == []


@pytest.mark.parametrize("name", ["model", "sequential", "group"])
def test_offloading_is_refused_without_an_accelerator(tiny_wan: Path, name: str) -> None:
    assert f"offload {name!r} needs an accelerator, and there is none here" in said(lambda: load(tiny_wan, offload=name))


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("grop", "unknown offload 'grop' (did you mean 'group'?)"),
        ({"name": "model", "use_stream": True}, "has no option 'use_stream'"),
        ({"name": "group", "num_blocks_per_group": 0}, "it must be at least 1"),
        ({"name": "group", "offload_type": "block"}, "option 'offload_type' is 'block'"),
    ],
)
def test_options_of_offloading_are_checked(given: Any, why: str) -> None:
    assert why in said(lambda: make("pipelines", "diffusers_t2v", {"offload": given}))


@pytest.mark.gpu
@pytest.mark.feature("diffusers_t2v", "offload: group")
@pytest.mark.parametrize("kind", [{"offload_type": "leaf_level", "use_stream": True}, {"num_blocks_per_group": 2}])
def test_groups_of_layers_wait_in_host_memory(kind: dict[str, Any]) -> None:
    cuda = torch.device("cuda")
    options = {**EMBEDDED, "dtype": "float32"}
    pipeline = load(device=cuda, folder="embedded", **{**options, "offload": {"name": "group", **kind}})
    assert np.abs(ask(pipeline) - ask(load(device=cuda, folder="embedded", **options))).max() <= 2
    assert pipeline.fallbacks() == []


def test_a_split_vae_needs_ranks_to_split_over(tiny_wan: Path) -> None:
    assert "option 'vae_split' needs replicas of several ranks" in said(lambda: load(tiny_wan, vae_split=True))


@pytest.mark.parametrize(("total", "ranks", "overlap"), [(8, 2, 1), (9, 2, 2), (7, 3, 0), (10, 4, 1), (4, 4, 8)])
def test_strips_cover_a_picture_and_merge_into_it(total: int, ranks: int, overlap: int) -> None:
    starts, size = strips(total, ranks, overlap)
    whole = torch.arange(total, dtype=torch.float32).expand(1, 3, 2, 5, total).contiguous()
    parts = [whole[..., start : start + size] for start in starts]
    assert starts[0] == 0
    assert starts[-1] + size == total
    assert all(later <= sooner + size for sooner, later in itertools.pairwise(starts))
    assert torch.allclose(merge(parts, starts, total, -1), whole)
    upright = [part.transpose(-1, -2) for part in parts]
    assert torch.allclose(merge(upright, starts, total, -2), whole.transpose(-1, -2))


def test_strips_fade_into_each_other() -> None:
    merged = merge([torch.zeros(1, 1, 1, 1, 6), torch.ones(1, 1, 1, 1, 6)], [0, 4], 10, -1)
    assert merged.flatten().tolist() == [0, 0, 0, 0, 0.25, 0.75, 1, 1, 1, 1]


@pytest.mark.feature("diffusers_t2v", "compile: the denoiser's repeated blocks")
def test_compiled_blocks_are_in_force_and_give_the_same_clip(tiny_wan: Path, plain: Any, pytestconfig: pytest.Config) -> None:
    if not pytestconfig.getoption("--features"):
        pytest.skip("half a minute of compiling: make features")
    pipeline = load(tiny_wan, compile=True)
    assert np.abs(ask(pipeline, 2) - plain).max() <= 1
    assert (pipeline.effective()["compiled"], pipeline.fallbacks()) == ("True", [])
