from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from configs.command_line import EXIT_INVALID, PluginOption, PresetOption, ScenarioOption, SetOption, VariantOption, app
from configs.output import print_line


@app.command()
def plan(
    preset: PresetOption,
    device: Annotated[str, typer.Option(metavar="NAME", help="A device of configs/devices.yaml, such as mi355x.")],
    devices: Annotated[int, typer.Option(metavar="N", help="The number of devices.")] = 8,
    precision: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of the weights: bf16, fp8, mxfp4, ..", show_default="the preset's")
    ] = None,
    attention: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of the KV cache and attention's products.", show_default="the preset's, or bf16")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(metavar="N", help="Queries at the same time on one replica.", show_default="the preset's")
    ] = None,
    input_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Tokens of a prompt.", show_default="all that the context leaves")
    ] = None,
    output_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Tokens of an answer.", show_default="the preset's max_new_tokens")
    ] = None,
    devices_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML in the form of configs/devices.yaml, with devices of your own.")
    ] = None,
    scenario: ScenarioOption = None,
    variant: VariantOption = None,
    set_: SetOption = None,
    plugin: PluginOption = None,
    only_json: Annotated[bool, typer.Option("--json", help="No table on stderr.")] = False,
) -> None:
    """Without weights or devices: what fits, memory by precision and layout, FLOPs and bytes, and the throughput that cannot be exceeded.

    Exit codes: 0 the preset's layout fits, 3 it does not (and one that does is named), 1 an error.
    """
    from configs.load_config import load_config
    from pipelines.plan.plan import PlanRequest
    from pipelines.plan.plan import plan as make_plan
    from pipelines.plan.table import plain, print_plan

    settings = load_config(None, preset, set_ or [], scenario=scenario, variant=variant)
    request = PlanRequest(device, devices, precision, attention, batch, input_tokens, output_tokens, devices_file)
    result = make_plan(settings, preset, request)
    if not only_json:
        print_plan(result)
    print_line(plain(result))
    if not result.chosen.fits:
        raise typer.Exit(EXIT_INVALID)
