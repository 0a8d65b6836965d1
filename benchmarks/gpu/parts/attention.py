"""Speed-ups of diffusers' attention backends, of those that are installed, not of those from a hub; and of what the suite chooses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.gpu import denoising
from benchmarks.gpu.part import Job, Keep, not_run

STEPS = 4
LEAST_S = 4.0
# Left out: those from a hub, of variable length, and of other hardware; `_native_math` and uncompiled `flex`, which store all scores.
CHOSEN: dict[str, dict[str, Any]] = {
    "attention chosen by the trial": {"attention": None},
    "both guidance passes in one batch": {"guidance_batch": True},
    "all defaults": {"attention": None, "compile": None, "guidance_batch": None, "vae_decode": None, "vae_channels_last": None},
}
BACKENDS = ("_native_flash", "_native_efficient", "_native_cudnn", "flash", "_flash_3", "sage", "xformers")


def measure(job: Job, keep: Keep) -> None:
    denoiser = denoising.Denoiser(job, STEPS)
    rows: dict[str, Any] = {}
    with denoiser.loaded() as pipeline:
        rows["native"] = denoiser.measure(pipeline)
        keep("backends", rows)
        for name in BACKENDS:
            rows[name] = _row(denoiser, pipeline, name) if job.left_s > (0.2 if job.shrink else LEAST_S) else not_run("no time was left")
            keep("backends", rows)
    chosen: dict[str, Any] = {}
    for option, settings in CHOSEN.items():
        enough = job.left_s > (0.2 if job.shrink else LEAST_S)
        chosen[option] = denoiser.row("attention", **settings) if enough else not_run("no time was left")
        if chosen[option]["ran"]:
            chosen[option]["choice"] = {name: text for name, text in denoiser.last_effective.items() if name.endswith("_choice")}
        keep("chosen", chosen)


def summary(figures: Mapping[str, Any]) -> str:
    return denoising.summary(figures.get("backends", {}) | figures.get("chosen", {}))


def _row(denoiser: denoising.Denoiser, pipeline: Any, name: str) -> dict[str, Any]:
    """Measure one backend, then reset it: diffusers keeps the backend for the whole process, and a bad one breaks every later model."""
    network = pipeline._pipe.transformer
    try:
        network.set_attention_backend(name)
        return denoiser.measure(pipeline) | {"attention": pipeline.effective()["attention"]}
    except Exception as error:  # whatever a library raises if it, or one of its kernels, is missing
        denoising.check_device(denoiser.device, error)
        return not_run(f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}")
    finally:
        network.set_attention_backend("native")
