"""The folder that vLLM loads from: a checkpoint as it is, one converted for vLLM, or a description without weights."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.vllm.options import VllmOptions


def read_config(where: str, revision: str | None = None) -> dict[str, Any]:
    """config.json of a folder or of the hub; empty where it cannot be read, which vLLM then reports."""
    from transformers.utils.hub import cached_file

    try:
        file = cached_file(where, "config.json", revision=revision)
        config = json.loads(Path(file or "").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def convert_for_vllm(folder: Path) -> str | None:
    """A temporary folder with an equivalent checkpoint; None where vLLM reads the checkpoint as it is.

    vLLM 0.32 expects every gpt-oss to have YaRN, and a separate matrix for the last layer, which stays uninitialised where the
    checkpoint ties its embeddings (vllm/model_executor/models/gpt_oss.py). A YaRN factor of 1 changes nothing, and the tied embeddings
    are written a second time.
    """
    config = read_config(str(folder))
    rope = found if isinstance(found := config.get("rope_parameters"), dict) else {}
    is_plain, is_tied = rope.get("rope_type", "default") == "default", config.get("tie_word_embeddings", False)
    if config.get("model_type") != "gpt_oss" or not (is_plain or is_tied):
        return None
    made = Path(tempfile.mkdtemp(prefix="triptych-vllm-"))
    for file in folder.iterdir():
        if file.name != "config.json":
            (made / file.name).symlink_to(file.resolve())
    if is_plain:
        longest = config.get("max_position_embeddings")
        config["rope_parameters"] = {
            "rope_theta": rope.get("rope_theta", 150_000.0),
            "rope_type": "yarn",
            "factor": 1.0,
            "original_max_position_embeddings": longest,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
        }
    if is_tied:
        _write_last_layer(folder, made)
        config["tie_word_embeddings"] = False
    (made / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(made)


def write_description(pipeline: VllmOptions) -> tuple[str, dict[str, str]]:
    """A temporary folder with the configuration of an architecture, whose weights vLLM draws; and facts for `effective`."""
    from transformers import AutoImageProcessor, AutoModelForCausalLM, AutoModelForImageTextToText

    from pipelines.models.architectures import folder_of
    from pipelines.models.random_weights import describe_model

    assert pipeline.architecture is not None  # checked by VllmOptions.__post_init__
    kind = AutoModelForImageTextToText if pipeline.workload == "vlm" else AutoModelForCausalLM
    config, generation, tokenizer, facts = describe_model(kind, pipeline.model, pipeline.architecture, pipeline.shrink)
    if getattr(config.get_text_config(), "kv_lora_rank", None) and (pipeline.shrink or {}).get("width"):
        raise ConfigError(
            f"architecture {pipeline.architecture!r} has latent attention, and vLLM has kernels only for its published rank; leave "
            "'width' out of shrink"
        )
    folder = tempfile.mkdtemp(prefix="triptych-vllm-")
    network: Any = kind._model_mapping[type(config)]
    config.architectures = [network.__name__]
    for part in (config, generation, tokenizer):
        part.save_pretrained(folder)
    if pipeline.workload == "vlm":
        AutoImageProcessor.from_pretrained(folder_of(pipeline.architecture)).save_pretrained(folder)
    return folder, facts


def _write_last_layer(folder: Path, made: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  (not a mapping)
                if name.endswith("embed_tokens.weight"):
                    if (made / "model.safetensors.index.json").exists():
                        raise ConfigError(
                            f"model {str(folder)!r} ties its embeddings, which vLLM's gpt-oss does not; write lm_head.weight into it"
                        )
                    save_file({"lm_head.weight": opened.get_tensor(name)}, made / "lm_head.safetensors")
                    return
    raise ConfigError(f"model {str(folder)!r} ties its embeddings but has no embed_tokens.weight")
