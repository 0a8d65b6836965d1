from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from configs.command_line import ConfigOption, PluginOption, SetOption, VariantOption, WorkloadOption, app


@app.command()
def serve(
    workload: WorkloadOption = None,
    config: ConfigOption = None,
    variant: VariantOption = None,
    set_: SetOption = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="The address to listen on; any but loopback needs --api-key-env.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="N", help="0: any free one; the line on stdout names it.")] = 0,
    api_key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="The environment variable with the key that clients must send.")
    ] = None,
    videos: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder for videos.", show_default="a temporary folder, removed at the end")
    ] = None,
    log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Add a JSON line for every request: when it came, first token, end, tokens.")
    ] = None,
    plugin: PluginOption = None,
) -> None:
    """Serve a pipeline at /v1/chat/completions, /v1/completions or /v1/videos, for other clients to measure. Ctrl-C ends it."""
    from configs.load_config import load_config
    from pipelines.serving.server import serve as serve_until_stopped

    serve_until_stopped(load_config(workload, config, set_ or [], variant=variant), host, port, api_key_env, videos, log)
