"""Reads requests for videos: JSON, or the form that OpenAI's client sends. Settings that equal the effective ones are accepted."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from pipelines.base import Pipeline
from pipelines.serving.bodies.conversation import read_image
from pipelines.serving.bodies.fields import arrived, check_model, json_body, read_seed, unknown_fields
from pipelines.serving.engine import Question
from pipelines.serving.errors import BadRequestError

SETTINGS = ("negative_prompt", "num_frames", "fps", "num_inference_steps", "guidance_scale", "guidance_scale_2", "max_sequence_length")
OWN = ("model", "prompt", "seed", "size", "seconds", "user", "input_reference")
TEXTS = ("model", "prompt", "negative_prompt", "size", "user", "input_reference")  # of a form; the others are numbers
OPTIONS = {"size": "pipeline.width=.. --set pipeline.height", "seconds": "pipeline.num_frames"}


async def video_body(request: web.Request) -> dict[str, Any]:
    """The fields of a request. A file is given as its bytes."""
    if request.content_type == "application/json":
        return await json_body(request)
    fields: dict[str, Any] = {}
    for name, value in (await arrived(request.post())).items():
        if isinstance(value, web.FileField):
            fields[name] = value.file.read()
        else:
            fields[name] = str(value) if name in TEXTS else _number(str(value))
    return fields


def read_video_question(body: Mapping[str, Any], pipeline: Pipeline, model: str, more: tuple[str, ...]) -> tuple[Question, list[str]]:
    """The question, and warnings. more: further fields that are known."""
    warnings = unknown_fields(body, (*OWN, *SETTINGS, *more))
    check_model(body, model)
    prompt = body.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise BadRequestError("give a prompt, a text", "prompt")
    _check_settings(body, pipeline)
    return Question(prompt, read_seed(body), _images(body, pipeline)), warnings


def _images(body: Mapping[str, Any], pipeline: Pipeline) -> tuple[bytes, ...]:
    """The first frame: a file of a form, a data: URL, or {"image_url": data: URL}."""
    reference = body.get("input_reference")
    if pipeline.workload != "i2v":
        if reference is not None:
            raise BadRequestError("this server makes videos from texts alone; serve workload i2v for input_reference", "input_reference")
        return ()
    if reference is None:
        raise BadRequestError(
            "this server makes videos from an image and a text: give input_reference, a file or a data: URL", "input_reference"
        )
    if isinstance(reference, bytes):
        return (reference,)
    return (read_image(reference.get("image_url") if isinstance(reference, Mapping) else reference, "input_reference"),)


def _check_settings(body: Mapping[str, Any], pipeline: Pipeline) -> None:
    """Settings are the pipeline's; a request may only repeat the effective ones."""
    width, height = getattr(pipeline, "width", None), getattr(pipeline, "height", None)
    frames, fps = getattr(pipeline, "num_frames", None), getattr(pipeline, "fps", None)
    effective = {name: getattr(pipeline, name, None) for name in SETTINGS}
    effective["size"] = f"{width}x{height}" if width and height else None
    effective["seconds"] = int(frames / fps) if frames and fps else None
    for name, value in effective.items():
        if body.get(name) is not None and body[name] != value and str(body[name]) != str(value):
            shown = "its own" if value is None else repr(value)
            option = OPTIONS.get(name, f"pipeline.{name}")
            raise BadRequestError(
                f"{name} is {body[name]!r:.80}, but this server has {shown} for all; leave it out, or start it with --set {option}=..", name
            )


def _number(text: str) -> Any:
    """The value of a form's field, which is sent as text."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text
