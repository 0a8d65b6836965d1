"""Vision-language checkpoints that are damaged, incomplete or out of reach."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from configs.errors import ConfigError
from tests.pipelines.transformers.vlm_pipeline import ask, load
from workloads.records import Sample


def _without(*names: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return damage


def _broken_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"x" * 99)


def _with_tokens(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<|{i}|>" for i in range(600)])
    tokenizer.save_pretrained(folder)


def _with_image_token(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"image_token_id": 300}))


def _with_fewer_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.visual.pos_embed.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def _as_text_model(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 512}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without("config.json"), "is incomplete: config.json is missing; restore it"),
        (_without("model.safetensors"), "is incomplete: it has no .safetensors file; restore it"),
        (_broken_weights, "model.safetensors' is damaged"),
        (_without("tokenizer.json"), r"has no tokenizer \(one of tokenizer.json"),
        (_without("preprocessor_config.json", "video_preprocessor_config.json"), "cannot be loaded: .*preprocessor_config.json"),
        (_without("chat_template.jinja"), "has no chat template; put its chat_template.jinja beside it, or name one: chat_template: FILE"),
        (_with_tokens, r"token ids up to \d{3}, but the network has only 512 tokens; give the tokenizer"),
        (_with_image_token, "never produce token 300, which stands for an image; give the tokenizer and template"),
        (_with_fewer_weights, "1 of the network's tensors are missing: model.visual.pos_embed.weight; restore it"),
        (_as_text_model, "is a 'llama', which takes no images"),
    ],
)
def test_a_damaged_checkpoint_is_refused_with_the_fix(
    tiny_qwen: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_qwen, folder)
    damage(folder)
    with pytest.raises(ConfigError, match=message):
        load(folder)


def test_a_missing_chat_template_can_be_given(tiny_qwen: Path, tmp_path: Path, samples: Sequence[Sample]) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_qwen, folder)
    template = (folder / "chat_template.jinja").rename(tmp_path / "mine.jinja")
    assert ask(load(folder, chat_template=str(template)), samples[:1])[0].text == ask(load(tiny_qwen), samples[:1])[0].text
    with pytest.raises(ConfigError, match=r"chat_template .* cannot be read"):
        load(tiny_qwen, chat_template=str(tmp_path / "none.jinja"))


def test_a_missing_folder_is_refused() -> None:
    with pytest.raises(ConfigError, match="'/no/such/folder' is not a folder; give a folder written by save_pretrained"):
        load("/no/such/folder")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("GatedRepoError", "is gated; accept its terms on the hub, then run `hf auth login` or set HF_TOKEN"),
        ("RepositoryNotFoundError", "the hub has no such model, or it is private"),
        ("LocalEntryNotFoundError", "is not on this disk and the hub cannot be reached; run `hf download org/model`"),
    ],
)
def test_a_refusal_by_the_hub_is_reported_with_the_fix(monkeypatch: pytest.MonkeyPatch, kind: str, message: str) -> None:
    from transformers import AutoConfig

    def refuse(*_: object, **__: object) -> None:
        try:
            raise type(kind, (OSError,), {})("the hub's words")
        except OSError as error:
            raise OSError("the library's words\nand more") from error

    monkeypatch.setattr(AutoConfig, "from_pretrained", refuse)
    with pytest.raises(ConfigError, match=message):
        load("org/model")
