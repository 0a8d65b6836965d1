"""Any diffusers pipeline that makes videos from text, or from an image and text, by hub name or local folder."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from configs.errors import ConfigError, first_line
from configs.registry import register
from pipelines.base import Pipeline, Response
from pipelines.models.checkpoint import check_diffusers_folder
from pipelines.models.embedded import VIDEO
from pipelines.models.option_checks import check_positive
from workloads.records import Query, Sample

if TYPE_CHECKING:
    import torch


@register("diffusers_t2v")
@dataclass
class DiffusersT2V(Pipeline):
    """Options carry diffusers' own names; None leaves the pipeline's own default.

    model: `embedded` (the trained model that comes with the suite), a folder written by save_pretrained, or a hub name.
    dtype: of all weights; `auto` is float32 on a CPU and bfloat16 on a GPU. compile: torch.compile the denoiser's repeated blocks.
    fps: of the saved file, and what LTX-Video is told; the family's own where not given. true_cfg_scale: of HunyuanVideo. extra: further
    arguments of diffusers' call, such as LTX-Video's decode_timestep. What a family does with its options: pipelines/diffusers/families.py.
    first_frame: how a given image gets into the clip: `trained`, by an image-to-video model; `held`, in a Wan that was trained on text
    alone (held_frame.py). A given image is fitted to height and width by workloads/readers/image_file.py.
    These take a name, or a mapping with `name` and parameters: cache (denoiser_caches.py), quantisation (quantised_weights.py), offload
    (offloading.py), scheduler (scheduler_choice.py); the first two are for the denoisers alone. attention: a backend of
    attention_backends.py, for the denoisers. lora: adapters of lora_weights.py. guidance_batch: both guidance passes of a step in one
    batch, where the pipeline makes two. vae_split: each rank of a replica decodes a part of the picture, with vae_overlap latents that
    its neighbours decode as well. weights: `random` draws the `architecture` (a name of
    configs/architectures, or a folder) instead of reading a checkpoint, less what `shrink` takes off it (models/architectures.py);
    `model` is then whose tokenizer is used, where it is at hand.
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
    offload: str | dict[str, Any] | None = None
    compile: bool = False
    attention: str | None = None
    cache: str | dict[str, Any] | None = None
    quantisation: str | dict[str, Any] | None = None
    scheduler: str | dict[str, Any] | None = None
    lora: str | dict[str, Any] | list[str | dict[str, Any]] | None = None
    guidance_batch: bool = False

    workloads: ClassVar[tuple[str, ...]] = ("t2v", "i2v")
    parallelism: ClassVar[tuple[str, ...]] = ("context", "cfg")

    _pipe: Any = field(default=None, init=False, repr=False)
    _images: Any = field(default=None, init=False, repr=False)
    _family: Any = field(default=None, init=False, repr=False)
    _clock: Any = field(default=None, init=False, repr=False)
    _facts: dict[str, str] = field(default_factory=dict, init=False, repr=False)
    _cache: Any = field(default=None, init=False, repr=False)
    _quantisation: Any = field(default=None, init=False, repr=False)
    _attention: Any = field(default=None, init=False, repr=False)
    _scheduler: Any = field(default=None, init=False, repr=False)
    _lora: Any = field(default=None, init=False, repr=False)
    _offload: Any = field(default=None, init=False, repr=False)
    _batches: list[Any] = field(default_factory=list, init=False, repr=False)
    _vae_split: Any = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.architecture or self.shrink or self.weights == "random":
            from pipelines.models.random_weights import check_options

            check_options("diffusers_t2v", self.weights, self.architecture, self.shrink)
        check_positive("diffusers_t2v", self, ("num_frames", "height", "width", "num_inference_steps", "batch_size", "fps"))
        if self.cache not in (None, "none"):
            from pipelines.diffusers.speedups.cache import BY_BATCH, DenoiserCache

            self._cache = DenoiserCache(self.cache)
            if self.first_frame == "held":
                raise ConfigError(
                    f"{self._cache.what} goes by steps that follow one another, and first_frame: held takes several at one noise level; "
                    "leave one of them out"
                )
            if self._cache.name in BY_BATCH and self.batch_size > 1:
                self.repeats = "in_batch"
        if self.quantisation not in (None, "none"):
            from pipelines.diffusers.speedups.quantisation import Quantisation

            self._quantisation = Quantisation(self.quantisation)
        if self.attention is not None:
            from pipelines.diffusers.speedups.attention import AttentionBackend

            self._attention = AttentionBackend(self.attention)
        if self.scheduler is not None:
            from pipelines.diffusers.speedups.scheduler import SchedulerChoice

            self._scheduler = SchedulerChoice(self.scheduler)
            if self.first_frame == "held":
                raise ConfigError(
                    f"{self._scheduler.what} and first_frame 'held' do not go together: that has steps of its own; leave one out"
                )
        if self.lora is not None:
            from pipelines.diffusers.speedups.lora import LoraWeights

            self._lora = LoraWeights(self.lora)
        if self.offload not in (None, "none"):
            from pipelines.diffusers.speedups.offload import Offload

            self._offload = Offload(self.offload)
        if self.vae_overlap < 0:
            raise ConfigError(f"pipeline 'diffusers_t2v': option 'vae_overlap' is {self.vae_overlap}; it must not be below 0")

    def load(self, device: torch.device) -> None:
        import torch
        from diffusers.utils import logging

        from pipelines.diffusers.stage_timer import StageClock

        if self._offload:
            self._offload.check(device)
        logging.disable_progress_bar()
        folder = self._folder()
        dtype = getattr(torch, self._dtype_name(device))
        try:
            kind: Any = self._class_of(folder) if self.weights == "pretrained" else None
            special = self._check_speedups(folder, device, dtype)
            if self.weights == "random":
                self._draw(torch.device("cpu") if self._offload else device, dtype, special)
            else:
                self._pipe = kind.from_pretrained(folder, dtype=dtype, revision=self.revision, use_safetensors=True, **special)
        except ConfigError:
            raise
        except Exception as error:  # diffusers, transformers, safetensors and the hub raise many kinds
            reason = first_line(error)
            how = f", with quantisation {self._quantisation.name!r}" if self._quantisation else ""
            raise ConfigError(f"model {self.model!r} cannot be loaded{how}: {reason}; give a diffusers folder or a hub name") from error
        if self.architecture and self.weights == "pretrained":
            from pipelines.models.architectures import check_denoiser_match

            check_denoiser_match(self._pipe, self.architecture, self.model)
        self._refuse_what_it_cannot_do()
        self.fps = self.fps or self._family.frame_rate
        self._pipe.set_progress_bar_config(disable=True)
        self._speed_up()
        if self._offload:
            self._offload.apply(self._pipe, device)
        else:
            self._pipe.to(device)
        if self.vae_tiling:
            self._pipe.vae.enable_tiling()
        if self.vae_slicing:
            self._pipe.vae.enable_slicing()
        self._enable_cache(device)
        self._spread_over_ranks()
        if self.compile:
            for denoiser in self._denoisers():
                denoiser.compile_repeated_blocks()
        self._clock = StageClock(device)
        self._clock.install(self._pipe)

    def generate(self, samples: Sequence[Sample], queries: Sequence[Query]) -> Sequence[Response]:
        import torch

        generators = [torch.Generator("cpu").manual_seed(q.seed) for q in queries]
        kind = "np" if self.replica.leads or self.vae_split else "latent"  # nobody needs a follower's clip
        arguments = {"prompt": [s.prompt for s in samples], "generator": generators, "output_type": kind, **self._arguments(len(queries))}
        if self._images is not None:
            try:
                arguments |= self._images.arguments(samples, generators)
            except ValueError as error:
                return [Response(error=str(error)) for _ in samples]
        if "callback_on_step_end" in self._accepted():
            arguments["callback_on_step_end"] = self._clock.step_end
        if self._cache:
            self._cache.start()
        self._clock.start()
        with torch.inference_mode():
            frames = self._pipe(**arguments).frames
        if not self.replica.leads:
            return []
        frames_BTHWC = np.asarray(frames)
        self._family.check_made(*frames_BTHWC.shape[1:4])
        stages, step_s = self._clock.stages()
        responses = []
        for frames_THWC in frames_BTHWC:
            finite = bool(np.isfinite(frames_THWC).all())
            pixels = np.rint(np.nan_to_num(frames_THWC).clip(0, 1) * 255).astype(np.uint8)
            responses.append(
                Response(video_THWC=pixels, fps=self.fps or 0, stages=stages, step_s=step_s, num_units=len(pixels), finite=finite)
            )
        return responses

    def effective(self) -> Mapping[str, str]:
        from pipelines.diffusers.speedups import attention as attention_backends
        from pipelines.diffusers.speedups import cache as denoiser_caches
        from pipelines.diffusers.speedups import quantisation as quantised_weights

        denoisers = self._named_denoisers()
        scheduler = self._scheduler.in_force(self._pipe) if self._scheduler else type(self._pipe.scheduler).__name__
        return {
            "pipeline": type(self._pipe).__name__,
            "scheduler": scheduler,
            "dtype": str(self._denoisers()[0].dtype).removeprefix("torch."),
            "attention": attention_backends.in_force(denoisers),
            "quantisation": quantised_weights.in_force(denoisers),
            "cache": self._cache.in_force(self.batch_size) if self._cache else denoiser_caches.in_force(denoisers),
            "compiled": str(self._is_compiled()),
            "experts": str(len(denoisers)),
            **({"lora": self._lora.in_force()} if self._lora else {}),
            **({"guidance": "both passes in one batch"} if any(b.num_batched for b in self._batches) else {}),
            **({"vae": f"split over {self.replica.size} ranks"} if self._vae_split and self._vae_split.num_split else {}),
            **self._facts,
            **(self._images.facts() if self._images is not None else {}),
            **self._parallelism(),
        }

    def fallbacks(self) -> Sequence[str]:
        found = []
        effective = self.effective()
        if self.dtype != "auto" and effective["dtype"] != self.dtype:
            found.append(f"dtype is {effective['dtype']}, not {self.dtype}")
        if self.compile and not self._is_compiled():
            found.append("no block of the denoiser is compiled")
        if self.vae_tiling and not getattr(self._pipe.vae, "use_tiling", False):
            found.append("the VAE does not tile")
        if self.vae_slicing and not getattr(self._pipe.vae, "use_slicing", False):
            found.append("the VAE does not slice")
        if self.guidance_batch and not any(batch.num_batched for batch in self._batches):
            found.append("option guidance_batch: no step made both of its passes in one batch")
        if self._vae_split and not self._vae_split.num_split:
            found.append("option vae_split: nothing was decoded by several ranks")
        if self._cache:
            found += self._cache.fallbacks()
        for part in (self._quantisation, self._attention):
            found += part.fallbacks(self._named_denoisers()) if part else []
        found += self._scheduler.fallbacks(self._pipe) if self._scheduler else []
        found += self._lora.fallbacks() if self._lora else []
        found += self._offload.fallbacks(self._pipe, self._named_denoisers()) if self._offload else []
        return found

    def _folder(self) -> str:
        """Where the configuration is read from, and the weights unless they are drawn; a hub name as it is."""
        if self.weights == "random":
            from pipelines.models.architectures import folder_of

            return str(folder_of(str(self.architecture)))
        folder = str(VIDEO) if self.model == "embedded" else self.model
        if Path(folder).exists() or self.model == "embedded":
            check_diffusers_folder(Path(folder))
        return folder

    def _draw(self, device: torch.device, dtype: torch.dtype, special: Mapping[str, Any]) -> None:
        from pipelines.models.random_weights import video_pipeline

        if special:
            assert self._quantisation is not None
            raise ConfigError(f"quantisation {self._quantisation.name!r} is made while a checkpoint is read; it needs weights: pretrained")
        self._pipe, _, self._facts = video_pipeline(str(self.architecture), self.shrink, self.model, device, dtype)

    def _dtype_name(self, device: torch.device) -> str:
        if self.dtype != "auto":
            return self.dtype
        return "float32" if device.type == "cpu" else "bfloat16"

    def _given(self) -> dict[str, Any]:
        """The call's options that were set."""
        from pipelines.diffusers.families import CALL_OPTIONS

        return {n: getattr(self, n) for n in CALL_OPTIONS if getattr(self, n) is not None}

    def _arguments(self, num_queries: int) -> dict[str, Any]:
        assert self.fps is not None
        return dict(self._family.arguments(num_queries, self.fps))

    def _check_speedups(self, folder: str, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """Refuse what this model or device cannot do, before its weights are read; what loading has to be given."""
        if not (self._cache or self._quantisation or self._attention or self.guidance_batch):
            return {}
        from pipelines.diffusers.outline import read_outline

        outline, settings = read_outline(folder, self.revision), self.replica.settings
        if self._cache:
            self._cache.check(outline, settings.context, settings.cfg)
        if self._attention:
            if settings.context > 1 and settings.context_kind == "ring":
                raise ConfigError("parallel.context_kind is 'ring', which has a kernel of its own; leave out option 'attention'")
            self._attention.check(outline, device, dtype, settings.context)
        if self.guidance_batch and not outline.guides_in_two_passes:
            raise ConfigError(
                f"model {self.model!r} makes both guidance passes in one batch already, or has one; leave out 'guidance_batch'"
            )
        if self.guidance_batch and settings.cfg > 1:
            raise ConfigError("parallel.cfg is 2, which makes the two guidance passes on two ranks; leave out option 'guidance_batch'")
        if self._quantisation:
            self._quantisation.check(outline, device, dtype, self._offload.name if self._offload else "none")
            return dict(self._quantisation.for_loading(outline, folder, self.revision, dtype))
        return {}

    def _class_of(self, folder: str) -> Any:
        """The class that reads the checkpoint, with the library at hand that quantised weights of it need."""
        from pipelines.diffusers.outline import glance
        from pipelines.diffusers.speedups.quantised_files import know_quark

        seen = glance(folder, self.revision)
        if "quark" in seen.quantised.values():
            know_quark(f"model {self.model!r}, whose denoisers AMD's Quark has quantised,")
        return seen.pipeline

    def _speed_up(self) -> None:
        """What is done to the pipeline's parts once they are there, and before they go to the device."""
        denoisers = self._named_denoisers()
        if self._scheduler:
            self._scheduler.apply(self._pipe, self._family.value("num_inference_steps") or 1)
        if self._lora:
            self._lora.apply(self._pipe, denoisers)
        if self._quantisation:
            self._quantisation.apply(denoisers)
        if self._attention:
            self._attention.apply(denoisers)

    def _enable_cache(self, device: torch.device) -> None:
        import torch

        if not self._cache:
            return

        def answer(prompt: str, seed: int) -> None:
            generator = torch.Generator("cpu").manual_seed(seed)
            image = self._images.stand_in(generator) if self._images is not None else {}
            given = {"prompt": [prompt], "generator": [generator], "output_type": "latent"}
            with torch.inference_mode():
                self._pipe(**given | self._arguments(1) | image)

        num_steps = self._family.value("num_inference_steps") or 1
        self._cache.enable(self._pipe, self._named_denoisers(), num_steps, self._family.is_guided, device, answer)

    def _spread_over_ranks(self) -> None:
        from pipelines.diffusers.speedups.guidance import GuidanceBatch
        from pipelines.diffusers.speedups.parallel import SplitGuidance, split_tokens
        from pipelines.diffusers.speedups.vae import SplitDecode

        settings = self.replica.settings
        self._family.check_parallel(settings.context, settings.cfg)
        if self.guidance_batch:
            self._family.check_two_passes("option 'guidance_batch' is on")
        for denoiser in self._denoisers():
            if settings.context > 1:
                split_tokens(denoiser, self.replica, self._family.num_tokens())
            if settings.cfg == 2:
                SplitGuidance(denoiser, self.replica)
            if self.guidance_batch:
                self._batches.append(GuidanceBatch(denoiser))
        if self.vae_split:
            self._vae_split = SplitDecode(self._pipe.vae, self.replica, self.vae_overlap)

    def _parallelism(self) -> dict[str, str]:
        """What splits the denoisers over ranks, read from them."""
        settings, found = self.replica.settings, []
        configs = [getattr(getattr(d, "_parallel_config", None), "context_parallel_config", None) for d in self._denoisers()]
        if degrees := {(c.ulysses_degree, c.ring_degree) for c in configs if c is not None}:
            found += [f"context {u * r} ({'ring' if r > 1 else 'ulysses'})" for u, r in sorted(degrees)]
        if settings.cfg == 2:
            found.append("cfg 2")
        return {"parallel": ", ".join(found)} if found else {}

    def _accepted(self) -> set[str]:
        return set(inspect.signature(self._pipe.__call__).parameters)

    def _denoisers(self) -> list[Any]:
        return list(self._named_denoisers().values())

    def _named_denoisers(self) -> dict[str, Any]:
        parts = {name: getattr(self._pipe, name, None) for name in ("transformer", "transformer_2", "unet")}
        return {name: part for name, part in parts.items() if part is not None}

    def _is_compiled(self) -> bool:
        return any(getattr(m, "_compiled_call_impl", None) is not None for d in self._denoisers() for m in d.modules())

    def _refuse_what_it_cannot_do(self) -> None:
        """An option that this pipeline would ignore is refused, by name."""
        from pipelines.diffusers.families import VideoFamily
        from pipelines.diffusers.image_input import GivenImages

        self._family = VideoFamily(self._pipe, self.model, self._given(), self.extra or {})
        self._family.check(self.workload or "t2v", self.batch_size, self.first_frame)
        if self.workload == "i2v":
            self._images = GivenImages(self._family, self.first_frame)
        for option, method in (("vae_tiling", "enable_tiling"), ("vae_slicing", "enable_slicing")):
            if getattr(self, option) and not hasattr(self._pipe.vae, method):
                raise ConfigError(f"model {self.model!r} has a VAE without option {option!r}; leave it out")
        if self.compile and not all(getattr(d, "_repeated_blocks", None) for d in self._denoisers()):
            raise ConfigError(f"model {self.model!r} names no repeated blocks to compile; leave out option 'compile'")
