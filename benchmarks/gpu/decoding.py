"""Times of one video VAE's decode: the library's, and with each of the suite's options for it, in the pipeline that is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from benchmarks.gpu import mfu
from benchmarks.gpu.denoising import check_device, free
from benchmarks.gpu.part import Job, not_run

if TYPE_CHECKING:
    import torch

LEAST_S = 12.0  # that must be left to start another row


def rows(
    pipe: Any, job: Job, sizes: Mapping[str, int], flops: float, ceiling: float | None, keep: Callable[[dict[str, Any]], None]
) -> None:
    """Keep a row for each way: seconds, MFU, speed-up over the library's, and the difference of the frames. sizes: of the clip."""
    import torch

    from pipelines.diffusers.speedups.vae import lay_out
    from pipelines.diffusers.trials.timing import difference, seconds_each
    from pipelines.diffusers.wan_decoder import WanDecoder, frames_at_once

    vae, device = pipe.vae, torch.device(job.device)
    frames = (sizes["num_frames"] - 1) // pipe.vae_scale_factor_temporal + 1
    shape = (1, vae.config.z_dim, frames, *(sizes[name] // pipe.vae_scale_factor_spatial for name in ("height", "width")))
    z = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device, vae.dtype)
    memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 8 * 10**9
    most = frames_at_once(vae, 1, sizes["height"], sizes["width"], memory)
    ways: dict[str, tuple[bool, str]] = {
        "library": (False, ""),
        "library, channels last": (True, ""),
        "chunks": (False, "chunks"),
        "chunks, channels last": (True, "chunks"),
        "compiled, channels last": (True, "compiled"),
    }
    vars(vae).pop("_decode", None)  # what the pipeline has chosen
    found: dict[str, Any] = {}
    expected: torch.Tensor | None = None
    for name, (last, how) in ways.items():
        if device.type == "cpu" and how == "compiled" and "wan" not in job.named:
            found[name] = not_run("on a CPU it compiles for most of a minute; run it with --only wan")
        elif job.left_s < (0.5 if job.shrink else LEAST_S):
            found[name] = not_run("no time was left")
        if name in found:
            keep(found)
            continue
        lay_out(vae, last)
        decoder = WanDecoder(vae, most, how == "compiled") if how else None
        try:
            with torch.inference_mode():
                out = vae.decode(z, return_dict=False)[0]
                expected = out if expected is None else expected
                seconds = seconds_each(lambda: vae.decode(z, return_dict=False), device, 1.0)
            found[name] = {"ran": True, "difference": difference(expected, out)} | mfu.work(flops, seconds, ceiling)
            found[name]["speed_up"] = found["library"]["seconds"] / seconds
        except Exception as error:  # whatever a library raises if it lacks a kernel or memory
            check_device(device, error)
            found[name] = not_run(f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}")
        if decoder is not None:
            decoder.restore()
        free(device)
        keep(found)
