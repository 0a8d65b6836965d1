"""Checkpoints whose files are not the network that their configuration describes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from configs.errors import ConfigError
from pipelines.diffusers.t2v import DiffusersT2V
from pipelines.models.embedded import LANGUAGE, VISION
from pipelines.models.tensors import check_headers, check_tensors, load_network
from pipelines.transformers.llm import TransformersLLM
from pipelines.vllm.pipeline import Vllm

CPU = torch.device("cpu")
Damage = Callable[[Path], None]


def edit_weights(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite every safetensors file of the folder, each after `edit` of its tensors."""
    from safetensors.torch import load_file, save_file

    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        edit(tensors)
        save_file(tensors, file, {"format": "pt"})


def edit_json(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def more_layers(folder: Path) -> None:
    edit_json(folder / "config.json", num_hidden_layers=6)


def without_block(text: str) -> Damage:
    def edit(tensors: dict[str, Any]) -> None:
        for name in [name for name in tensors if text in name]:
            del tensors[name]

    return lambda folder: edit_weights(folder, edit)


def with_extra(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.update({"of.another.network": torch.ones(2)}))


def of_other_shape(name: str) -> Damage:
    def edit(tensors: dict[str, Any]) -> None:
        tensors[name] = tensors[name][:-1].clone()

    return lambda folder: edit_weights(folder, edit)


def in_shards(kind: Any, folder: Path) -> dict[str, str]:
    """Write the network again, in several files; its index."""
    network = kind.from_pretrained(folder)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    network.save_pretrained(folder, max_shard_size="60KB")
    index: dict[str, str] = json.loads(next(folder.glob("*.index.json")).read_text())["weight_map"]
    return index


def index_without_layer(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    index = in_shards(AutoModelForCausalLM, folder)
    without_block(".layers.2.")(folder)
    edit_json(next(folder.glob("*.index.json")), weight_map={name: file for name, file in index.items() if ".layers.2." not in name})


LANGUAGE_DAMAGES: list[tuple[Damage, str]] = [
    (more_layers, r"18 of the network's tensors are missing: model\.layers\.4\.input_layernorm\.weight, model\.layers\.4\.mlp"),
    (without_block(".layers.2."), r"9 of the network's tensors are missing: model\.layers\.2\.input_layernorm"),
    (index_without_layer, r"9 of the network's tensors are missing: model\.layers\.2\.input_layernorm"),
    (with_extra, r"1 tensors are not part of the network: of\.another\.network; restore it"),
    (of_other_shape("model.norm.weight"), r"1 tensors have another shape than the network's: model\.norm\.weight \(\[159\], not \[160\]\)"),
]


@pytest.fixture
def language(tmp_path: Path) -> Path:
    return Path(shutil.copytree(LANGUAGE["embedded"], tmp_path / "llm"))


@pytest.mark.parametrize(("damage", "message"), LANGUAGE_DAMAGES)
def test_a_language_model_is_the_network_of_its_config(language: Path, damage: Damage, message: str) -> None:
    damage(language)
    with pytest.raises(ConfigError, match="checkpoint .*llm' does not fit the network: " + message):
        TransformersLLM(model=str(language)).load(CPU)


@pytest.mark.parametrize(("damage", "message"), LANGUAGE_DAMAGES)
def test_a_checkpoint_for_vllm_is_checked_by_its_headers(language: Path, damage: Damage, message: str) -> None:
    damage(language)
    with pytest.raises(ConfigError, match="checkpoint .*llm' does not fit the network: " + message):
        Vllm(model=str(language))._source()


def test_headers_of_sound_checkpoints_fit_and_what_cannot_be_checked_is_said(language: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    assert check_headers(LANGUAGE["embedded"], AutoModelForCausalLM, "m") is None
    assert check_headers(LANGUAGE["embedded-moe"], AutoModelForCausalLM, "m") is None
    assert check_headers(VISION, AutoModelForImageTextToText, "m") is None
    edit_json(language / "config.json", quantization_config={"quant_method": "fp8"})
    assert check_headers(language, AutoModelForCausalLM, "m") == "they are quantised; only that no layer is missing was"
    edit_json(language / "config.json", num_hidden_layers=6)
    with pytest.raises(ConfigError, match="it has no tensors of 2 of its layers: 4, 5; restore it"):
        check_headers(language, AutoModelForCausalLM, "m")
    edit_json(language / "config.json", model_type="unheard_of")
    assert "transformers cannot read it" in str(check_headers(language, AutoModelForCausalLM, "m"))


VIDEO_DAMAGES: list[tuple[str, Damage, str]] = [
    ("text_encoder", without_block("block.1."), r"of the network's tensors are missing: encoder\.block\.1\."),
    ("transformer", without_block("blocks.1."), r"of the network's tensors are missing: blocks\.1\."),
    ("transformer_2", with_extra, r"1 tensors are not part of the network: of\.another\.network"),
    ("transformer", of_other_shape("proj_out.bias"), r"another shape than the network's: proj_out\.bias \(\[63\], not \[64\]\)"),
    ("text_encoder", of_other_shape("encoder.final_layer_norm.weight"), r"another shape .*: encoder\.final_layer_norm\.weight"),
    ("vae", without_block("post_quant_conv.bias"), r"1 of the network's tensors are missing: post_quant_conv\.bias"),
]


@pytest.mark.parametrize(("part", "damage", "message"), VIDEO_DAMAGES)
def test_every_part_of_a_video_model_is_the_network_of_its_config(
    tiny_wan: Path, tmp_path: Path, part: str, damage: Damage, message: str
) -> None:
    folder = Path(shutil.copytree(tiny_wan, tmp_path / "wan"))
    damage(folder / part)
    with pytest.raises(ConfigError, match=rf"checkpoint '\S*/{part}' does not fit the network: .*{message}"):
        DiffusersT2V(model=str(folder)).load(CPU)


def test_a_tensor_that_only_the_index_lists_is_missing(tiny_wan: Path, tmp_path: Path) -> None:
    """diffusers 0.42 counts it as read."""
    from diffusers import WanTransformer3DModel

    folder = Path(shutil.copytree(tiny_wan, tmp_path / "wan"))
    in_shards(WanTransformer3DModel, folder / "transformer")
    without_block("proj_out.bias")(folder / "transformer")
    with pytest.raises(ConfigError, match=r"1 of the network's tensors are missing: proj_out\.bias"):
        DiffusersT2V(model=str(folder)).load(CPU)


def test_what_a_network_declares_is_no_difference(language: Path) -> None:
    """A copy of tied weights, buffers of old versions, and layers that predict further tokens, as in DeepSeek's checkpoints."""
    from transformers import AutoModelForCausalLM

    def edit(tensors: dict[str, Any]) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(16)
        tensors["model.layers.4.eh_proj.weight"] = torch.ones(4, 4)

    edit_weights(language, edit)
    edit_json(language / "config.json", num_nextn_predict_layers=1)
    load_network(AutoModelForCausalLM, str(language), "mine")
    assert check_headers(language, AutoModelForCausalLM, "mine") is None
    check_tensors("mine", SimpleNamespace(), {"missing_keys": set(), "unexpected_keys": []})
    edit_json(language / "config.json", num_nextn_predict_layers=0)
    with pytest.raises(ConfigError, match=r"1 tensors are not part of the network: model\.layers\.4\.eh_proj\.weight"):
        load_network(AutoModelForCausalLM, str(language), "mine")
