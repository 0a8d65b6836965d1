from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from configs.errors import ConfigError
from pipelines.models.checkpoint import check_diffusers_folder
from pipelines.models.embedded import VIDEO


@pytest.fixture
def folder(tiny_wan: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_wan, tmp_path / "wan"))


def test_whole_checkpoints_pass(folder: Path) -> None:
    check_diffusers_folder(folder)
    check_diffusers_folder(VIDEO)


@pytest.mark.parametrize("part", ["model_index.json", "transformer_2", "vae/config.json", "text_encoder/model.safetensors"])
def test_a_missing_part_is_named_with_the_fix(folder: Path, part: str) -> None:
    path = folder / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ConfigError, match="is incomplete") as caught:
        check_diffusers_folder(folder)
    assert part.split("/")[0] in str(caught.value)
    assert "git checkout" in str(caught.value)


@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_cut_weights_are_named(folder: Path, keep: int) -> None:
    file = folder / "transformer/diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ConfigError, match=r"transformer/diffusion_pytorch_model\.safetensors' is damaged"):
        check_diffusers_folder(folder)


def test_a_config_that_is_not_json_is_named(folder: Path) -> None:
    (folder / "vae/config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"vae/config\.json' is damaged"):
        check_diffusers_folder(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    index = folder / "transformer/diffusion_pytorch_model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"model-00001-of-00002\.safetensors is missing"):
        check_diffusers_folder(folder)
