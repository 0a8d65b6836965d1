"""Wan 2.1 with 1.3 billion parameters and random weights in the suite's pipeline: seconds and MFU of each stage.

The published shape: 81 frames of 832 x 480, both guidance passes, the whole UMT5-XXL encoder and VAE. Few steps, because they all take the
same time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from benchmarks.gpu import decoding, mfu
from benchmarks.gpu.part import Job, Keep

if TYPE_CHECKING:
    from pipelines.plan.trace import Cost

ARCHITECTURE = "wan2.1-t2v-1.3b"
FULL: dict[str, Any] = {"num_frames": 81, "height": 480, "width": 832, "num_inference_steps": 4, "max_sequence_length": 512}
SHRUNK: dict[str, Any] = {
    "num_frames": 5,
    "height": 32,
    "width": 48,
    "num_inference_steps": 3,
    "max_sequence_length": 16,
    "shrink": {"layers": 2, "width": "1/12", "vocabulary": 320},
}
GUIDANCE = 5.0  # Wan 2.1's default
STAGES = {"text_encoder": "text_encode", "denoiser": "denoise", "vae": "vae_decode"}  # name in plans -> name of the stage's time


def measure(job: Job, keep: Keep) -> None:
    import torch

    from pipelines.diffusers.t2v import DiffusersT2V
    from workloads.records import Query, Sample

    device, options = torch.device(job.device), SHRUNK if job.shrink else FULL
    costs = trace_costs(options)
    pipeline = DiffusersT2V(weights="random", architecture=ARCHITECTURE, guidance_scale=GUIDANCE, **options)
    pipeline.load(device)
    steps = options["num_inference_steps"]
    for keep_as in ("first_answer", "answer"):  # in the first, libraries choose and load their kernels for these shapes
        if device.type != "cpu":
            torch.cuda.reset_peak_memory_stats(device)
        (response,) = pipeline.generate([Sample(0, "a red kite over the sea")], [Query(0, 0, 1)])
        keep(keep_as, {"seconds": sum(response.stages.values()), "steps": steps, "step_s": list(response.step_s)})
    effective = dict(pipeline.effective())
    keep("effective", effective)
    ceiling = mfu.product_ceiling(job.ceilings, effective["dtype"])
    keep("ceiling_tflops", ceiling)
    # The negative prompt has been encoded for the first answer: pipelines/diffusers/negative_prompt.py.
    times = {"text_encoder": 1, "denoiser": 2 * steps, "vae": 1}
    stages = {
        part: mfu.work(times[part] * (cost.flops + cost.attention_flops), response.stages[STAGES[part]], ceiling)
        | {"attention_share_of_flops": cost.attention_flops / (cost.flops + cost.attention_flops)}
        for part, cost in costs.items()
    }
    keep("stages", stages)
    keep("other_s", response.stages["other"])
    keep("finite", response.finite)
    sizes = {name: options[name] for name in ("num_frames", "height", "width")}
    decode_flops = costs["vae"].flops + costs["vae"].attention_flops
    if device.type != "cpu":
        keep("peak_memory_bytes", torch.cuda.max_memory_allocated(device))
    decoding.rows(pipeline._pipe, job, sizes, decode_flops, ceiling, lambda rows: keep("decoding", rows))


def summary(figures: Mapping[str, Any]) -> str:
    stages = "; ".join(f"{name} {s['seconds']:.3g} s, MFU {mfu.percent(s['mfu'])}" for name, s in figures.get("stages", {}).items())
    ways = ", ".join(f"{name} {row['speed_up']:.2f}x" for name, row in figures.get("decoding", {}).items() if row["ran"])
    return f"{stages}; decoding: {ways}" if ways else stages


def trace_costs(options: Mapping[str, Any]) -> Mapping[str, Cost]:
    """Costs of encoding one caption, one pass of the denoiser and one decode, counted by pipelines/plan/video.py."""
    from pipelines.models import architectures
    from pipelines.plan import video

    folder = architectures.folder_of(ARCHITECTURE)
    values = architectures.diffusers_values(folder, architectures.Shrink.parse(options.get("shrink")))
    model = video.build(values, architectures.read(folder, "model_index.json"), ARCHITECTURE)
    sizes = {name: options[name] for name in ("num_frames", "height", "width", "num_inference_steps")}
    return model.costs(video.VideoJob(batch=1, guided=True, text_tokens=options["max_sequence_length"], **sizes))
