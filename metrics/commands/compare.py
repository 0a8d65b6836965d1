from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from configs.command_line import AllowInvalidOption, PluginOption, app
from configs.output import print_line


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders; the first of its kind is the baseline.")],
    label: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="One for each run, in their order; the same one for repeats.")
    ] = None,
    baseline: Annotated[list[Path] | None, typer.Option(metavar="RUN", help="Compare with this one of the runs; repeatable.")] = None,
    by: Annotated[str, typer.Option(metavar="NAME", help="The measure of speed: auto, throughput, latency, ttft or tpot.")] = "auto",
    by_model: Annotated[bool, typer.Option("--by-model", help="Compare runs of the same model only.")] = False,
    allow_invalid: AllowInvalidOption = False,
    plugin: PluginOption = None,
    output: Annotated[Path, typer.Option(metavar="FILE", help="The page to write; its figures go beside it, as .json.")] = Path(
        "outputs/compare.html"
    ),
) -> None:
    """Compare runs: speed-ups with intervals, speed per device, geometric means over workloads, and quality beside every speed."""
    from configs.errors import ConfigError
    from metrics.compare.compare import compare as compare_runs
    from metrics.compare.html import print_comparison, write_comparison

    if output.suffix != ".html":
        raise ConfigError(f"--output must end in .html, got {str(output)!r}.")
    data = compare_runs(runs, label or [], baseline or [], by, by_model, allow_invalid)
    written = write_comparison(data, output)
    print_comparison(data)
    speed_ups = {g["title"]: {r["label"]: r["speed_up"]["value"] for r in g["rows"] if r["speed_up"]} for g in data["groups"]}
    means = {mean["label"]: mean["speed_up"] for mean in data["geometric_means"]}
    print_line({"compare": str(written.resolve()), "page": str(output.resolve()), "speed_up": speed_ups, "geometric_mean": means})
