"""Does it fit, and how fast can it be at most? From a preset and a device's peak figures, without weights and without the device.

Memory is counted for the fullest device of a replica. Times are roofs: each piece of work takes at least as long as its products need at
peak speed, its bytes at peak bandwidth, and what changes hands at the links' peak, whichever is longest. Nothing runs at all its
peaks, so that a ceiling is not a forecast; a measured figure above it is wrong, and its share of it says what is left.
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
USUAL = ("bf16", "fp8", "mxfp4")  # precisions that are shown beside the chosen one
QUESTION_TOKENS = 256  # of text, beside an image's, where a prompt's length is not given


@dataclass(frozen=True)
class Asked:
    """What the command line says; None leaves what the preset says.

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
    """chosen: what the preset asks for. candidates: it and its alternatives. figures: what holds on any device; notes: what was assumed."""

    preset: str
    asked: Asked
    device: Device
    job: Job | VideoJob
    figures: Mapping[str, Any]
    chosen: Candidate
    candidates: Sequence[Candidate]
    notes: Sequence[str]

    @property
    def would_fit(self) -> list[Candidate]:
        """In place of the chosen one: the fewest devices in its precision, the widest precision in its layout, the fewest of all."""
        fitting = sorted(
            (c for c in self.candidates if c.fits), key=lambda c: (c.layout.size, c.layout.offload, -PRECISIONS[c.precision].bits)
        )
        groups = (
            [c for c in fitting if c.precision == self.chosen.precision],
            [c for c in fitting if c.layout == self.chosen.layout],
            fitting,
        )
        return list({str(group[0]): group[0] for group in groups if group}.values())


def plan(config: RunConfig, preset: str, asked: Asked) -> Plan:
    """Raises ConfigError where the device is not known, the preset has no architecture, or the devices do not make whole replicas."""
    device = find_device(asked.device, asked.devices_file)
    pipeline = make("pipelines", config.pipeline_name, config.pipeline_options)
    precision = check_precision(asked.precision) if asked.precision else _precision(pipeline)
    asked = replace(asked, attention=check_precision(asked.attention) if asked.attention else _kv_precision(pipeline))
    for name in ("devices", "batch", "input_tokens", "output_tokens"):
        value = getattr(asked, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} is {value}; it must be above 0")
    layout = _layout(config, pipeline, asked)
    folder = _folder(config.pipeline_name, config.workload, pipeline, preset)
    if (folder / "model_index.json").is_file():
        return _plan_video(config, preset, asked, device, pipeline, precision, layout, folder)
    return _plan_language(config, preset, asked, device, pipeline, precision, layout, folder)


def _plan_language(
    config: RunConfig, preset: str, asked: Asked, device: Device, pipeline: Any, precision: str, layout: Layout, folder: Path
) -> Plan:
    from pipelines.plan import language

    if layout.context > 1 or layout.cfg > 1:
        raise ConfigError("a language model is split by parallel.tensor alone; leave out parallel.context and parallel.cfg")
    model, longest = _language_model(pipeline, folder)
    job = _language_job(pipeline, asked, model, longest)
    wanted = dict.fromkeys([precision, *USUAL])
    layouts = dict.fromkeys([layout, *(Layout(tensor=n) for n in _divisors(asked.devices))])
    found = {(p, one): model.candidate(job, p, one, asked.devices, device) for p in wanted for one in sorted(layouts)}
    notes = [
        f"every query has {job.input_tokens:,} tokens of prompt and {job.output_tokens:,} of answer (--input-tokens, --output-tokens)",
        f"matrices of the layers are in {precision}; embeddings, routers, norms"
        + (" and the vision tower" if model.image else "")
        + " in bf16",
        f"KV cache and attention's products are in {job.kv_precision} (--attention)",
        "activations are an estimate; every expert is taken to be asked alike" if model.experts else "activations are an estimate",
    ]
    if model.image:
        notes.append(f"every prompt has one image of {model.image.patches:,} patches, {model.image.tokens:,} tokens")
    elif model.vision:
        notes.append("images are left out: their tower is not one that a plan can count")
    figures = language.figures(model, job, precision)
    notes += _notes(config, asked, device, layout, precision)
    return Plan(preset, asked, device, job, figures, found[precision, layout], list(found.values()), notes)


def _plan_video(
    config: RunConfig, preset: str, asked: Asked, device: Device, pipeline: Any, precision: str, layout: Layout, folder: Path
) -> Plan:
    from pipelines.plan import video

    if config.workload == "i2v":
        raise ConfigError(f"{preset!r} is of workload 'i2v'; a plan counts what text to video takes, and no images")
    if layout.tensor > 1:
        raise ConfigError("a video model is split by parallel.context and parallel.cfg; leave out parallel.tensor")
    if asked.input_tokens or asked.output_tokens:
        raise ConfigError("--input-tokens and --output-tokens are for language models; leave them out")
    index = architectures.read(folder, "model_index.json")
    shrink = architectures.Shrink.parse(getattr(pipeline, "shrink", None))
    model = video.build(architectures.diffusers_values(folder, shrink), index, folder.name)
    job = _video_job(pipeline, asked, index)
    splits = [Layout(cfg=cfg, context=n) for n in _divisors(asked.devices) for cfg in (1, 2) if asked.devices % (n * cfg) == 0]
    both = [layout._replace(offload=False), layout._replace(offload=True)]
    splits = [s._replace(offload=layout.offload) for s in splits if s.cfg == 1 or job.guided]
    wanted = [(precision, one) for one in (*splits, *both)] + [(p, one) for p in USUAL for one in both]
    found = {(p, one): model.candidate(job, p, one, asked.devices, device) for p, one in dict.fromkeys([*wanted, (precision, layout)])}
    notes = [
        f"{job.num_frames} frames of {job.width} x {job.height}, {job.num_inference_steps} steps, "
        + ("two guidance passes a step" if job.guided else "no guidance"),
        f"matrices of the denoisers' blocks are in {precision}, all else in bf16",
        f"attention's products are in {job.attention} (--attention)",
        "the VAE decodes on one device of a replica",
        "offload: the text encoder, each expert and the VAE are on the device by turns, once a batch",
    ]
    figures = video.figures(model, job, precision)
    notes += _notes(config, asked, device, layout, precision)
    return Plan(preset, asked, device, job, figures, found[precision, layout], list(found.values()), notes)


def _layout(config: RunConfig, pipeline: Any, asked: Asked) -> Layout:
    """What the run would do. Raises ConfigError where the devices do not make whole replicas."""
    parallel, offload = config.parallel, getattr(pipeline, "offload", "none")
    if offload == "sequential":
        raise ConfigError("a plan knows pipeline.offload none and model; sequential keeps next to nothing on the device")
    layout = Layout(parallel.tensor, parallel.context, parallel.cfg, offload == "model")
    if asked.devices % layout.size:
        raise ConfigError(
            f"{asked.devices} devices do not make whole replicas of {layout.size} ({layout}); give a multiple with --devices, "
            "or another layout, such as --set parallel.tensor=1"
        )
    return layout


def _folder(name: str, workload: str, pipeline: Any, preset: str) -> Path:
    """Where the architecture is described. Raises ConfigError where that is nowhere on this machine."""
    if architecture := getattr(pipeline, "architecture", None):
        return architectures.folder_of(architecture)
    model = getattr(pipeline, "model", None)
    if not isinstance(model, str):
        raise ConfigError(f"{preset!r} has no model to plan for: pipeline {name!r} holds none; known architectures: {_known()}")
    if model == "smollm2-135m":
        from pipelines.models.packaged_weights import smollm2

        return smollm2()[0]
    path = models_of(workload).get(model, Path(model))
    if (path / "config.json").is_file() or (path / "model_index.json").is_file():
        return Path(path)
    raise ConfigError(
        f"model {model!r} is no folder with a config.json or a model_index.json, and a plan downloads nothing; name what it is built like: "
        f"--set pipeline.architecture=NAME (known: {_known()}), or give a local folder"
    )


def _known() -> str:
    return ", ".join(architectures.names())


def _precision(pipeline: Any) -> str:
    """Of the weights, as the pipeline's options have it. vLLM spells it with a z; of both, a format's own name says what it is."""
    for name in ("quantisation", "quantization"):
        asked = getattr(pipeline, name, None)
        if isinstance(asked, str) and asked in PRECISIONS:
            return asked
        if asked not in (None, "none"):
            raise ConfigError(
                f"pipeline.{name} is {asked!r}; say what precision to plan it as: --precision, one of {', '.join(PRECISIONS)}"
            )
    return DTYPES.get(getattr(pipeline, "dtype", "auto"), "bf16")


def _kv_precision(pipeline: Any) -> str:
    """Of the KV cache, where the pipeline has an option for it; else bf16. vLLM knows several kinds of fp8."""
    asked = getattr(pipeline, "kv_cache_dtype", "auto")
    found = "fp8" if asked.startswith("fp8") else DTYPES.get(asked)
    if found is None:
        raise ConfigError(
            f"pipeline.kv_cache_dtype is {asked!r}; say what precision to plan it as: --attention, one of {', '.join(PRECISIONS)}"
        )
    return found


def _language_model(pipeline: Any, folder: Path) -> tuple[LanguageModel, int]:
    """And the longest context that it knows."""
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
            raise ConfigError(f"{str(folder / 'config.json')!r} is of model_type {kind!r}, which this transformers does not know")
        values.pop("quantization_config", None)
        for part in (values, values.get("text_config", {})):  # whose tokens may be more than a shrunk vocabulary has
            part.update(pad_token_id=None, bos_token_id=None, eos_token_id=None)
        config = CONFIG_MAPPING[kind].from_dict(values)
    return build(config, folder.name), getattr(config.get_text_config(), "max_position_embeddings", None) or 2**31


def _language_job(pipeline: Any, asked: Asked, model: LanguageModel, longest: int) -> Job:
    """Where lengths are not given: as many tokens as the preset's context has; with images, what one has and a question."""
    from pipelines.models.option_checks import DEFAULT_CONTEXT
    from pipelines.plan.language import Job

    batch = asked.batch or int(getattr(pipeline, "batch_size", 1))
    answer = asked.output_tokens or int(getattr(pipeline, "max_new_tokens", 256))
    own = getattr(pipeline, "context", None) or getattr(pipeline, "max_model_len", None)  # vLLM's name for it
    context = min(own or DEFAULT_CONTEXT, longest)
    prompt = int(asked.input_tokens or (model.image.tokens + QUESTION_TOKENS if model.image else context - answer))
    if prompt < 1:
        raise ConfigError(f"answers of {answer:,} tokens leave no room for a prompt in a context of {context:,}; give --input-tokens")
    if prompt + answer > longest:
        raise ConfigError(f"prompts of {prompt:,} and answers of {answer:,} tokens are over the model's {longest:,}; give shorter ones")
    together = getattr(pipeline, "max_batch_tokens", None) or getattr(pipeline, "max_num_batched_tokens", None)
    if together is None:
        is_static = getattr(pipeline, "batching", None) == "static" or not isinstance(pipeline, StreamingPipeline)
        together = batch * prompt if is_static else max(prompt + answer, batch)
    assert asked.attention is not None
    return Job(batch, prompt, answer, together, asked.attention)


def _video_job(pipeline: Any, asked: Asked, index: Mapping[str, Any]) -> VideoJob:
    """Where an option is not given, the library's own default."""
    import diffusers

    from pipelines.plan.video import VideoJob

    defaults = inspect.signature(getattr(diffusers, str(index["_class_name"])).__call__).parameters

    def option(name: str) -> Any:
        given = getattr(pipeline, name, None)
        return given if given is not None else defaults[name].default

    frames, height, width, steps = (int(option(n)) for n in ("num_frames", "height", "width", "num_inference_steps"))
    guided, text_tokens = option("guidance_scale") > 1, int(option("max_sequence_length"))
    batch = asked.batch or int(getattr(pipeline, "batch_size", 1))
    assert asked.attention is not None
    return VideoJob(batch, frames, height, width, steps, guided, text_tokens, asked.attention)


def _divisors(devices: int) -> list[int]:
    return [n for n in (1, 2, 4, 8) if devices % n == 0]


def _notes(config: RunConfig, asked: Asked, device: Device, layout: Layout, precision: str) -> Iterator[str]:
    yield f"{device.usable_bytes / 2**30:,.0f} of {device.memory_gib:g} GiB a device can be filled"
    for what, one in (("weights", precision), ("attention", asked.attention or "bf16")):
        if (unit := PRECISIONS[one].unit) not in device.tflops:
            yield f"{asked.device} has no unit for {unit}: {what} in {one} are computed in bf16"
    able = getattr(find("pipelines", config.pipeline_name), "parallelism", ())
    for name in ("tensor", "context", "cfg"):
        if getattr(layout, name) > 1 and name not in able:
            yield f"pipeline {config.pipeline_name!r} cannot split by {name}; an engine that can is needed"
