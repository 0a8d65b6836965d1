"""The rules of each family of diffusers video pipelines for its options. diffusers silently ignores or rounds most violations.

They are read from the loaded pipeline: the factors of its VAE and patches, its call's signature, its class's source. An option that it
would ignore or round, or that would crash it during a run, is refused here by name. Frame rates are from the families' model cards, where
the call has none.

family        clip sizes         frames      guidance                          negative prompt
Wan           8 x patch 2        4 n + 1     two passes                        with guidance_scale above 1
Wan 2.2 5B    16 x patch 2       4 n + 1     two passes                        the same
LTX-Video     32                 8 n + 1     one batch of both                 the same
CogVideoX     8 x patch 2        8 n + 1     one batch of both                 the same
HunyuanVideo  8 x patch 2        4 n + 1     a number that the denoiser sees   with true_cfg_scale above 1: two passes
Mochi         8 x patch 2        6 n + 1     one batch of both                 with guidance_scale above 1

CogVideoX's VAE decodes the first frame separately only where the number of latent frames is odd: for 5 requested frames it makes 8
(diffusers 0.42).
"""

from __future__ import annotations

import inspect
import math
import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from configs.errors import ConfigError, unknown

CALL_OPTIONS = (  # options that are passed to diffusers' call under the same name
    "num_frames",
    "height",
    "width",
    "num_inference_steps",
    "guidance_scale",
    "guidance_scale_2",
    "true_cfg_scale",
    "negative_prompt",
    "max_sequence_length",
)
SET_BY_US = (
    "prompt",
    "image",
    "generator",
    "latents",
    "frame_rate",
    "output_type",
    "return_dict",
    "num_videos_per_prompt",
    "attention_kwargs",
)
FRAME_RATES = {"Wan": 16.0, "CogVideoX": 8.0, "HunyuanVideo": 24.0, "Mochi": 30.0}
DEFAULT_FRAME_RATE = 16.0
DROPPED_FRAMES = 4  # HunyuanVideo's image pipeline cuts off this many where it concatenates image and latents (latent_concat)


class VideoFamily:
    """The rules of one loaded pipeline. model: its name in error messages. given: the call options that are set. extra: as the option."""

    def __init__(self, pipe: Any, model: str, given: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
        self.pipe, self.name, self._model = pipe, type(pipe).__name__, model
        self._parameters = inspect.signature(pipe.__call__).parameters
        self._given, self._extra = given, extra
        self._source = inspect.getsource(type(pipe))
        self._denoiser = getattr(pipe, "transformer", None) or getattr(pipe, "transformer_2", None) or getattr(pipe, "unet", None)

    @property
    def takes_image(self) -> bool:
        return "image" in self._parameters and "conditions" not in self._parameters

    @property
    def one_image_a_call(self) -> bool:
        """Whether the call takes one image only: Wan's encodes a batch of images once for each generator (diffusers 0.42)."""
        return self.takes_image and self.name.startswith("Wan")

    @property
    def frame_rate(self) -> float:
        if "frame_rate" in self._parameters:
            return float(self._parameters["frame_rate"].default)
        if self._config("patch_size_t") is not None and self.name.startswith("CogVideoX"):
            return 16.0  # CogVideoX 1.5
        if self._pipe_config("expand_timesteps"):
            return 24.0  # Wan 2.2 5B
        return next((rate for name, rate in FRAME_RATES.items() if self.name.startswith(name)), DEFAULT_FRAME_RATE)

    @property
    def is_guided(self) -> bool:
        """Whether each step is computed without the prompt too, in a second pass or in the same batch."""
        if "true_cfg_scale" in self._parameters:
            return self.value("true_cfg_scale") > 1 and self._given.get("negative_prompt") is not None
        scale = self.value("guidance_scale")
        return scale is None or scale > 1

    @property
    def guides_in_two_named_passes(self) -> bool:
        return 'cache_context("uncond"' in self._source

    def value(self, name: str) -> Any:
        """The option's value, or the default of the call, or of the checkpoint's configuration."""
        if name in self._given:
            return self._given[name]
        default = self._parameters[name].default if name in self._parameters else None
        if default is None and name in ("height", "width") and hasattr(self.pipe, f"default_{name}"):
            return getattr(self.pipe, f"default_{name}")
        if default is None and name in ("height", "width") and (size := self._config(f"sample_{name}")):
            return size * self._factor("spatial")
        if default is None and name == "num_frames":
            return self._config("sample_frames")
        return None if default is inspect.Parameter.empty else default

    def check(self, workload: str, batch_size: int, first_frame: str) -> None:
        """Refuse options that this family would ignore or round, or that would crash it. Raises ConfigError."""
        if (
            "prompt" not in self._parameters
            or self._denoiser is None
            or ("video" in self._parameters and "conditions" not in self._parameters)
        ):
            raise ConfigError(f"model {self._model!r} is a {self.name}, which is not a text-to-video pipeline.")
        for option in self._given:
            if option not in self._parameters:
                raise ConfigError(f"model {self._model!r} is a {self.name}, which has no option {option!r}. Leave it out.")
        self._check_workload(workload, batch_size, first_frame)
        self._check_guidance()
        self._check_sizes()
        self._check_text()
        self._check_extra()
        if self.takes_image and batch_size > 1:
            if getattr(getattr(self.pipe.vae, "config", None), "timestep_conditioning", False):
                raise ConfigError(self._batch_size_error(batch_size, "draws one noise for the decoding of a batch"))
            if "true_cfg_scale" in self._parameters and self.is_guided:
                raise ConfigError(self._batch_size_error(batch_size, "uses one black image for the guidance pass of the whole batch"))

    def check_parallel(self, context: int, cfg: int) -> None:
        """Refuse a split over ranks that this family does not support. Raises ConfigError."""
        if cfg == 2:
            self.check_two_passes("parallel.cfg is 2")
        plan = getattr(self._denoiser, "_cp_plan", None) or {}
        if context > 1 and "encoder_attention_mask" in plan.get("", {}):
            raise ConfigError(
                f"parallel.context is {context}, but diffusers 0.42 splits the attention mask of a {self.name}'s text, and its attention "
                "fails. Leave it out."
            )

    def check_two_passes(self, what: str) -> None:
        """Refuse an option that needs two separate guidance passes a step. what: the option, at the start of the message."""
        if not self.guides_in_two_named_passes:
            one_batch = "cond_uncond" in self._source
            how = "makes both guidance passes in one batch" if one_batch else "does not distinguish its guidance passes"
            raise ConfigError(f"{what}, but a {self.name} {how}. Leave it out.")
        if not self.is_guided:
            name = next(n for n in ("true_cfg_scale", "guidance_scale") if n in self._parameters)
            raise ConfigError(f"{what}, but with {name} {self.value(name)} there is no second guidance pass. Leave it out.")

    def arguments(self, num_queries: int, fps: float) -> dict[str, Any]:
        """Arguments of the call beside prompts, images and generators."""
        arguments = {**self._given, **self._extra}
        if "negative_prompt" in arguments:
            arguments["negative_prompt"] = [arguments["negative_prompt"]] * num_queries
        if "frame_rate" in self._parameters:
            arguments["frame_rate"] = fps
        if self.dropped_frames and "num_frames" in arguments:
            arguments["num_frames"] += self.dropped_frames
        return arguments

    @property
    def dropped_frames(self) -> int:
        """Frames that the pipeline makes and does not return."""
        return DROPPED_FRAMES if self.takes_image and self._config("image_condition_type") == "latent_concat" else 0

    def check_size(self, num_frames: int, height: int, width: int) -> None:
        """Refuse a clip that has not the requested size. Raises ConfigError."""
        for option, made in (("num_frames", num_frames), ("height", height), ("width", width)):
            if option in self._given and self._given[option] != made:
                raise ConfigError(
                    f"pipeline 'diffusers_t2v': {option} is {self._given[option]}, but {self._model!r} made {made}. Request what it makes."
                )

    def num_tokens(self) -> int | None:
        """The number of tokens of one clip in its transformer; None where it is not known."""
        sizes = [self.value(n) for n in ("num_frames", "height", "width")]
        across, along = self._factor("spatial"), self._factor("temporal")
        if across is None or along is None or any(size is None for size in sizes):
            return None
        patch_t, *patch = self._patch()
        frames = (sizes[0] - 1) // along + 1
        return int((frames // patch_t) * (sizes[1] // across // patch[0]) * (sizes[2] // across // patch[1]))

    def _check_workload(self, workload: str, batch_size: int, first_frame: str) -> None:
        if first_frame == "held":
            if workload != "i2v":
                raise ConfigError(f"option 'first_frame' is 'held', but workload {workload!r} has no images. Leave it out.")
            if self.name != "WanPipeline" or self._pipe_config("expand_timesteps"):
                raise ConfigError(
                    f"option 'first_frame' is 'held', which needs a WanPipeline with one timestep a pass; model {self._model!r} is a "
                    f"{self.name}. Leave it out."
                )
            return
        if workload == "t2v" and self.takes_image:
            raise ConfigError(f"model {self._model!r} is a {self.name}, which needs an image. Use --workload i2v.")
        if workload == "i2v" and not self.takes_image:
            raise ConfigError(
                f"model {self._model!r} is a {self.name}, which takes no image. Give the family's image-to-video checkpoint, "
                "use --workload t2v, or set first_frame: held for a Wan."
            )
        if workload == "i2v" and self.one_image_a_call and batch_size > 1:
            raise ConfigError(self._batch_size_error(batch_size, "takes one image a call"))

    def _check_guidance(self) -> None:
        given = self._given
        if given.get("guidance_scale_2") is not None and self._pipe_config("boundary_ratio") is None:
            raise ConfigError(f"model {self._model!r} has one expert, so option 'guidance_scale_2' has no effect. Leave it out.")
        if "true_cfg_scale" in self._parameters:
            scale = self.value("true_cfg_scale")
            if (given.get("negative_prompt") is not None) != (scale > 1):
                raise ConfigError(
                    f"model {self._model!r} is a {self.name}, whose guidance needs a true_cfg_scale above 1 and a negative_prompt: "
                    f"true_cfg_scale is {scale}, negative_prompt is {given.get('negative_prompt')!r}. Give both, or neither."
                )
            if "guidance_scale" in given and self._config("guidance_embeds") is False:
                raise ConfigError(
                    f"model {self._model!r} has no guidance embeddings, so option 'guidance_scale' has no effect. Leave it out."
                )
        elif given.get("negative_prompt") and not self.is_guided:
            raise ConfigError(
                f"option 'negative_prompt' has no effect where guidance_scale is {self.value('guidance_scale')}. "
                "Set guidance_scale above 1, or leave it out."
            )

    def _check_sizes(self) -> None:
        across, along = self._factor("spatial"), self._factor("temporal")
        patch_t, *patch = self._patch()
        checked = re.search(r"height % (\d+)", self._source)  # what the call itself requires
        minimum = int(checked[1]) if checked else 1
        for name, cut in (("height", patch[0]), ("width", patch[1])):
            value = self._given.get(name)
            if across and value and value % (multiple := math.lcm(across * cut, minimum)):
                raise ConfigError(f"pipeline 'diffusers_t2v': {name} must be a multiple of {multiple} for {self._model!r}, got {value}.")
        frames = self._given.get("num_frames")
        if along and frames:
            multiple = along * (2 if self.name.startswith("CogVideoX") else patch_t)
            if (frames - 1) % multiple:
                raise ConfigError(
                    f"pipeline 'diffusers_t2v': num_frames must be a multiple of {multiple}, plus 1, for {self._model!r}, got {frames}."
                )

    def _check_text(self) -> None:
        """CogVideoX 2B has learned positions for a fixed number of text tokens. Raises ConfigError."""
        length, positions = self._given.get("max_sequence_length"), self._config("max_text_seq_length")
        if length and positions and length != positions and not self._config("use_rotary_positional_embeddings"):
            raise ConfigError(
                f"pipeline 'diffusers_t2v': max_sequence_length must be {positions} for {self._model!r}, got {length}. Leave it out."
            )

    def _check_extra(self) -> None:
        hints = typing.get_type_hints(type(self.pipe).__call__)
        known = [
            n
            for n in self._parameters
            if n not in (*SET_BY_US, *CALL_OPTIONS) and "torch" not in str(hints.get(n)) and "callback" not in n and "image" not in n
        ]
        for name, value in self._extra.items():
            if name in CALL_OPTIONS:
                raise ConfigError(f"pipeline 'diffusers_t2v': option 'extra' contains {name!r}, which is an option itself.")
            if name not in known:
                raise ConfigError(f"pipeline 'diffusers_t2v': option 'extra', for a {self.name}: {unknown('parameter', name, known)}")
            _check_type(name, value, hints.get(name, Any))

    def _batch_size_error(self, batch_size: int, why: str) -> str:
        return f"pipeline 'diffusers_t2v': batch_size must be 1, got {batch_size}: a {self.name} {why}."

    def _factor(self, axis: str) -> int | None:
        """Pixels, or frames, for each latent."""
        names = (f"vae_scale_factor_{axis}", f"vae_{axis}_scale_factor", f"vae_{axis}_compression_ratio")
        return next((int(factor) for n in names if (factor := getattr(self.pipe, n, None))), None)

    def _patch(self) -> tuple[int, int, int]:
        """Latents for each token: frames, height, width."""
        patch, patch_t = self._config("patch_size"), self._config("patch_size_t")
        if isinstance(patch, Sequence) and len(patch) == 3:
            return int(patch[0]), int(patch[1]), int(patch[2])
        across = int(patch[-1] if isinstance(patch, Sequence) else patch or 1)
        return int(patch_t or 1), across, across

    def _config(self, name: str) -> Any:
        return getattr(getattr(self._denoiser, "config", None), name, None)

    def _pipe_config(self, name: str) -> Any:
        return getattr(self.pipe.config, name, None)


def _check_type(name: str, value: Any, hint: Any) -> None:
    from pydantic import TypeAdapter, ValidationError

    try:
        TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise ConfigError(f"pipeline 'diffusers_t2v': option 'extra', {name} is {value!r}: {reason[0].lower() + reason[1:]}") from None
