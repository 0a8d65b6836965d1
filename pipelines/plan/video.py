"""The cost of a Wan text-to-video model: its own forward passes, traced on the meta device (trace.py).

A video is: the caption and, with guidance, the negative caption through the text encoder; in each step one pass of a denoiser for the
caption and one more for guidance; one decode. Both experts have the same architecture, so it does not matter which one runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from configs.errors import ConfigError
from pipelines.plan.device_peaks import PRECISIONS, Device
from pipelines.plan.roofline import Candidate, Ceiling, Layout, Roof
from pipelines.plan.trace import Cost, cost, on_meta

DENOISERS = ("transformer", "transformer_2")


@dataclass(frozen=True)
class VideoJob:
    """The load of one replica: videos at the same time, and their shape. attention: the precision of its products."""

    batch: int
    num_frames: int
    height: int
    width: int
    num_inference_steps: int
    guided: bool
    text_tokens: int
    attention: str = "bf16"


@dataclass(frozen=True)
class VideoModel:
    """A Wan's parts on the meta device, in bfloat16."""

    name: str
    denoisers: Mapping[str, Any]
    text_encoder: Any
    vae: Any
    _traced: dict[tuple[int, ...], Mapping[str, Cost]] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def parameters(self) -> Mapping[str, int]:
        parts = {**self.denoisers, "text_encoder": self.text_encoder, "vae": self.vae}
        return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}

    def weight_bytes(self, precision: str) -> Mapping[str, int]:
        """Bytes of each part. The matrices of the denoisers' blocks have the precision, everything else 16 bits."""
        wide = max(16.0, PRECISIONS[precision].bits)
        sizes = {}
        for name, count in self.parameters.items():
            matrices = 0
            if name in self.denoisers:
                matrices = sum(p.numel() for n, p in self.denoisers[name].named_parameters() if p.dim() == 2 and ".blocks." in f".{n}")
            sizes[name] = math.ceil((matrices * PRECISIONS[precision].bits + (count - matrices) * wide) / 8)
        return sizes

    def latent_shape(self, job: VideoJob) -> tuple[int, int, int, int]:
        config = self.vae.config
        temporal, spatial = getattr(config, "scale_factor_temporal", 4), getattr(config, "scale_factor_spatial", 8)
        frames = (job.num_frames - 1) // temporal + 1
        return int(config.z_dim), frames, job.height // spatial, job.width // spatial

    def num_tokens(self, job: VideoJob) -> int:
        """Tokens of one video in the denoiser."""
        _, *sizes = self.latent_shape(job)
        patch = self.denoisers["transformer"].config.patch_size
        return math.prod(size // p for size, p in zip(sizes, patch, strict=True))

    def costs(self, job: VideoJob) -> Mapping[str, Cost]:
        """The costs of encoding one caption, one pass of a denoiser and one decode, each for one video."""
        import torch

        key = (job.num_frames, job.height, job.width, job.text_tokens)
        if key in self._traced:
            return self._traced[key]
        denoiser, half = self.denoisers["transformer"], torch.bfloat16
        latents = torch.empty(1, *self.latent_shape(job), device="meta", dtype=half)
        text = torch.empty(1, job.text_tokens, denoiser.config.text_dim, device="meta", dtype=half)
        ids = torch.empty(1, job.text_tokens, device="meta", dtype=torch.long)
        step = torch.empty(1, device="meta", dtype=torch.long)
        self._traced[key] = {
            "text_encoder": cost(lambda: self.text_encoder(ids), self.text_encoder),
            "denoiser": cost(
                lambda: denoiser(hidden_states=latents, timestep=step, encoder_hidden_states=text, return_dict=False), denoiser
            ),
            "vae": cost(lambda: self.vae.decode(latents, return_dict=False), self.vae),
        }
        return self._traced[key]

    def candidate(self, job: VideoJob, precision: str, layout: Layout, devices: int, device: Device) -> Candidate:
        replicas = devices // layout.size
        if why := self._impossible(job, layout):
            return Candidate(precision, layout, replicas, job.batch, device.usable_bytes, impossible=why)
        weights, costs = self.weight_bytes(precision), self.costs(job)
        peaks = {"text_encoder": costs["text_encoder"].peak_bytes, "vae": costs["vae"].peak_bytes}
        peaks |= dict.fromkeys(self.denoisers, costs["denoiser"].peak_bytes // layout.context)
        # bytes of weights on the device at the same time, and of activations for each video: with offload of one part, else of all
        turns = [(weights[p], peaks[p]) for p in weights] if layout.offload else [(sum(weights.values()), max(peaks.values()))]
        fixed, each = max(turns, key=lambda turn: turn[0] + turn[1] * job.batch)
        largest = min((device.usable_bytes - held) // peak for held, peak in turns)
        stages = self._stages(job, precision, layout, device, sum(weights.values()))
        passes = job.num_inference_steps * (2 if job.guided and layout.cfg == 1 else 1)
        times = {
            "text_encoder": stages["text_encoder"].seconds,
            "denoiser": passes * stages["denoiser_pass"].seconds,
            "vae": stages["vae_decode"].seconds,
        }
        if "to_device" in stages:
            times["to_device"] = stages["to_device"].seconds
        longest = max(times, key=lambda part: times[part])
        bound = {"text_encoder": "text_encoder", "denoiser": "denoiser_pass", "vae": "vae_decode"}.get(longest, longest)
        video = Roof(sum(times.values()), 0)
        return Candidate(
            precision,
            layout,
            replicas,
            job.batch,
            device.usable_bytes,
            {"weights": fixed, "activations": each * job.batch},
            largest if largest > 0 else None,
            {**stages, "batch_of_videos": video},
            Ceiling(replicas * job.batch / video.seconds, "videos/s", f"{longest}: {stages[bound].bound}"),
        )

    def _impossible(self, job: VideoJob, layout: Layout) -> str | None:
        if layout.cfg == 2 and not job.guided:
            return "without guidance there is no second pass for cfg 2"
        tokens, heads = self.num_tokens(job), self.denoisers["transformer"].config.num_attention_heads
        for what, count in (("tokens", tokens), ("heads", heads)):
            if count % layout.context:
                return f"{count} {what} do not split in {layout.context}"
        return None

    def _stages(self, job: VideoJob, precision: str, layout: Layout, device: Device, all_weights: int) -> dict[str, Roof]:
        costs, weights = self.costs(job), self.weight_bytes(precision)
        config = self.denoisers["transformer"].config
        # Ulysses: queries, keys, values and the result are exchanged in each layer, except a rank's own share
        width = config.num_attention_heads * config.attention_head_dim
        own = self.num_tokens(job) / layout.context * width * 2
        sent = job.batch * config.num_layers * 4 * own * (layout.context - 1) / layout.context
        stages = {
            "text_encoder": _roof(costs["text_encoder"], job, "bf16", device, weights["text_encoder"]),
            "denoiser_pass": _roof(costs["denoiser"], job, precision, device, weights["transformer"], layout.context, sent),
            "vae_decode": _roof(costs["vae"], job, "bf16", device, weights["vae"]),
        }
        if layout.offload:
            stages["to_device"] = Roof(0, 0, 0, all_weights / (device.host_gb_s * 1e9))
        return stages


def _roof(work: Cost, job: VideoJob, precision: str, device: Device, weights: int, split: int = 1, sent: float = 0.0) -> Roof:
    compute = work.flops / device.flops_per_s(precision) + work.attention_flops / device.flops_per_s(job.attention)
    moved = weights + job.batch * work.moved_bytes / split
    return Roof(job.batch * compute / split, moved / (device.memory_gb_s * 1e9), sent / (device.link_gb_s * 1e9))


def build(parts: Mapping[str, Mapping[str, Any]], index: Mapping[str, Any], name: str) -> VideoModel:
    """parts: configurations by name, as model_index.json names them. Raises ConfigError where they are not a Wan's."""
    import diffusers
    import torch
    import transformers

    kinds = {part: str(index[part][1]) for part in (*DENOISERS, "text_encoder", "vae") if isinstance(index.get(part), list)}
    known = {"transformer": "WanTransformer3DModel", "transformer_2": "WanTransformer3DModel", "vae": "AutoencoderKLWan"}
    if other := {part: kind for part, kind in kinds.items() if part in known and kind not in (known[part], "None")}:
        part, kind = next(iter(other.items()))
        raise ConfigError(f"{name!r}: its {part} is a {kind}; a plan supports only a {known[part]}")
    if missing := [part for part in ("transformer", "text_encoder", "vae") if part not in parts]:
        raise ConfigError(f"{name!r} has no {missing[0]}; a plan counts diffusers folders of Wan's layout")
    with on_meta():
        networks: dict[str, Any] = {}
        for part in (*DENOISERS, "vae"):
            if part in parts:
                networks[part] = getattr(diffusers, known[part]).from_config(
                    {k: v for k, v in parts[part].items() if k != "quantization_config"}
                )
        kind = getattr(transformers, kinds["text_encoder"])
        encoder = kind(kind.config_class.from_dict(dict(parts["text_encoder"])))
        encoder.tie_weights()
    for part in (*networks.values(), encoder):
        for tensor in (*part.parameters(), *part.buffers()):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(torch.bfloat16)
    return VideoModel(str(index["_class_name"]), {n: networks[n] for n in DENOISERS if n in networks}, encoder, networks["vae"])


def figures(model: VideoModel, job: VideoJob, precision: str) -> Mapping[str, Any]:
    """Figures that are the same on any device: counts, FLOPs and bytes. The negative prompt is encoded once for all videos."""
    costs, passes = model.costs(job), 2 if job.guided else 1
    one = costs["denoiser"].flops + costs["denoiser"].attention_flops
    encoder, decode = (costs[n].flops + costs[n].attention_flops for n in ("text_encoder", "vae"))
    return {
        "class": model.name,
        "parameters": sum(model.parameters.values()),
        **{f"{name}_parameters": count for name, count in model.parameters.items()},
        "active_parameters": model.parameters["transformer"],
        "tokens_per_video": model.num_tokens(job),
        "flops_per_pass": one,
        "attention_flops_per_pass": costs["denoiser"].attention_flops,
        "flops_per_step": passes * one,
        "bytes_per_step": passes * (model.weight_bytes(precision)["transformer"] + costs["denoiser"].moved_bytes),
        "text_encoder_flops": encoder,
        "vae_decode_flops": decode,
        "flops_per_video": job.num_inference_steps * passes * one + encoder + decode,
    }
