"""diffusers' video families, each built as small as its classes allow, with random weights and generated tokenizers.

`save(name, folder)` writes a folder as `from_pretrained` reads it. Attention, scales and the order of the layers are the families' own; the
sizes are not.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing

from pipelines.embedded.training.t2v.text import TEXT_DIM, build_text_encoder, build_tokenizer
from workloads.world.scenes import vocabulary

TEXT_TO_VIDEO = ("wan21", "wan22", "wan22_5b", "ltx", "cogvideox", "hunyuan", "mochi")
IMAGE_TO_VIDEO = ("wan21_i2v", "wan22_i2v", "wan22_5b_i2v", "ltx_i2v", "cogvideox_i2v", "hunyuan_i2v")
SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>", "<image>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
PIECES = Regex(r"<\|?\w+\|?>|\w+|[^\w\s]")


def save(name: str, folder: Path) -> None:
    torch.manual_seed(0)
    pipe = _BUILDERS[name]()
    pipe.save_pretrained(folder)


def _wan(two_experts: bool, image_to_video: bool = False, sees_image: bool = False) -> Any:
    from diffusers import WanImageToVideoPipeline, WanPipeline, WanTransformer3DModel

    sizes: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 2, "ffn_dim": 32, "text_dim": TEXT_DIM}
    sizes |= {"in_channels": 36 if image_to_video else 16, "out_channels": 16}
    if sees_image:
        sizes |= {"image_dim": 16, "added_kv_proj_dim": 24}
    parts = _wan_text() | {
        "vae": _wan_vae(temperal_downsample=[False, True, True]),
        "transformer": WanTransformer3DModel(**sizes),
        "transformer_2": WanTransformer3DModel(**sizes) if two_experts else None,
        "boundary_ratio": 0.875 if two_experts else None,
    }
    if not image_to_video:
        return WanPipeline(**parts)
    encoder = _image_encoder() if sees_image else {"image_encoder": None, "image_processor": None}
    return WanImageToVideoPipeline(**parts, **encoder)


def _wan_5b(image_to_video: bool) -> Any:
    """Wan 2.2 5B: one denoiser with a timestep for each token, and a VAE with a factor of 16."""
    from diffusers import WanImageToVideoPipeline, WanPipeline, WanTransformer3DModel

    denoiser = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, num_layers=2, ffn_dim=32, text_dim=TEXT_DIM, in_channels=16, out_channels=16
    )
    vae = _wan_vae(
        temperal_downsample=[False, True, True], is_residual=True, patch_size=2, in_channels=12, out_channels=12, scale_factor_spatial=16
    )
    parts = _wan_text() | {"vae": vae, "transformer": denoiser, "transformer_2": None, "expand_timesteps": True}
    return WanImageToVideoPipeline(**parts, image_encoder=None, image_processor=None) if image_to_video else WanPipeline(**parts)


def _wan_text() -> dict[str, Any]:
    from diffusers import UniPCMultistepScheduler

    tokenizer = build_tokenizer()
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return {"tokenizer": tokenizer, "text_encoder": build_text_encoder(tokenizer), "scheduler": scheduler}


def _wan_vae(**options: Any) -> Any:
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, **options)


def _image_encoder(patch: int = 8, size: int = 32) -> dict[str, Any]:
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=size, patch_size=patch
    )
    processor = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    return {"image_encoder": CLIPVisionModel(config), "image_processor": processor}


def _t5() -> dict[str, Any]:
    from transformers import T5Config, T5EncoderModel

    tokenizer = build_tokenizer()
    sizes: dict[str, Any] = {"d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 64, "num_layers": 2, "relative_attention_num_buckets": 8}
    return {"tokenizer": tokenizer, "text_encoder": T5EncoderModel(T5Config(vocab_size=-(-len(tokenizer) // 32) * 32, **sizes))}


def _ltx(image_to_video: bool) -> Any:
    from diffusers import (
        AutoencoderKLLTXVideo,
        FlowMatchEulerDiscreteScheduler,
        LTXImageToVideoPipeline,
        LTXPipeline,
        LTXVideoTransformer3DModel,
    )

    vae = AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
    )
    denoiser = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=12,
        cross_attention_dim=24,
        num_layers=2,
        caption_channels=32,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.1, base_shift=0.95, max_shift=2.05)
    kind = LTXImageToVideoPipeline if image_to_video else LTXPipeline
    return kind(scheduler=scheduler, vae=vae, transformer=denoiser, **_t5())


def _cogvideox(image_to_video: bool) -> Any:
    from diffusers import (
        AutoencoderKLCogVideoX,
        CogVideoXDPMScheduler,
        CogVideoXImageToVideoPipeline,
        CogVideoXPipeline,
        CogVideoXTransformer3DModel,
    )

    vae = AutoencoderKLCogVideoX(
        block_out_channels=(4, 4, 4, 4), layers_per_block=1, latent_channels=4, norm_num_groups=2, sample_height=32, sample_width=48
    )
    denoiser = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=8 if image_to_video else 4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=32,
        num_layers=2,
        sample_width=6,
        sample_height=4,
        sample_frames=9,
        max_text_seq_length=32,
        use_rotary_positional_embeddings=True,
    )
    scheduler = CogVideoXDPMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, prediction_type="v_prediction",
        rescale_betas_zero_snr=True, set_alpha_to_one=True, snr_shift_scale=1.0, timestep_spacing="trailing",
    )  # fmt: skip
    kind = CogVideoXImageToVideoPipeline if image_to_video else CogVideoXPipeline
    return kind(vae=vae, transformer=denoiser, scheduler=scheduler, **_t5())


def _mochi() -> Any:
    from diffusers import AutoencoderKLMochi, FlowMatchEulerDiscreteScheduler, MochiPipeline, MochiTransformer3DModel

    vae = AutoencoderKLMochi(
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
    )
    denoiser = MochiTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        pooled_projection_dim=16,
        in_channels=12,
        text_embed_dim=32,
        time_embed_dim=8,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    return MochiPipeline(scheduler=scheduler, vae=vae, transformer=denoiser, force_zeros_for_empty_prompt=True, **_t5())


def _hunyuan(image_to_video: bool) -> Any:
    from diffusers import (
        AutoencoderKLHunyuanVideo,
        FlowMatchEulerDiscreteScheduler,
        HunyuanVideoImageToVideoPipeline,
        HunyuanVideoPipeline,
        HunyuanVideoTransformer3DModel,
    )

    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=2, mid_block_add_attention=False
    )
    denoiser = HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        guidance_embeds=not image_to_video,
        text_embed_dim=16,
        pooled_projection_dim=8,
        rope_axes_dim=(2, 4, 4),
        image_condition_type="token_replace" if image_to_video else None,
    )
    parts = _hunyuan_text(image_to_video) | {"vae": vae, "transformer": denoiser, "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0)}
    return HunyuanVideoImageToVideoPipeline(**parts) if image_to_video else HunyuanVideoPipeline(**parts)


def _hunyuan_text(image_to_video: bool) -> dict[str, Any]:
    from diffusers.pipelines.hunyuan_video import pipeline_hunyuan_video, pipeline_hunyuan_video_image2video
    from transformers import CLIPTextConfig, CLIPTextModel, LlamaConfig, LlamaModel, LlavaConfig, LlavaForConditionalGeneration

    template = (pipeline_hunyuan_video_image2video if image_to_video else pipeline_hunyuan_video).DEFAULT_PROMPT_TEMPLATE
    words = word_tokenizer(template["template"], template["crop_start"])
    clip = word_tokenizer("", 1)
    ids: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    llama = LlamaConfig(vocab_size=len(words), **sizes, **ids)
    clip_sizes: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    parts: dict[str, Any] = {
        "tokenizer": words,
        "tokenizer_2": clip,
        "text_encoder_2": CLIPTextModel(CLIPTextConfig(vocab_size=len(clip), **clip_sizes, **ids)),
    }
    if not image_to_video:
        return parts | {"text_encoder": LlamaModel(llama)}
    vision = _image_encoder(patch=2, size=48)  # 24 x 24 patches, as many as the published one has
    config = LlavaConfig(
        vision_config=vision["image_encoder"].config,
        text_config=llama,
        image_token_index=SPECIALS.index("<image>"),
        vision_feature_layer=-2,
    )
    config.pad_token_id = 0
    return parts | {"text_encoder": LlavaForConditionalGeneration(config), "image_processor": vision["image_processor"]}


def word_tokenizer(template: str, crop_start: int) -> Any:
    """One token a word. Tokens at the beginning pad the template's prefix to the length that the pipeline cuts off."""
    from transformers import PreTrainedTokenizerFast

    pieces = Tokenizer(WordLevel({"<unk>": 0}, unk_token="<unk>"))
    split = Split(PIECES, "removed", invert=True)
    pieces_of_template = [piece for piece, _ in split.pre_tokenize_str(template)]
    words = sorted({*vocabulary(), *pieces_of_template, *"0123456789"} - set(SPECIALS))
    pieces = Tokenizer(WordLevel({word: i for i, word in enumerate([*SPECIALS, *words])}, unk_token="<unk>"))
    pieces.pre_tokenizer = split
    front = len(split.pre_tokenize_str(template.partition("{}")[0]))
    count = max(crop_start - front, 1)
    pieces.post_processor = TemplateProcessing(
        single=" ".join(["<bos>"] * count + ["$A"] + ([] if template else ["<eos>"])), special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    special: dict[str, Any] = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=pieces, padding_side="right", model_max_length=512, **special)


_BUILDERS: dict[str, Callable[[], Any]] = {
    "wan21": lambda: _wan(two_experts=False),
    "wan22": lambda: _wan(two_experts=True),
    "wan22_5b": lambda: _wan_5b(image_to_video=False),
    "ltx": lambda: _ltx(image_to_video=False),
    "cogvideox": lambda: _cogvideox(image_to_video=False),
    "hunyuan": lambda: _hunyuan(image_to_video=False),
    "mochi": _mochi,
    "wan21_i2v": lambda: _wan(two_experts=False, image_to_video=True, sees_image=True),
    "wan22_i2v": lambda: _wan(two_experts=True, image_to_video=True),
    "wan22_5b_i2v": lambda: _wan_5b(image_to_video=True),
    "ltx_i2v": lambda: _ltx(image_to_video=True),
    "cogvideox_i2v": lambda: _cogvideox(image_to_video=True),
    "hunyuan_i2v": lambda: _hunyuan(image_to_video=True),
}
