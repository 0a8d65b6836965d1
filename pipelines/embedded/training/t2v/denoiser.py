"""Training of the embedded denoiser: diffusers' WanTransformer3DModel by flow matching, then split into two experts.

First one network and the text encoder are trained on all noise levels together. Then two copies are trained separately, one on the
high noise above `BOUNDARY` and one on the low noise below it, as Wan 2.2's two experts are, with the text encoder frozen.

Text padding: WanPipeline pads a prompt's embedding with zero rows and has no mask, so the network's output depends on
their number. All those rows are equal, and attending to m equal keys is attending to one with log(m) added to its score:
training does that, with m drawn anew for each caption, and computes one row instead of up to 512.

Precision: matrix products in bfloat16 (2.4 times as fast as float32 on a CPU that has the instruction), attention written
out in float32 because the fused kernel's bfloat16 backward pass is several times slower there.

Shape letters: B batch, C channels, T frames, H height, W width, S places of tokens, E embedding; in attention
H heads and D a head's width.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F

from pipelines.embedded.training.common import Ema, Progress, cosine, descend, load_state, save_state, set_rate
from pipelines.embedded.training.t2v.text import MAX_TOKENS, TEXT_DIM
from pipelines.embedded.training.t2v.vae import Z_DIM

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel
    from transformers import UMT5EncoderModel

BATCH = 64
BASE_STEPS, BASE_RATE = 7000, 1.5e-3
EXPERT_STEPS, EXPERT_RATE = {"high_noise": 1000, "low_noise": 1600}, 8e-4  # shapes are formed at low noise
BOUNDARY = 0.875  # share of the noise range above which the first expert runs; Wan 2.2 A14B's
FLOW_SHIFT = 3.0  # the sampler's; half of the training times are distributed as its steps are
EMPTY_SHARE = 0.10  # captions dropped, for guidance
SHORTEST_PADDING = 40


class Latents(NamedTuple):
    """The encoded training clips: posterior mean and deviation (n, C, T, H, W), normalised, and token ids and mask (n, S)."""

    mean: torch.Tensor
    std: torch.Tensor
    ids: torch.Tensor
    mask: torch.Tensor
    empty_ids: torch.Tensor  # (S,), an empty caption
    empty_mask: torch.Tensor


def build_transformer() -> WanTransformer3DModel:
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=6,
        attention_head_dim=32,
        in_channels=Z_DIM,
        out_channels=Z_DIM,
        text_dim=TEXT_DIM,
        freq_dim=256,
        ffn_dim=512,
        num_layers=6,
        rope_max_seq_len=64,
    )


def train_base(folder: Path, data: Latents, text_encoder: UMT5EncoderModel, seed: int, compiled: bool) -> WanTransformer3DModel:
    """Train one network and the text encoder on all noise levels. Both end with their averaged weights."""
    torch.manual_seed(seed)
    model = build_transformer()
    torch.nn.init.zeros_(model.proj_out.weight)
    both = torch.nn.ModuleDict({"model": model, "text": text_encoder})
    _train("denoiser", folder / "denoiser.pt", both, data, (0.0, 1.0), BASE_STEPS, BASE_RATE, seed, frozen_text=False, compiled=compiled)
    return model


def train_expert(
    folder: Path,
    name: str,
    base: WanTransformer3DModel,
    data: Latents,
    text_encoder: UMT5EncoderModel,
    seed: int,
    steps: int,
    compiled: bool,
) -> WanTransformer3DModel:
    """A copy of `base` trained on one side of the boundary: `name` is `high_noise` or `low_noise`."""
    times = {"high_noise": (BOUNDARY, 1.0), "low_noise": (0.0, BOUNDARY)}[name]
    model = copy.deepcopy(base)
    both = torch.nn.ModuleDict({"model": model, "text": text_encoder})
    _train(name, folder / f"{name}.pt", both, data, times, steps, EXPERT_RATE, seed, frozen_text=True, compiled=compiled)
    return model


def _train(
    name: str,
    path: Path,
    both: torch.nn.ModuleDict,
    data: Latents,
    times: tuple[float, float],
    steps: int,
    rate: float,
    seed: int,
    frozen_text: bool,
    compiled: bool,
) -> None:
    both["text"].requires_grad_(not frozen_text)
    both["model"].train().requires_grad_(True)
    weigh = training_attention(both["model"])
    if compiled:
        both["model"].compile()
    trained: torch.nn.Module = both["model"] if frozen_text else both
    ema = Ema(trained, 0.99 if frozen_text else 0.997)
    optimiser = torch.optim.AdamW(trained.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    progress = Progress(name, steps, load_state(path, both=both, ema=ema, optimiser=optimiser))
    while progress.step < steps:
        set_rate(optimiser, cosine(progress.step, steps, rate, warmup=100))
        generator = torch.Generator().manual_seed(seed * 1_000_003 + progress.step)
        loss = _loss(both, weigh, data, times, generator)
        descend(loss, trained.parameters(), optimiser)
        ema.update(trained)
        progress.advance(loss=loss.item())
        if progress.due():
            save_state(path, progress, both=both, ema=ema, optimiser=optimiser)
    if not progress.was_finished:  # two experts read the same finished base at the same time
        save_state(path, progress, both=both, ema=ema, optimiser=optimiser)
    ema.copy_to(trained)
    plain_attention(both["model"])
    both.eval().requires_grad_(False)


def _loss(
    both: torch.nn.ModuleDict, weigh: _PaddingWeight, data: Latents, times: tuple[float, float], generator: torch.Generator
) -> torch.Tensor:
    index = torch.randint(len(data.mean), (BATCH,), generator=generator)
    x_BCTHW = data.mean[index] + data.std[index] * torch.randn(data.mean[index].shape, generator=generator)
    noise_BCTHW = torch.randn(x_BCTHW.shape, generator=generator)
    time_B = _times(times, generator)
    ids_BS, mask_BS = data.ids[index].clone(), data.mask[index].clone()
    empty = torch.rand(BATCH, generator=generator) < EMPTY_SHARE
    ids_BS[empty], mask_BS[empty] = data.empty_ids, data.empty_mask
    text_BSD = both["text"](ids_BS, mask_BS).last_hidden_state * mask_BS[..., None]
    weigh.set(mask_BS, _padded_lengths(generator))
    mixed = torch.lerp(x_BCTHW, noise_BCTHW, time_B.view(-1, 1, 1, 1, 1))
    with torch.autocast("cpu", torch.bfloat16):
        flow = both["model"](mixed, time_B * 1000, text_BSD, return_dict=False)[0]
    loss: torch.Tensor = F.mse_loss(flow.float(), noise_BCTHW - x_BCTHW)
    return loss


def _times(limits: tuple[float, float], generator: torch.Generator) -> torch.Tensor:
    """Noise levels (B,) within the limits: half uniform, half distributed as the steps of a sampler with FLOW_SHIFT."""
    low, high = limits

    def unshifted(t: float) -> float:
        return t / (FLOW_SHIFT - (FLOW_SHIFT - 1) * t)

    even = low + (high - low) * torch.rand(BATCH // 2, generator=generator)
    u = unshifted(low) + (unshifted(high) - unshifted(low)) * torch.rand(BATCH - BATCH // 2, generator=generator)
    return torch.cat([even, FLOW_SHIFT * u / (1 + (FLOW_SHIFT - 1) * u)])


def _padded_lengths(generator: torch.Generator) -> torch.Tensor:
    """Lengths (B,) that prompts are padded to: half the pipeline's default, half log-uniform below it."""
    spread = math.log(MAX_TOKENS / SHORTEST_PADDING)
    lengths = SHORTEST_PADDING * torch.exp(spread * torch.rand(BATCH, generator=generator))
    return torch.where(torch.rand(BATCH, generator=generator) < 0.5, torch.tensor(float(MAX_TOKENS)), lengths.round())


class _PaddingWeight:
    """An attention processor for cross-attention in training: one zero row represents all of them."""

    _attention_backend = None
    _parallel_config = None
    bias_B11S: torch.Tensor

    def set(self, mask_BS: torch.Tensor, lengths_B: torch.Tensor) -> None:
        num_real = mask_BS.sum(1)
        place = torch.arange(mask_BS.shape[1])
        weight = torch.where(place == num_real[:, None], (lengths_B - num_real).log()[:, None], -math.inf)
        self.bias_B11S = torch.where(mask_BS.bool(), 0.0, weight)[:, None, None]

    def __call__(self, attn: Any, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor, *_: Any) -> torch.Tensor:
        query, key = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(encoder_hidden_states))
        return _attend(attn, query, key, attn.to_v(encoder_hidden_states), self.bias_B11S)


class _SelfAttention:
    """An attention processor for self-attention in training: WanAttnProcessor's arithmetic, with float32 attention."""

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self, attn: Any, hidden_states: torch.Tensor, _text: None, _mask: None, rotary: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        cos, sin = rotary[0][..., 0::2], rotary[1][..., 1::2]  # (1, tokens, 1, half a head)

        def turn(x_BSE: torch.Tensor) -> torch.Tensor:
            even, odd = x_BSE.unflatten(2, (attn.heads, -1, 2)).unbind(-1)
            return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(2)

        query, key = turn(attn.norm_q(attn.to_q(hidden_states))), turn(attn.norm_k(attn.to_k(hidden_states)))
        return _attend(attn, query, key, attn.to_v(hidden_states), None)


def _attend(attn: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    def heads(x_BSE: torch.Tensor) -> torch.Tensor:
        x_BHSD: torch.Tensor = x_BSE.float().unflatten(2, (attn.heads, -1)).transpose(1, 2)
        return x_BHSD

    with torch.autocast("cpu", enabled=False):
        scale = (query.shape[-1] // attn.heads) ** -0.5
        scores = heads(query) * scale @ heads(key).transpose(-1, -2)
        if bias is not None:
            scores = scores + bias
        mixed = scores.softmax(-1) @ heads(value)
    out: torch.Tensor = attn.to_out[0](mixed.transpose(1, 2).flatten(2))
    return out


def training_attention(model: Any) -> _PaddingWeight:
    """Use training attention (see above). The returned object must be `set` for each batch's captions."""
    weigh = _PaddingWeight()
    for block in model.blocks:
        block.attn1.set_processor(_SelfAttention())
        block.attn2.set_processor(weigh)
    return weigh


def plain_attention(model: Any) -> None:
    """Restore diffusers' own attention."""
    from diffusers.models.transformers.transformer_wan import WanAttnProcessor

    for block in model.blocks:
        block.attn1.set_processor(WanAttnProcessor())
        block.attn2.set_processor(WanAttnProcessor())
