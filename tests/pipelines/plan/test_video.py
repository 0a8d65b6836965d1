"""Plans of video models: traces compared with torch's counter, memory with and without offload, published results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from pipelines.plan.trace import cost
from tests.pipelines.plan.plans import planned


def test_a_traced_pass_has_the_flops_that_torch_counts_on_real_tensors(tiny_wan: Path) -> None:
    from diffusers import WanTransformer3DModel

    real = WanTransformer3DModel.from_pretrained(tiny_wan, subfolder="transformer").eval()
    with torch.device("meta"):
        outline = WanTransformer3DModel.from_config(real.config)

    def forward(network: Any, device: str) -> None:
        latents, text = torch.zeros(1, 16, 3, 8, 8, device=device), torch.zeros(1, 7, real.config.text_dim, device=device)
        network(hidden_states=latents, timestep=torch.zeros(1, device=device), encoder_hidden_states=text)

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        forward(real, "cpu")
    counted = counter.get_flop_counts()["Global"]
    attention = sum(n for op, n in counted.items() if "attention" in str(op))
    result = cost(lambda: forward(outline, "meta"), outline)
    assert result.flops == sum(counted.values()) - attention
    # 3 x 4 x 4 tokens, each with all of them and with 7 of text, in 2 layers of 2 heads of 12
    assert result.attention_flops == 4 * 2 * 24 * 48 * (48 + 7)


def test_peak_memory_of_a_trace_is_what_lives_at_the_same_time() -> None:
    with torch.device("meta"):
        layers = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 4), torch.nn.Linear(4, 2))
    result = cost(lambda: layers(torch.empty(10, 8, device="meta")), layers)
    assert result.flops == 2 * 10 * (8 * 16 + 16 * 4 + 4 * 2)
    assert result.peak_bytes == 4 * 10 * (8 + 16 + 4)  # the caller holds the input; a layer's input and output live together


def test_largest_batch_of_videos_is_the_one_that_just_fits_with_and_without_offload() -> None:
    for one in planned("t2v/embedded", "h100").candidates:
        if one.impossible:
            continue
        assert one.max_batch is not None
        for batch in (one.max_batch, one.max_batch + 1):
            again = planned("t2v/embedded", "h100", (f"pipeline.batch_size={batch}",))
            same = next(c for c in again.candidates if (c.precision, c.layout) == (one.precision, one.layout))
            assert same.fits is (batch == one.max_batch), (str(one), batch)


def test_a_video_is_two_passes_a_step_one_caption_and_one_decode() -> None:
    result = planned("t2v/embedded", "h100")
    f = result.figures
    assert f["flops_per_step"] == 2 * f["flops_per_pass"]
    assert f["flops_per_video"] == 8 * f["flops_per_step"] + f["text_encoder_flops"] + f["vae_decode_flops"]
    once = planned("t2v/embedded", "h100", ("pipeline.guidance_scale=1",))
    assert once.figures["flops_per_step"] == f["flops_per_pass"]
    assert once.figures["text_encoder_flops"] == f["text_encoder_flops"]


def test_with_offload_only_the_largest_part_is_on_the_device() -> None:
    result = planned("t2v/embedded", "h100")
    sizes = [2 * result.figures[f"{part}_parameters"] for part in ("transformer", "transformer_2", "text_encoder", "vae")]
    by_offload = {c.layout.offload: c for c in result.candidates if c.precision == "bf16" and c.layout.size == 1}
    assert by_offload[False].memory["weights"] == sum(sizes)
    assert by_offload[True].memory["weights"] == max(sizes)
    assert by_offload[True].stages["to_device"].bound == "host link"


def test_tokens_that_cannot_be_split_make_a_layout_impossible() -> None:
    impossible = {c.layout.context: c.impossible for c in planned("t2v/embedded", "h100").candidates if c.impossible}
    assert impossible[2] == "45 tokens do not split in 2"
