"""Times of one denoiser under different settings of `diffusers_t2v`, in one process.

The denoiser is that of Wan 2.1 1.3B with random weights. It is written to a folder once, as a checkpoint, because weights are quantised
while a checkpoint is read. Parts that are not measured are small: an encoder of two layers and a VAE with a sixth of the channels.
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.part import Job, NotRunError, not_run

if TYPE_CHECKING:
    import torch

    from pipelines.diffusers.t2v import DiffusersT2V

ARCHITECTURE = "wan2.1-t2v-1.3b"
CHECKPOINT_BYTES = 4e9  # of 1.419 B parameters and the small parts in 16 bits, with room
# 33 frames are 14,040 tokens, 142 TFLOP a step with both guidance passes: 0.4 s at 350 TFLOP/s.
FULL: dict[str, Any] = {"num_frames": 33, "height": 480, "width": 832, "max_sequence_length": 512}
SHRUNK: dict[str, Any] = {"num_frames": 5, "height": 32, "width": 48, "max_sequence_length": 16}
GUIDANCE = 5.0
# What a GPU would choose by itself is off, so that a row differs from the baseline in its own option alone.
PLAIN: dict[str, Any] = {
    "attention": "native",
    "compile": False,
    "guidance_batch": False,
    "vae_decode": "library",
    "vae_channels_last": False,
}


class Denoiser:
    """Makes pipelines from one checkpoint, and keeps the first one's frames and seconds as the baseline.

    last_effective: the effective settings of the last row.
    """

    def __init__(self, job: Job, num_steps: int) -> None:
        import torch
        from diffusers.utils import logging

        logging.set_verbosity_error()  # about settings that are tried on purpose
        self.device = torch.device(job.device)
        self._model = str(checkpoint(job, self.device))
        self._options = {**(SHRUNK if job.shrink else FULL), "num_inference_steps": num_steps, "guidance_scale": GUIDANCE}
        self._baseline: tuple[float, Any] | None = None
        self.last_effective: Mapping[str, str] = {}

    @contextmanager
    def loaded(self, **settings: Any) -> Iterator[DiffusersT2V]:
        """A pipeline with these settings, whose memory is freed afterwards. Raises ConfigError for settings that are not possible."""
        from pipelines.diffusers.t2v import DiffusersT2V

        pipeline = DiffusersT2V(model=self._model, **self._options, **PLAIN | settings)
        try:
            pipeline.load(self.device)
            yield pipeline
        finally:
            vars(pipeline).clear()  # several attributes hold the model
            free(self.device)

    def measure(self, pipeline: DiffusersT2V, warm: bool = True) -> dict[str, Any]:
        """Seconds of denoising a clip. The first pipeline is the baseline. warm: generate a clip before the one that is measured."""
        import numpy as np
        import torch

        from workloads.records import Query, Sample

        if self.device.type != "cpu":
            torch.cuda.reset_peak_memory_stats(self.device)
        seconds_each = []
        for _ in range(1 + warm):
            (response,) = pipeline.generate([Sample(0, "a red kite over the sea")], [Query(0, 0, 1)])
            seconds_each.append(response.stages["denoise"])
        assert response.video_THWC is not None
        seconds, frames = seconds_each[-1], response.video_THWC.astype(int)
        if self._baseline is None:
            self._baseline = (seconds, frames)
        base_s, base_frames = self._baseline
        figures: dict[str, Any] = {"ran": True, "denoise_s": seconds, "speed_up": base_s / seconds, "finite": response.finite}
        figures["mean_pixel_difference"] = float(np.abs(frames - base_frames).mean())  # of 255, from the baseline's clip
        if warm:
            figures["first_s"] = seconds_each[0]
        if self.device.type != "cpu":
            figures["peak_memory_bytes"] = torch.cuda.max_memory_allocated(self.device)
        return figures | {"fallbacks": list(pipeline.fallbacks())}

    def row(self, setting: str, warm: bool = True, **settings: Any) -> dict[str, Any]:
        """The figures with these settings, or why they cannot be run. setting: the name of the effective setting to report."""
        try:
            with self.loaded(**settings) as pipeline:
                figures = self.measure(pipeline, warm)
                self.last_effective = pipeline.effective()
                return figures | {setting: self.last_effective[setting]}
        except Exception as error:  # a refusal, or whatever a library raises if it lacks a kernel
            check_device(self.device, error)
            return not_run(f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}")


def check_device(device: torch.device, error: BaseException) -> None:
    """Raise the error again if the device no longer works in this process, as after an illegal memory access."""
    from benchmarks.gpu.timing import synchronise

    try:
        synchronise(device)
    except RuntimeError:
        raise error from None


def free(device: torch.device) -> None:
    import torch

    gc.collect()
    if device.type != "cpu":
        torch.cuda.empty_cache()


def checkpoint(job: Job, device: torch.device) -> Path:
    """The checkpoint's folder, written if it does not exist yet. Raises NotRunError if the disk is too full."""
    import torch

    from pipelines.models.random_weights import video_pipeline

    folder = Path(job.folder) / "wan"
    if (folder / "model_index.json").is_file():
        return folder
    if not job.shrink and (room := shutil.disk_usage(job.folder).free) < CHECKPOINT_BYTES:
        raise NotRunError(
            f"{job.folder} has {room / 1e9:.1f} GB free; a checkpoint takes {CHECKPOINT_BYTES / 1e9:.1f} GB. Set TMPDIR to a larger disk."
        )
    shrink = {"layers": 2, "width": "1/12", "vocabulary": 320} if job.shrink else None
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    pipeline = video_pipeline(str(_outline(Path(job.folder) / "wan-outline")), shrink, "embedded", device, dtype).model
    partial = folder.with_name("wan.partial")
    pipeline.save_pretrained(partial)
    partial.rename(folder)
    del pipeline
    free(device)
    return folder


def _outline(folder: Path) -> Path:
    """The published architecture with a small encoder and VAE."""
    from pipelines.models.architectures import folder_of

    shutil.copytree(folder_of(ARCHITECTURE), folder, dirs_exist_ok=True)
    for part, less in (("text_encoder", {"num_layers": 2, "num_decoder_layers": 2, "vocab_size": 512}), ("vae", {"base_dim": 16})):
        file = folder / part / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | less), encoding="utf-8")
    return folder


def summary(rows: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {row['speed_up']:.2f}x{'' if row['finite'] else ' NOT FINITE'}" if row["ran"] else f"{name} not run"
        for name, row in rows.items()
    )
