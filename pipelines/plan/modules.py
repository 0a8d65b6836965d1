"""Counts the weights of a language or vision-language model by their use, from its class on the meta device."""

from __future__ import annotations

from typing import Any

from configs.errors import ConfigError, first_line
from pipelines.plan.language import Attention, LanguageModel, Vision


def build(config: Any, name: str) -> LanguageModel:
    """config: a transformers configuration. Raises ConfigError where the class has layers that a plan cannot count."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.initialization import no_init_weights

    kind: Any = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    try:
        with torch.device("meta"), no_init_weights():
            model = kind.from_config(config, dtype=torch.bfloat16)
    except ValueError as error:
        raise ConfigError(f"{name!r} cannot be counted by a plan: {first_line(error)[:200]}") from None
    text = config.get_text_config()
    counts, widest = _counts(model, text)
    head = model.get_output_embeddings().weight.numel()
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight or bool(config.tie_word_embeddings)
    num_experts, chosen = _experts(text)
    return LanguageModel(
        name=type(model).__name__,
        **counts,
        active_share=chosen / num_experts,
        head=head,
        tied=tied,
        hidden=text.hidden_size,
        widest=widest,
        vocabulary=text.vocab_size,
        attention=_attention(text, name),
        image=_vision(model, config) if hasattr(config, "vision_config") else None,
        num_heads=text.num_attention_heads,
    )


def _experts(text: Any) -> tuple[int, int]:
    """The experts of a layer, and how many run for a token."""
    num = next((v for n in ("num_local_experts", "n_routed_experts", "num_experts") if (v := getattr(text, n, None))), None)
    return (num, text.num_experts_per_tok) if num else (1, 1)


def _counts(model: Any, text: Any) -> tuple[dict[str, int], int]:
    """Parameters by their use, and the widest tensor of a layer, in numbers a token."""
    counts = dict.fromkeys(("experts", "linear", "router", "embedding", "vision", "other"), 0)
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    num_experts, chosen = _experts(text)
    widest = 0
    for name, weight in model.named_parameters():
        if weight is head and weight is not embedding:
            continue
        if weight is embedding:
            kind = "embedding"
        elif ".visual." in f".{name}" or ".vision_tower." in f".{name}" or ".multi_modal_projector." in f".{name}":
            kind = "vision"
        elif ".experts." in name and weight.shape[0] == num_experts:
            kind = "experts"
            widest = max(widest, chosen * weight.shape[-1], chosen * weight.shape[-2]) if weight.dim() == 3 else widest
        elif weight.dim() == 2 and weight.shape[0] == num_experts and num_experts > 1:
            kind = "router"
        elif weight.dim() == 2:
            kind, widest = "linear", max(widest, weight.shape[0])
        else:
            kind = "other"
        counts[kind] += weight.numel()
    return counts, widest


def _attention(text: Any, name: str) -> list[Attention]:
    heads = text.num_attention_heads
    if rank := getattr(text, "kv_lora_rank", None):
        rotary, plain, value = text.qk_rope_head_dim, text.qk_nope_head_dim, text.v_head_dim
        one = Attention(1, rank + rotary, heads * (plain + rotary + value), heads * (2 * rank + rotary), None)
        return [one] * text.num_hidden_layers
    size = getattr(text, "head_dim", None) or text.hidden_size // heads
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    layers = []
    for kind in getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers:
        if kind not in ("full_attention", "sliding_attention"):
            raise ConfigError(f"{name!r} has layers of {kind!r}; a plan can count full_attention and sliding_attention")
        window = text.sliding_window if kind == "sliding_attention" else None
        layers.append(Attention(kv_heads, 2 * kv_heads * size, 2 * heads * size, 2 * heads * size, window))
    return layers


def _vision(model: Any, config: Any) -> Vision | None:
    """One image of the tower's native grid. None for towers other than Qwen's, whose images a plan leaves out."""
    tower, vision = getattr(model.model, "visual", None), config.vision_config
    if tower is None or not hasattr(vision, "num_position_embeddings"):
        return None
    patches, merged = vision.num_position_embeddings, vision.spatial_merge_size**2
    macs = 0
    for name, weight in tower.named_parameters():
        if weight.dim() >= 2 and "pos_embed" not in name:
            macs += weight.numel() * (patches // merged if "merger" in name else patches)
    return Vision(patches, patches // merged, macs, 2 * vision.hidden_size * patches**2 * vision.depth)
