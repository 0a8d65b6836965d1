"""Scores of the embedded text-to-video model for its card: `python -m pipelines.embedded.training.t2v.score`.

Each setting has the same captions and seeds. Videos are converted to uint8 pixels, as saved ones are. Captions come from a seed that
training never used. Prints a table and one JSON line.
"""

from __future__ import annotations

import copy
import functools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import typer
from scipy import stats

from pipelines.embedded.training.t2v.vae import to_clips, to_model
from pipelines.models.embedded import VIDEO
from workloads.records import query_seed
from workloads.t2v import draw_captions
from workloads.world.checker import check_clip
from workloads.world.scenes import Split, render

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan

SEED = 7
BATCH = 20
STEP_COUNTS = {f"{n} steps": n for n in (1, 2, 4, 8, 20)}
EVERY_SET: tuple[tuple[str, Split], ...] = (("simple", "train"), ("simple", "held_out"), ("rich", "train"), ("rich", "held_out"))


def main(
    model: Annotated[Path, typer.Option(help="A diffusers folder.")] = VIDEO,
    prompts: Annotated[int, typer.Option(help="Captions of the simple grade, half of them held out; rich has half as many.")] = 200,
    guidance: Annotated[float, typer.Option(help="guidance_scale.")] = 2.0,
    only: Annotated[str | None, typer.Option(help="Score only this setting, such as '8 steps'.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
) -> None:
    """Score the model at several step counts, under caching, and with damaged weights."""
    torch.set_num_threads(threads)
    from diffusers import WanPipeline

    pipe = WanPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    print(f"{'setting':28} {'grade':7} {'split':9}   n   all  [95 % interval]  " + "each attribute")
    rows = []
    for name, changed, options in _settings(pipe):
        if only is None or name == only:
            for grade, split in EVERY_SET if name in STEP_COUNTS else EVERY_SET[:1]:
                count = prompts // (2 if grade == "simple" else 4)
                rows.append(_row(name, changed(), grade, split, count, {"guidance_scale": guidance, **options}))
    print(json.dumps(rows))


def round_trip(vae: AutoencoderKLWan, count: int = 200) -> dict[str, dict[str, float]]:
    """Shares of attributes that are right after encoding and decoding clips, by grade: the limit of any denoiser."""
    shares = {}
    for grade in ("simple", "rich"):
        verdicts = []
        for start in range(0, count, BATCH):
            drawn = draw_captions(grade, count, "any", SEED)[start : start + BATCH]
            clips = np.stack([render(scene, np.random.default_rng((SEED, start + i))) for i, (scene, _) in enumerate(drawn)])
            with torch.no_grad():
                back = to_clips(vae.decode(vae.encode(to_model(clips)).latent_dist.mode()).sample)
            verdicts += [check_clip(clip, text) for clip, (_, text) in zip(back, drawn, strict=True)]
        shares[grade] = _shares(verdicts)
    return shares


def _settings(pipe: Any) -> Iterator[tuple[str, Callable[[], Any], dict[str, Any]]]:
    """Name, the pipeline to use, and the call's options."""
    from diffusers import FirstBlockCacheConfig

    for name, steps in STEP_COUNTS.items():
        yield name, lambda: pipe, {"num_inference_steps": steps}
    yield "8 steps, default padding", lambda: pipe, {"num_inference_steps": 8, "max_sequence_length": 512}
    for threshold in (0.2, 0.8):

        def cached(threshold: float = threshold) -> Any:
            for denoiser in (pipe.transformer, pipe.transformer_2):
                if denoiser.is_cache_enabled:
                    denoiser.disable_cache()
                denoiser.enable_cache(FirstBlockCacheConfig(threshold=threshold))
            return pipe

        yield f"20 steps, first-block cache {threshold}", cached, {"num_inference_steps": 20}
    for denoiser in (pipe.transformer, pipe.transformer_2):
        if denoiser.is_cache_enabled:
            denoiser.disable_cache()
    for bits in (8, 4, 3, 2):
        yield f"8 steps, int{bits} weights", functools.partial(_rounded, pipe, bits), {"num_inference_steps": 8}
    yield "8 steps, last 2 blocks cut", lambda: _truncated(pipe, 2), {"num_inference_steps": 8}


def _row(name: str, pipe: Any, grade: str, split: Split, count: int, options: dict[str, Any]) -> dict[str, Any]:
    drawn = draw_captions(grade, count, split, SEED)
    verdicts, started = [], time.monotonic()
    for begin in range(0, count, BATCH):
        texts = [text for _, text in drawn[begin : begin + BATCH]]
        generators = [torch.Generator().manual_seed(query_seed(SEED, begin + i)) for i in range(len(texts))]
        call = {"height": 48, "width": 48, "num_frames": 9, "max_sequence_length": 64, "output_type": "np", **options}
        with torch.inference_mode():
            frames = pipe(prompt=texts, generator=generators, **call).frames
        clips = np.rint(np.nan_to_num(frames).clip(0, 1) * 255).astype(np.uint8)
        verdicts += [check_clip(clip, text) for clip, text in zip(clips, texts, strict=True)]
    shares = _shares(verdicts)
    low, high = stats.binomtest(round(shares["all"] * count), count).proportion_ci(method="wilson")
    each = "  ".join(f"{k} {v:.3f}" for k, v in shares.items() if k != "all")
    seconds = time.monotonic() - started
    print(f"{name:28} {grade:7} {split:9} {count:3} {shares['all']:.3f} [{low:.3f}, {high:.3f}]  {each}  ({seconds:.0f} s)", flush=True)
    return {"setting": name, "grade": grade, "split": split, "n": count, "ci95": [round(float(low), 4), round(float(high), 4)], **shares}


def _shares(verdicts: list[dict[str, bool]]) -> dict[str, float]:
    shares = {name: sum(v[name] for v in verdicts) / len(verdicts) for name in verdicts[0]}
    return {"all": sum(all(v.values()) for v in verdicts) / len(verdicts)} | shares


def _rounded(pipe: Any, bits: int) -> Any:
    """A copy whose denoisers' matrices are rounded to 2^bits levels a row."""
    rounded = _copy_with_denoisers(pipe)
    levels = 2 ** (bits - 1) - 1 if bits > 2 else 1
    for denoiser in (rounded.transformer, rounded.transformer_2):
        for block in denoiser.blocks:
            for module in block.modules():
                if isinstance(module, torch.nn.Linear):
                    scale = module.weight.data.abs().amax(1, keepdim=True) / levels
                    module.weight.data = (module.weight.data / scale).round().clamp(-levels - 1, levels) * scale
    return rounded


def _truncated(pipe: Any, count: int) -> Any:
    """A copy whose denoisers lack their last `count` blocks."""
    cut = _copy_with_denoisers(pipe)
    for denoiser in (cut.transformer, cut.transformer_2):
        denoiser.blocks = denoiser.blocks[:-count]
    return cut


def _copy_with_denoisers(pipe: Any) -> Any:
    parts = {**pipe.components, "transformer": copy.deepcopy(pipe.transformer), "transformer_2": copy.deepcopy(pipe.transformer_2)}
    copied = type(pipe)(**parts, boundary_ratio=pipe.config.boundary_ratio)
    copied.set_progress_bar_config(disable=True)
    return copied


if __name__ == "__main__":
    typer.run(main)
