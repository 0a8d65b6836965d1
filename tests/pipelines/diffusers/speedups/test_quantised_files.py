"""GGUF files and folders written by AMD's Quark: read packed, effective in their layers, refused by name."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.audits.quantised_checkpoints import EXPERTS, write_gguf, write_quark
from configs.errors import ConfigError
from configs.registry import make
from pipelines.diffusers.t2v import DiffusersT2V
from pipelines.models.embedded import VIDEO
from workloads.records import Query, Sample

CLIP: dict[str, Any] = {
    "num_frames": 9,
    "height": 48,
    "width": 48,
    "num_inference_steps": 2,
    "guidance_scale": 2.0,
    "max_sequence_length": 64,
}
BLOCK_LAYERS, ALL_LAYERS = 2 * 6 * 10, 2 * (6 * 10 + 6)
ORIGINAL = (  # Wan's own names, which GGUF files out there carry, for diffusers'; the last three swap two norms
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    ("ffn.net.0.proj", "ffn.0"),
    ("ffn.net.2", "ffn.2"),
    ("attn1.", "self_attn."),
    ("attn2.", "cross_attn."),
    (".to_out.0.", ".o."),
    (".to_q.", ".q."),
    (".to_k.", ".k."),
    (".to_v.", ".v."),
    ("proj_out", "head.head"),
    ("norm2", "norm_x"),
    ("norm3", "norm2"),
    ("norm_x", "norm3"),
)
needs_quark = pytest.mark.skipif(importlib.util.find_spec("quark") is None, reason="amd-quark is not installed")


def load(model: Path, quantisation: Any = None) -> DiffusersT2V:
    pipeline: DiffusersT2V = make("pipelines", "diffusers_t2v", {"model": str(model), **CLIP, "quantisation": quantisation})
    pipeline.load(torch.device("cpu"))
    return pipeline


def generate(pipeline: DiffusersT2V) -> Any:
    (response,) = pipeline.generate([Sample(0, "a red disc moves to the right")], [Query(0, 0, 1)])
    assert response.video_THWC is not None
    return response.video_THWC.astype(int)


@pytest.fixture(scope="module")
def plain() -> Any:
    return generate(load(VIDEO))


def original_name(name: str) -> str:
    if name == "scale_shift_table":
        return "head.modulation"
    name = name.replace("scale_shift_table", "modulation")
    for ours, theirs in ORIGINAL:
        name = name.replace(ours, theirs)
    return name


@pytest.fixture(scope="module")
def gguf_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    folder = tmp_path_factory.mktemp("gguf")
    return {kind: {e: write_gguf(folder / f"{e}-{kind}.gguf", e, kind) for e in EXPERTS} for kind in ("Q8_0", "Q4_0")}


@pytest.mark.feature("diffusers_t2v", "quantisation: GGUF")
def test_gguf_weights_stay_packed_and_fewer_bits_change_a_clip_more(plain: Any, gguf_files: dict[str, dict[str, str]]) -> None:
    moved = {}
    for kind, files in gguf_files.items():
        pipeline = load(VIDEO, {"name": "gguf", "files": files})
        assert pipeline.effective()["quantisation"] == f"GGUF {kind} in {BLOCK_LAYERS} of {ALL_LAYERS} linear layers"
        assert pipeline.fallbacks() == []
        assert pipeline._pipe.transformer.blocks[0].attn1.to_q.weight.dtype is torch.uint8
        moved[kind] = np.abs(generate(pipeline) - plain).mean()
    assert 0 < moved["Q8_0"] < moved["Q4_0"] < 20


def test_a_gguf_file_with_the_models_original_names_is_read(gguf_files: dict[str, dict[str, str]], tmp_path: Path) -> None:
    files = {e: write_gguf(tmp_path / f"{e}.gguf", e, "Q8_0", original_name) for e in EXPERTS}
    theirs = load(VIDEO, {"name": "gguf", "files": files})
    assert np.array_equal(generate(theirs), generate(load(VIDEO, {"name": "gguf", "files": gguf_files["Q8_0"]})))


def test_a_gguf_file_that_is_damaged_or_of_another_model_is_refused_by_name(
    tiny_wan: Path, gguf_files: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    good = gguf_files["Q8_0"]
    cut, text = tmp_path / "cut.gguf", tmp_path / "text.gguf"
    cut.write_bytes(Path(good["transformer"]).read_bytes()[:5000])
    text.write_text("not weights")
    for model, given, why in (
        (VIDEO, {"file": good["transformer"]}, "has files for transformer, but the model has transformer, transformer_2"),
        (VIDEO, {"files": good | {"transformer": "gone.gguf"}}, "file 'gone.gguf' of transformer does not exist"),
        (VIDEO, {"files": good | {"transformer": str(text)}}, f"{str(text)!r} is not a GGUF file"),
        (VIDEO, {"files": good | {"transformer": str(cut)}}, f"{str(cut)!r} cannot be read as the WanTransformer3DModel"),
        (tiny_wan, {"files": good}, "cannot be read as the WanTransformer3DModel of 'transformer'"),
        (VIDEO, {}, "give 'file', or for a model with two denoisers 'files'"),
    ):
        with pytest.raises(ConfigError) as error:
            load(model, {"name": "gguf", **given})
        assert why in str(error.value)


def test_a_gguf_file_with_other_tensors_than_the_network_is_refused_by_name(gguf_files: dict[str, dict[str, str]], tmp_path: Path) -> None:
    other = write_gguf(tmp_path / "other.gguf", "transformer", "Q8_0", lambda name: "blocks.9.bias" if name == "proj_out.bias" else name)
    with pytest.raises(ConfigError, match=r"13 of the network.s tensors are missing: .*; 13 tensors are not part of the network: "):
        load(VIDEO, {"name": "gguf", "files": gguf_files["Q8_0"] | {"transformer": other}})


@pytest.fixture(scope="module")
def quark_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model with its blocks in MXFP4, quantised and written by Quark itself."""
    return write_quark(tmp_path_factory.mktemp("quark") / "t2v")


@needs_quark
@pytest.mark.feature("diffusers_t2v", "quantisation: Quark MXFP4 checkpoint", note="unpacked to compute")
def test_a_quark_folder_is_read_packed(quark_folder: Path, plain: Any) -> None:
    for quantisation in (None, "quark"):
        pipeline = load(quark_folder, quantisation)
        effective = pipeline.effective()
        assert effective["quantisation"] == f"Quark mxfp4 in {BLOCK_LAYERS} of {ALL_LAYERS} linear layers"
        assert (effective["dtype"], pipeline.fallbacks()) == ("float32", [])
        assert pipeline._pipe.transformer.blocks[0].attn1.to_q.weight.dtype is torch.uint8
    assert 0 < np.abs(generate(pipeline) - plain).mean() < 20


@needs_quark
@pytest.mark.gpu
@pytest.mark.feature("diffusers_t2v", "quantisation: Quark MXFP4 by AITER's kernels")
def test_quark_layers_are_multiplied_natively(quark_folder: Path) -> None:
    try:
        pipeline: DiffusersT2V = make(
            "pipelines", "diffusers_t2v", {"model": str(quark_folder), **CLIP, "quantisation": {"name": "quark", "native": True}}
        )
        pipeline.load(torch.device("cuda"))
    except ConfigError as error:
        pytest.skip(str(error))
    assert " by " in pipeline.effective()["quantisation"]
    assert np.abs(generate(pipeline) - generate(load(quark_folder))).mean() < 10


def test_quark_is_refused_for_other_folders_and_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="needs a folder written by Quark, but the model's transformer is not quantised"):
        load(VIDEO, "quark")
    folder = tmp_path / "t2v"
    shutil.copytree(VIDEO, folder)
    for expert in EXPERTS:
        config = json.loads((folder / expert / "config.json").read_text())
        (folder / expert / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "quark"}}))
    with pytest.raises(ConfigError, match="the model's transformer is quantised already, by quark"):
        load(folder, {"name": "round", "bits": 8}) if importlib.util.find_spec("quark") else _load_as_if_installed(monkeypatch, folder)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="whose denoisers AMD's Quark has quantised, needs a package: pip install amd-quark"):
        load(folder)


def _load_as_if_installed(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    from pipelines.diffusers.speedups import quantised_files

    with monkeypatch.context() as patched:
        patched.setattr(quantised_files, "register_quark", lambda what: None)
        load(folder, {"name": "round", "bits": 8})
