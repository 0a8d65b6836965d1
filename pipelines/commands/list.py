from __future__ import annotations

from typing import Annotated, Any

import typer

from configs.command_line import PluginOption, app, complete_name
from configs.output import echo, print_line


@app.command("list")
def list_(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="A plugin or preset, to show its options.", autocompletion=complete_name, show_default="all"),
    ] = None,
    plugin: PluginOption = None,
) -> None:
    """List workloads, pipelines, metrics and presets; of one plugin, its options with type, default and meaning."""
    from configs.errors import ConfigError, unknown
    from configs.load_config import PRESETS, presets, read_yaml
    from configs.registry import KINDS, names

    known = {kind: dict(sorted(names(kind).items())) for kind in KINDS}
    if name is None:
        for kind, plugins in known.items():
            echo(f"{kind}:")
            for one, origin in plugins.items():
                echo(f"  {one:24} {origin}")
        echo("presets (--config NAME):")
        for preset in presets():
            echo(f"  {preset}")
        print_line({**{kind: list(plugins) for kind, plugins in known.items()}, "presets": presets()})
    elif name in presets():
        file = PRESETS / f"{name}.yaml"
        echo(file.read_text(encoding="utf-8"))
        print_line({"preset": name, "file": str(file), "settings": read_yaml(file)})
    elif kinds := [kind for kind in KINDS if name in known[kind]]:
        _show_plugin(name, kinds)
    else:
        raise ConfigError(unknown("plugin or preset", name, [*(n for plugins in known.values() for n in plugins), *presets()]))


def _show_plugin(name: str, kinds: list[str]) -> None:
    """A plugin's name may be of several kinds."""
    from configs.plugin_options import plugin_options, summary
    from configs.registry import find

    plugins: list[dict[str, Any]] = []
    for kind in kinds:
        cls = find(kind, name)
        options = plugin_options(cls)
        echo(f"{kind.removesuffix('s')} {name}: {summary(cls)}")
        for option in options:
            echo(f"  {option.text}")
        plugins.append({"kind": kind, "options": [option._asdict() for option in options]})
    print_line({"name": name, "plugins": plugins})
