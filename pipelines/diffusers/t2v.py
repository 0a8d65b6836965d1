"""Any diffusers pipeline that makes videos from text, or from an image and text, by hub name or local folder."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from configs.errors import ConfigError, first_line
from configs.registry import register
from pipelines.base import Pipeline, Response
from pipelines.models.checkpoint import check_diffusers_folder
from pipelines.models.embedded import VIDEO
from pipelines.models.option_checks import check_positive
from pipelines.models.tensors import tensors_checked
from workloads.records import Query, Sample

if TYPE_CHECKING:
    import torch

    from pipelines.diffusers.speedups.base import SpeedUp, Target


@register("diffusers_t2v")
@dataclass
class DiffusersT2V(Pipeline):
    """Makes videos with any of diffusers' video pipelines. Options have diffusers' names; None is the pipeline's own default.

    model: `embedded` (the trained model that comes with the suite), a folder written by save_pretrained, or a hub name.
    weights: `random` draws the `architecture` (a name of configs/architectures, or a folder), reduced by `shrink`
    (pipelines/models/architectures.py), and reads no checkpoint; only the tokenizer of `model` is then used, where it is available.
    dtype: of all weights; `auto` is float32 on a CPU and bfloat16 on a GPU. true_cfg_scale: of HunyuanVideo. extra: further arguments of
    diffusers' call, such as LTX-Video's decode_timestep. Rules of each family for these options: families.py.
    fps: frame rate of the saved file, and an argument of LTX-Video's call; the family's own where not given.
    first_frame: how an image becomes the first frame: `trained`, by an image-to-video model; `held`, in a Wan trained on text alone
    (held_frame.py). Images are fitted to height and width by workloads/readers/image_file.py.
    The options from vae_tiling on are speed-ups, each described in its file of speedups/. cache, quantisation, offload, scheduler and lora
    take a name or path, or a mapping with `name` or `path` and parameters.
    revision: of the model on the hub. architecture: what `weights: random` draws. shrink: factors that make it smaller. num_frames: of a
    clip. height, width: in pixels. num_inference_steps: denoising steps. guidance_scale: weight of the prompt; 1 makes no guidance pass.
    guidance_scale_2: the same for the second expert, of low noise. negative_prompt: what the guidance pass is conditioned on.
    max_sequence_length: tokens of the prompt that the text encoder reads. batch_size: clips generated together. vae_tiling: decode in
    spatial tiles, which needs less memory. vae_slicing: decode one clip of a batch at a time. vae_split: decode parts of the picture on
    the ranks of a replica. vae_overlap: latents that neighbouring parts of vae_split share. vae_decode: how Wan's VAE is run; None: what is
    fastest on a GPU, the library's on a CPU. vae_channels_last: layout of its convolutions; None: on a GPU. offload: keep weights on the
    host until they are needed. compile: torch.compile of the denoisers' repeated blocks; None: where quantisation needs it on a GPU.
    attention: backend of the denoisers; None: the fastest of a trial on a GPU. cache: reuse of the denoisers' work between steps.
    quantisation: of the denoisers' weights. scheduler: another of diffusers' schedulers. lora: adapters of the denoisers. guidance_batch:
    both guidance passes of a step in one batch; None: where a trial on a GPU says that it is faster. rocm: libraries of AMD GPUs.
    """

    model: str = "embedded"
    revision: str | None = None
    weights: Literal["pretrained", "random"] = "pretrained"
    architecture: str | None = None
    shrink: dict[str, Any] | None = None
    num_frames: int | None = None
    height: int | None = None
    width: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_scale_2: float | None = None
    true_cfg_scale: float | None = None
    negative_prompt: str | None = None
    max_sequence_length: int | None = None
    extra: dict[str, Any] | None = None
    fps: float | None = None
    first_frame: Literal["trained", "held"] = "trained"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    batch_size: int = 1
    vae_tiling: bool = False
    vae_slicing: bool = False
    vae_split: bool = False
    vae_overlap: int = 4
    vae_decode: Literal["library", "chunks", "compiled"] | None = None
    vae_channels_last: bool | None = None
    offload: str | dict[str, Any] | None = None
    compile: bool | None = None
    attention: str | None = None
    cache: str | dict[str, Any] | None = None
    quantisation: str | dict[str, Any] | None = None
    scheduler: str | dict[str, Any] | None = None
    lora: str | dict[str, Any] | list[str | dict[str, Any]] | None = None
    guidance_batch: bool | None = None
    rocm: dict[str, Any] | None = None

    workloads: ClassVar[tuple[str, ...]] = ("t2v", "i2v")
    parallelism: ClassVar[tuple[str, ...]] = ("context", "cfg")

    _pipe: Any = field(default=None, init=False, repr=False)
    _negative: Any = field(default=None, init=False, repr=False)
    _images: Any = field(default=None, init=False, repr=False)
    _family: Any = field(default=None, init=False, repr=False)
    _timer: Any = field(default=None, init=False, repr=False)
    _facts: dict[str, str] = field(default_factory=dict, init=False, repr=False)
    _speed_ups: list[Any] = field(default_factory=list, init=False, repr=False)
    _loaded: Any = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        from pipelines.diffusers.speedups.order import SPEED_UPS

        if self.architecture or self.shrink or self.weights == "random":
            from pipelines.models.random_weights import check_options

            check_options("diffusers_t2v", self.weights, self.architecture, self.shrink)
        check_positive("diffusers_t2v", self, ("num_frames", "height", "width", "num_inference_steps", "batch_size", "fps"))
        self._speed_ups = [kind(self) for kind in SPEED_UPS]
        if any(one.depends_on_batch for one in self._speed_ups):
            self.repeats = "in_batch"

    def load(self, device: torch.device) -> None:
        import torch
        from diffusers.utils import logging

        from pipelines.diffusers.families import CALL_OPTIONS, VideoFamily
        from pipelines.diffusers.image_input import ImageInput
        from pipelines.diffusers.negative_prompt import encode_once
        from pipelines.diffusers.outline import DENOISERS
        from pipelines.diffusers.speedups.base import Loaded, Target
        from pipelines.diffusers.stage_timer import StageTimer

        logging.disable_progress_bar()
        dtype = self.dtype if self.dtype != "auto" else "float32" if device.type == "cpu" else "bfloat16"
        self._read(Target(self._folder(), self.revision, device, getattr(torch, dtype)))
        if self.architecture and self.weights == "pretrained":
            from pipelines.models.architectures import check_denoiser_match

            check_denoiser_match(self._pipe, self.architecture, self.model)
        given = {name: value for name in CALL_OPTIONS if (value := getattr(self, name)) is not None}
        self._family = VideoFamily(self._pipe, self.model, given, self.extra or {})
        self._family.check(self.workload or "t2v", self.batch_size, self.first_frame)
        if self.workload == "i2v":
            self._images = ImageInput(self._family, self.first_frame)
        self.fps = self.fps or self._family.frame_rate
        self._pipe.set_progress_bar_config(disable=True)
        denoisers = {name: part for name in DENOISERS if (part := getattr(self._pipe, name, None)) is not None}
        self._loaded = Loaded(self._pipe, denoisers, self._family, device, self._generate_one, self._step)
        self._negative = encode_once(self._pipe) if self._family.is_guided else None
        for one in self._requested():
            one.apply(self._loaded)
        self._timer = StageTimer(device)
        self._timer.install(self._pipe)

    def generate(self, samples: Sequence[Sample], queries: Sequence[Query]) -> Sequence[Response]:
        import torch

        from pipelines.diffusers.pixels import to_pixels

        generators = [torch.Generator("cpu").manual_seed(q.seed) for q in queries]
        kind = "pt" if self.replica.leads or self.vae_split else "latent"  # only the leader returns clips
        arguments = {"prompt": [s.prompt for s in samples], "generator": generators, "output_type": kind}
        arguments |= self._family.arguments(len(queries), self.fps)
        if self._images is not None:
            try:
                arguments |= self._images.arguments(samples, generators)
            except ValueError as error:
                return [Response(error=str(error)) for _ in samples]
        if "callback_on_step_end" in inspect.signature(self._pipe.__call__).parameters:
            arguments["callback_on_step_end"] = self._timer.step_end
        for one in self._requested():
            one.start_batch()
        self._timer.start()
        with torch.inference_mode():
            frames_BTCHW = self._pipe(**arguments).frames
            if not self.replica.leads:
                return []
            clips = to_pixels(frames_BTCHW)
        self._family.check_size(*clips[0].pixels_THWC.shape[:3])
        stages, step_s = self._timer.stages()
        made = {"fps": self.fps or 0, "stages": stages, "step_s": step_s}
        return [Response(video_THWC=one.pixels_THWC, num_units=len(one.pixels_THWC), finite=one.finite, **made) for one in clips]

    def effective(self) -> Mapping[str, str]:
        texts = {one.entry: one.effective(self._loaded) for one in self._speed_ups}
        return {
            "pipeline": type(self._pipe).__name__,
            "dtype": self._effective_dtype(),
            "experts": str(len(self._loaded.denoisers)),
            **{entry: text for entry, text in texts.items() if text is not None},
            **{entry: text for one in self._requested() for entry, text in one.notes(self._loaded).items()},
            **({"negative_prompt": "encoded once for all queries"} if self._negative else {}),
            **self._facts,
            **(self._images.effective() if self._images is not None else {}),
        }

    def fallbacks(self) -> Sequence[str]:
        dtype = self._effective_dtype()
        wrong = [f"dtype is {dtype}, not {self.dtype}"] if self.dtype not in ("auto", dtype) else []
        return wrong + [text for one in self._requested() for text in one.fallbacks(self._loaded)]

    def _folder(self) -> str:
        """Where the configuration is read from, and the weights unless they are drawn; a hub name as it is."""
        if self.weights == "random":
            from pipelines.models.architectures import folder_of

            return str(folder_of(str(self.architecture)))
        folder = str(VIDEO) if self.model == "embedded" else self.model
        if Path(folder).exists() or self.model == "embedded":
            check_diffusers_folder(Path(folder))
        return folder

    def _read(self, target: Target) -> None:
        """Read the pipeline, or draw it, once every requested speed-up has been checked. Raises ConfigError."""
        import torch

        from pipelines.diffusers.outline import read_class
        from pipelines.diffusers.speedups.base import name_of
        from pipelines.diffusers.speedups.quantised_files import register_quark

        requested, special, how = self._requested(), dict[str, Any](), ""
        try:
            if self.weights == "pretrained":
                checkpoint = read_class(target.folder, self.revision)
                if "quark" in checkpoint.quantised.values():
                    register_quark(f"model {self.model!r}, whose denoisers AMD's Quark has quantised,")
            for one in requested:
                one.check(target)
            for one in requested:
                if given := one.for_loading(target):
                    special |= given
                    how += f", with {one.option} {name_of(one.value)!r}"
            if self.weights == "random":
                from pipelines.models.random_weights import video_pipeline

                place = torch.device("cpu") if self.offload not in (None, "none") else target.device
                self._pipe, _, self._facts = video_pipeline(str(self.architecture), self.shrink, self.model, place, target.dtype)
            else:
                with tensors_checked(self.model) as checked:
                    self._pipe = checkpoint.pipeline.from_pretrained(
                        target.folder, dtype=target.dtype, revision=self.revision, use_safetensors=True, **special
                    )
                known = {id(part) for part in (*checked, *special.values())}
                parts = {name: part for name, part in self._pipe.components.items() if isinstance(part, torch.nn.Module)}
                if others := [name for name, part in parts.items() if id(part) not in known]:  # of another library's classes
                    self._facts["tensors"] = f"not checked against the configuration: {', '.join(others)}"
        except ConfigError:
            raise
        except Exception as error:  # diffusers, transformers, safetensors and the hub raise many kinds
            raise ConfigError(
                f"model {self.model!r} cannot be loaded{how}: {first_line(error)}; give a diffusers folder or a hub name"
            ) from error

    def _requested(self) -> list[SpeedUp]:
        return [one for one in self._speed_ups if one.requested]

    def _generate_one(self, prompt: str, seed: int) -> None:
        """Make one clip's latents, for a speed-up that calibrates."""
        self._latents([prompt], seed)

    def _step(self, num_clips: int) -> torch.Tensor:
        """The latents of so many clips after one denoising step, for a speed-up that tries what is fastest."""
        return self._latents(["a red disc moves slowly to the right"] * num_clips, 0, num_inference_steps=1)

    def _latents(self, prompts: Sequence[str], seed: int, **changes: Any) -> torch.Tensor:
        """B latents, as the denoiser leaves them."""
        import torch

        generators = [torch.Generator("cpu").manual_seed(seed + i) for i in range(len(prompts))]
        image = self._images.for_calibration(generators) if self._images is not None else {}
        given = {"prompt": list(prompts), "generator": generators, "output_type": "latent"}
        with torch.inference_mode():
            latents: torch.Tensor = self._pipe(**given | self._family.arguments(len(prompts), self.fps) | image | changes).frames
        return latents

    def _effective_dtype(self) -> str:
        return str(next(iter(self._loaded.denoisers.values())).dtype).removeprefix("torch.")
