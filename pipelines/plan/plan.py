"""Whether a preset fits on devices, and the throughput that it cannot exceed: from peak figures, without weights and without the devices.

Memory is counted for the fullest device of a replica. Times are rooflines: a piece of work takes at least as long as its products need at
peak speed, its bytes at peak bandwidth, and its communication at the links' peak, whichever is longest. Nothing reaches all peaks, so a
ceiling is not a forecast. A measured figure above the ceiling is wrong; below it, the difference is what could still be gained.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import ConfigError
from configs.registry import find, make
from configs.run_config import RunConfig
from pipelines.base import StreamingPipeline
from pipelines.models import architectures
from pipelines.models.embedded import models_of
from pipelines.plan.device_peaks import PRECISIONS, Device, check_precision, find_device
from pipelines.plan.roofline import Candidate, Layout

if TYPE_CHECKING:
    from pipelines.plan.language import Job, LanguageModel
    from pipelines.plan.video import VideoJob

DTYPES = {"auto": "bf16", "float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
USUAL = ("bf16", "fp8", "mxfp4")  # precisions shown beside the chosen one
QUESTION_TOKENS = 256  # of text, in addition to an image's, where a prompt's length is not given


@dataclass(frozen=True)
class PlanRequest:
    """The options of the command; None keeps the preset's value.

    precision: of the weights. attention: the precision of the KV cache and of attention's products.
    """

    device: str
    devices: int = 8
    precision: str | None = None
    attention: str | None = None
    batch: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    devices_file: Path | None = None


@dataclass(frozen=True)
class Plan:
    """chosen: the preset's layout. candidates: that and its alternatives. figures: the same on any device. notes: the assumptions."""

    preset: str
    request: PlanRequest
    device: Device
    job: Job | VideoJob
    figures: Mapping[str, Any]
    chosen: Candidate
    candidates: Sequence[Candidate]
    notes: Sequence[str]

    @property
    def would_fit(self) -> list[Candidate]:
        """Alternatives: fewest devices in the chosen precision, widest precision in the chosen layout, fewest devices of all."""
        fitting = sorted(
            (c for c in self.candidates if c.fits), key=lambda c: (c.layout.size, c.layout.offload, -PRECISIONS[c.precision].bits)
        )
        groups = (
            [c for c in fitting if c.precision == self.chosen.precision],
            [c for c in fitting if c.layout == self.chosen.layout],
            fitting,
        )
        return list({str(group[0]): group[0] for group in groups if group}.values())


def plan(config: RunConfig, preset: str, request: PlanRequest) -> Plan:
    """Raises ConfigError for an unknown device, a preset without an architecture, and devices that do not make whole replicas."""
    device = find_device(request.device, request.devices_file)
    pipeline = make("pipelines", config.pipeline_name, config.pipeline_options)
    precision = check_precision(request.precision) if request.precision else _precision(pipeline)
    request = replace(request, attention=check_precision(request.attention) if request.attention else _kv_precision(pipeline))
    for name in ("devices", "batch", "input_tokens", "output_tokens"):
        value = getattr(request, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be positive, got {value}")
    layout = _layout(config, pipeline, request)
    folder = _folder(config.pipeline_name, config.workload, pipeline, preset)
    if (folder / "model_index.json").is_file():
        return _plan_video(config, preset, request, device, pipeline, precision, layout, folder)
    return _plan_language(config, preset, request, device, pipeline, precision, layout, folder)


def _plan_language(
    config: RunConfig, preset: str, request: PlanRequest, device: Device, pipeline: Any, precision: str, layout: Layout, folder: Path
) -> Plan:
    from pipelines.plan import language

    if layout.context > 1 or layout.cfg > 1:
        raise ConfigError("a language model is split by parallel.tensor alone; leave out parallel.context and parallel.cfg")
    model, longest = _language_model(pipeline, folder)
    job = _language_job(pipeline, request, model, longest)
    precisions = dict.fromkeys([precision, *USUAL])
    layouts = dict.fromkeys([layout, *(Layout(tensor=n) for n in _divisors(request.devices))])
    candidates = {(p, one): model.candidate(job, p, one, request.devices, device) for p in precisions for one in sorted(layouts)}
    notes = [
        f"every query has {job.input_tokens:,} tokens of prompt and {job.output_tokens:,} of answer (--input-tokens, --output-tokens)",
        f"matrices of the layers are in {precision}; embeddings, routers, norms"
        + (" and the vision tower" if model.image else "")
        + " in bf16",
        f"KV cache and attention's products are in {job.kv_precision} (--attention)",
        "activations are an estimate; all experts are assumed to be used equally often" if model.experts else "activations are an estimate",
    ]
    if model.image:
        notes.append(f"every prompt has one image of {model.image.patches:,} patches, {model.image.tokens:,} tokens")
    elif model.vision:
        notes.append("images are left out: a plan cannot count their tower")
    figures = language.figures(model, job, precision)
    notes += _notes(config, request, device, layout, precision)
    return Plan(preset, request, device, job, figures, candidates[precision, layout], list(candidates.values()), notes)


def _plan_video(
    config: RunConfig, preset: str, request: PlanRequest, device: Device, pipeline: Any, precision: str, layout: Layout, folder: Path
) -> Plan:
    from pipelines.plan import video

    if config.workload == "i2v":
        raise ConfigError(f"{preset!r} is of workload 'i2v'; a plan can only count text to video, without images")
    if layout.tensor > 1:
        raise ConfigError("a video model is split by parallel.context and parallel.cfg; leave out parallel.tensor")
    if request.input_tokens or request.output_tokens:
        raise ConfigError("--input-tokens and --output-tokens are for language models; leave them out")
    index = architectures.read(folder, "model_index.json")
    shrink = architectures.Shrink.parse(getattr(pipeline, "shrink", None))
    model = video.build(architectures.diffusers_values(folder, shrink), index, folder.name)
    job = _video_job(pipeline, request, index)
    splits = [Layout(cfg=cfg, context=n) for n in _divisors(request.devices) for cfg in (1, 2) if request.devices % (n * cfg) == 0]
    both = [layout._replace(offload=False), layout._replace(offload=True)]
    splits = [s._replace(offload=layout.offload) for s in splits if s.cfg == 1 or job.guided]
    wanted = [(precision, one) for one in (*splits, *both)] + [(p, one) for p in USUAL for one in both]
    pairs = dict.fromkeys([*wanted, (precision, layout)])
    candidates = {(p, one): model.candidate(job, p, one, request.devices, device) for p, one in pairs}
    notes = [
        f"{job.num_frames} frames of {job.width} x {job.height}, {job.num_inference_steps} steps, "
        + ("two guidance passes a step" if job.guided else "no guidance"),
        f"matrices of the denoisers' blocks are in {precision}, everything else in bf16",
        f"attention's products are in {job.attention} (--attention)",
        "the VAE decodes on one device of a replica",
        "offload: the text encoder, each expert and the VAE are on the device one after the other, once a batch",
    ]
    figures = video.figures(model, job, precision)
    notes += _notes(config, request, device, layout, precision)
    return Plan(preset, request, device, job, figures, candidates[precision, layout], list(candidates.values()), notes)


def _layout(config: RunConfig, pipeline: Any, request: PlanRequest) -> Layout:
    """The layout of the run. Raises ConfigError where the devices do not make whole replicas."""
    parallel, offload = config.parallel, getattr(pipeline, "offload", "none")
    if offload == "sequential":
        raise ConfigError("a plan supports pipeline.offload none and model; sequential keeps almost nothing on the device")
    layout = Layout(parallel.tensor, parallel.context, parallel.cfg, offload == "model")
    if request.devices % layout.size:
        raise ConfigError(
            f"{request.devices} devices do not make whole replicas of {layout.size} ({layout}); give a multiple with --devices, "
            "or another layout, such as --set parallel.tensor=1"
        )
    return layout


def _folder(name: str, workload: str, pipeline: Any, preset: str) -> Path:
    """The folder with the architecture's configuration. Raises ConfigError where this machine has none."""
    if architecture := getattr(pipeline, "architecture", None):
        return architectures.folder_of(architecture)
    model = getattr(pipeline, "model", None)
    if not isinstance(model, str):
        raise ConfigError(f"{preset!r} has no model to plan for: pipeline {name!r} has none; known architectures: {_known()}")
    if model == "smollm2-135m":
        from pipelines.models.packaged_weights import smollm2

        return smollm2()[0]
    path = models_of(workload).get(model, Path(model))
    if (path / "config.json").is_file() or (path / "model_index.json").is_file():
        return Path(path)
    raise ConfigError(
        f"model {model!r} is not a folder with a config.json or a model_index.json, and a plan downloads nothing; name its architecture: "
        f"--set pipeline.architecture=NAME (known: {_known()}), or give a local folder"
    )


def _known() -> str:
    return ", ".join(architectures.names())


def _precision(pipeline: Any) -> str:
    """The precision of the weights by the pipeline's options. vLLM spells the option with a z."""
    for name in ("quantisation", "quantization"):
        value = getattr(pipeline, name, None)
        if isinstance(value, str) and value in PRECISIONS:
            return value
        if value not in (None, "none"):
            raise ConfigError(f"pipeline.{name} is {value!r}; give a precision to plan with: --precision, one of {', '.join(PRECISIONS)}")
    return DTYPES.get(getattr(pipeline, "dtype", "auto"), "bf16")


def _kv_precision(pipeline: Any) -> str:
    """The precision of the KV cache, where the pipeline has an option for it; else bf16. vLLM has several kinds of fp8."""
    value = getattr(pipeline, "kv_cache_dtype", "auto")
    precision = "fp8" if value.startswith("fp8") else DTYPES.get(value)
    if precision is None:
        raise ConfigError(
            f"pipeline.kv_cache_dtype is {value!r}; give a precision to plan with: --attention, one of {', '.join(PRECISIONS)}"
        )
    return precision


def _language_model(pipeline: Any, folder: Path) -> tuple[LanguageModel, int]:
    """The model, and its longest context."""
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from pipelines.plan.modules import build

    if not (folder / "config.json").is_file():
        files = sorted(folder.glob("*.gguf"))
        config = AutoConfig.from_pretrained(folder, gguf_file=files[0].name)
    else:
        values = architectures.transformers_values(folder, architectures.Shrink.parse(getattr(pipeline, "shrink", None)))
        kind = values.pop("model_type", None)
        if kind not in CONFIG_MAPPING:
            raise ConfigError(f"{str(folder / 'config.json')!r} is of model_type {kind!r}, which this transformers does not support")
        values.pop("quantization_config", None)
        for part in (values, values.get("text_config", {})):  # token ids may be beyond a shrunk vocabulary
            part.update(pad_token_id=None, bos_token_id=None, eos_token_id=None)
        config = CONFIG_MAPPING[kind].from_dict(values)
    return build(config, folder.name), getattr(config.get_text_config(), "max_position_embeddings", None) or 2**31


def _language_job(pipeline: Any, request: PlanRequest, model: LanguageModel, longest: int) -> Job:
    """Default lengths: prompt and answer fill the preset's context; with images, a prompt is one image and a question."""
    from pipelines.models.option_checks import DEFAULT_CONTEXT
    from pipelines.plan.language import Job

    batch = request.batch or int(getattr(pipeline, "batch_size", 1))
    answer = request.output_tokens or int(getattr(pipeline, "max_new_tokens", 256))
    own = getattr(pipeline, "context", None) or getattr(pipeline, "max_model_len", None)  # vLLM's name for it
    context = min(own or DEFAULT_CONTEXT, longest)
    prompt = int(request.input_tokens or (model.image.tokens + QUESTION_TOKENS if model.image else context - answer))
    if prompt < 1:
        raise ConfigError(f"answers of {answer:,} tokens leave no room for a prompt in a context of {context:,}; give --input-tokens")
    if prompt + answer > longest:
        raise ConfigError(f"prompts of {prompt:,} and answers of {answer:,} tokens are over the model's {longest:,}; give shorter ones")
    together = getattr(pipeline, "max_batch_tokens", None) or getattr(pipeline, "max_num_batched_tokens", None)
    if together is None:
        is_static = getattr(pipeline, "batching", None) == "static" or not isinstance(pipeline, StreamingPipeline)
        together = batch * prompt if is_static else max(prompt + answer, batch)
    assert request.attention is not None
    return Job(batch, prompt, answer, together, request.attention)


def _video_job(pipeline: Any, request: PlanRequest, index: Mapping[str, Any]) -> VideoJob:
    """An option that is not given has the library's default."""
    import diffusers

    from pipelines.plan.video import VideoJob

    defaults = inspect.signature(getattr(diffusers, str(index["_class_name"])).__call__).parameters

    def option(name: str) -> Any:
        value = getattr(pipeline, name, None)
        return value if value is not None else defaults[name].default

    frames, height, width, steps = (int(option(n)) for n in ("num_frames", "height", "width", "num_inference_steps"))
    guided, text_tokens = option("guidance_scale") > 1, int(option("max_sequence_length"))
    batch = request.batch or int(getattr(pipeline, "batch_size", 1))
    assert request.attention is not None
    return VideoJob(batch, frames, height, width, steps, guided, text_tokens, request.attention)


def _divisors(devices: int) -> list[int]:
    return [n for n in (1, 2, 4, 8) if devices % n == 0]


def _notes(config: RunConfig, request: PlanRequest, device: Device, layout: Layout, precision: str) -> Iterator[str]:
    yield f"{device.usable_bytes / 2**30:,.0f} of {device.memory_gib:g} GiB a device can be filled"
    for what, one in (("weights", precision), ("attention", request.attention or "bf16")):
        if (unit := PRECISIONS[one].unit) not in device.tflops:
            yield f"{request.device} has no unit for {unit}: {what} in {one} are computed in bf16"
    able = getattr(find("pipelines", config.pipeline_name), "parallelism", ())
    for name in ("tensor", "context", "cfg"):
        if getattr(layout, name) > 1 and name not in able:
            yield f"pipeline {config.pipeline_name!r} cannot split by {name}; another engine is needed"
