"""A plan as a table for people and a line for programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from configs.output import open_console, styled
from pipelines.plan.plan import Plan
from pipelines.plan.roofline import Candidate, Roof

STAGES = {
    "prefill": "one prompt takes at least",
    "decode": "one more token of every answer",
    "text_encoder": "one caption through the text encoder",
    "denoiser_pass": "one pass of the denoiser",
    "vae_decode": "decoding",
    "to_device": "moving the weights to the device",
    "batch_of_videos": "a batch of videos",
}
MEMORY = {"weights": "weights", "kv_cache": "KV cache", "activations": "activations"}


def print_plan(result: Plan) -> None:
    """Print to stderr; stdout has only the JSON line."""
    from rich.table import Table

    console = open_console(width=140)
    chosen, request = result.chosen, result.request
    verdict = styled("FITS", "bold green") if chosen.fits else styled("DOES NOT FIT", "bold red")
    replicas = f"{chosen.replicas} replica{'s' * (chosen.replicas > 1)}"
    where = f"{result.preset} on {request.devices} x {request.device}"
    console.print(verdict, f"{where}: {chosen}, {replicas}, batch {chosen.batch}", sep="  ")
    for line in (*_why(result), *_figures(result), *_stages(chosen)):
        console.print(f"  {line}")
    table = Table(box=None, pad_edge=False, header_style="dim", title="GiB on the fullest device", title_style="dim", title_justify="left")
    parts = [name for name in MEMORY if any(name in c.memory for c in result.candidates)]
    unit = next((c.ceiling.unit for c in result.candidates if c.ceiling), "")
    left = ("", "precision", "layout")
    heads = (*left, *(MEMORY[p] for p in parts), "total", "fits", "largest batch", f"{unit}, at most", "bound by")
    for head in heads:
        table.add_column(head, justify="left" if head in (*left, "bound by") else "right", overflow="fold")
    for one in result.candidates:
        table.add_row(*_row(one, parts, one is chosen))
    console.print(table)
    for line in result.notes:
        console.print(f"  {line}")
    console.print("  'at most' is what the device's peak figures allow, not a forecast; nothing here is measured")


def plain(result: Plan) -> dict[str, Any]:
    """The values of the JSON line."""
    return {
        "plan": result.preset,
        "device": result.request.device,
        "devices": result.request.devices,
        "fits": result.chosen.fits,
        "job": asdict(result.job),
        "model": dict(result.figures),
        "chosen": _plain(result.chosen),
        "would_fit": [] if result.chosen.fits else [{"precision": c.precision, **c.layout._asdict()} for c in result.would_fit],
        "candidates": [_plain(c) for c in result.candidates],
        "notes": list(result.notes),
    }


def _plain(one: Candidate) -> dict[str, Any]:
    return {
        "precision": one.precision,
        **one.layout._asdict(),
        "replicas": one.replicas,
        "batch": one.batch,
        "fits": one.fits,
        "impossible": one.impossible,
        "memory_bytes": dict(one.memory),
        "total_bytes": one.total_bytes,
        "over_bytes": one.over_bytes,
        "usable_bytes": one.usable_bytes,
        "max_batch": one.max_batch,
        "stages": {name: roof.plain() for name, roof in one.stages.items()},
        "ceiling": one.ceiling._asdict() if one.ceiling else None,
    }


def _row(one: Candidate, parts: list[str], is_chosen: bool) -> list[str]:
    first = [">" if is_chosen else "", one.precision, str(one.layout)]
    if one.ceiling is None:
        return [*first, *("" for _ in parts), "", "no", "", "", one.impossible or ""]
    fits = "yes" if one.fits else f"{_gib(one.over_bytes)} over"
    largest = f"{one.max_batch:,}" if one.max_batch else "none"
    sizes = [_gib(one.memory[part]) for part in parts]
    return [*first, *sizes, _gib(one.total_bytes), fits, largest, _round(one.ceiling.value), one.ceiling.bound]


def _why(result: Plan) -> Iterator[str]:
    chosen = result.chosen
    if chosen.impossible:
        yield f"impossible: {chosen.impossible}"
    else:
        yield f"{_gib(chosen.total_bytes)} of the {_gib(chosen.usable_bytes)} GiB that can be filled" + (
            f", over by {_gib(chosen.over_bytes)} GiB" if chosen.over_bytes else ""
        )
    if chosen.fits:
        return
    if chosen.max_batch:
        yield f"would fit: {chosen} with --batch {chosen.max_batch}"
    for one in result.would_fit:
        yield f"would fit: {one} ({_gib(one.total_bytes)} GiB)"
    if not result.would_fit and not chosen.max_batch:
        yield "no layout or precision of those tried fits"


def _figures(result: Plan) -> Iterator[str]:
    f = result.figures
    yield f"{f['class']}: {_count(f['parameters'])} parameters" + (
        f", {_count(f['active_parameters'])} active for a token" if f["active_parameters"] < 0.9 * f["parameters"] else ""
    )
    if "flops_per_video" in f:
        step, video = f["flops_per_step"], f["flops_per_video"]
        yield f"{f['tokens_per_video']:,} tokens a video; a step {_scaled(step)}FLOP and {_scaled(f['bytes_per_step'])}B moved"
        encoder, decode = _scaled(f["text_encoder_flops"]), _scaled(f["vae_decode_flops"])
        yield f"a video {_scaled(video)}FLOP, of them {encoder}FLOP for the text encoder and {decode}FLOP for decoding"
    else:
        yield (
            f"a token of a prompt {_scaled(f['prefill_flops_per_token'])}FLOP; of an answer {_scaled(f['decode_flops_per_token'])}FLOP "
            + (f"and {_scaled(f['decode_bytes_per_token'])}B moved at this batch")
        )
        yield f"KV cache {f['kv_bytes_per_token'] / 2**10:,.1f} KiB for the first token, {_gib(f['kv_bytes_per_query'])} GiB for a query"


def _stages(one: Candidate) -> Iterator[str]:
    for name, roof in one.stages.items():
        yield f"{STAGES[name]}: {_seconds(roof)}"


def _seconds(roof: Roof) -> str:
    s = roof.seconds
    text = f"{s:,.2f} s" if s >= 1 else f"{s * 1e3:,.2f} ms" if s >= 1e-3 else f"{s * 1e6:,.1f} us"
    limits = sum(value > 0 for value in roof)
    return text + (f" ({roof.bound})" if limits > 1 else "")


def _gib(num_bytes: int) -> str:
    gib = num_bytes / 2**30
    return f"{gib:,.1f}" if gib >= 0.1 else f"{gib:.1g}"


def _round(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.4g} B" if parameters >= 1e9 else f"{parameters / 1e6:.4g} M"


def _scaled(value: float) -> str:
    for factor, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.4g} {letter}"
    return f"{value:.4g} "
