"""The plugin registry: registers plugins, finds them by name, and builds them from their options.

A plugin is a dataclass under `@register("name")`. Its fields are its options; its base class (Pipeline, Workload or Metric) is its
kind. A name is searched in this order: files given by `--plugin`, built-ins, entry points `triptych.pipelines`,
`triptych.workloads` and `triptych.metrics`. A plugin is imported only when it is named. None can take a built-in's name.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar

from configs.errors import ConfigError, PluginError, first_line, unknown

KINDS = ("pipelines", "workloads", "metrics")

# The built-ins by kind: name -> module.
BUILT_IN: dict[str, dict[str, str]] = {
    "pipelines": {
        "diffusers_t2v": "pipelines.diffusers.t2v",
        "transformers_llm": "pipelines.transformers.llm",
        "transformers_vlm": "pipelines.transformers.vlm",
        "vllm": "pipelines.vllm.pipeline",
        "endpoint": "pipelines.endpoint.pipeline",
        "toy_t2v": "pipelines.toy.t2v",
        "toy_i2v": "pipelines.toy.i2v",
        "toy_llm": "pipelines.toy.llm",
        "toy_vlm": "pipelines.toy.vlm",
    },
    "workloads": {n: f"workloads.{n}" for n in ("t2v", "i2v", "llm", "vlm")},
    "metrics": {
        "throughput": "metrics.performance.throughput",
        "latency": "metrics.performance.latency",
        "token_latency": "metrics.performance.token_latency",
        "goodput": "metrics.performance.goodput",
        "tokens": "metrics.performance.tokens",
        "stages": "metrics.performance.stages",
        "client_lag": "metrics.performance.client_lag",
        "peak_memory": "metrics.performance.peak_memory",
        "energy": "metrics.performance.energy",
        "world_score": "metrics.quality.world_score",
        "exact_match": "metrics.quality.exact_match",
        "rouge": "metrics.quality.rouge",
        "hierarchical_f1": "metrics.mlperf.accuracy.hierarchical_f1",
        "gpt_oss_accuracy": "metrics.mlperf.accuracy.gpt_oss_accuracy",
        "deepseek_r1_accuracy": "metrics.mlperf.accuracy.deepseek_r1_accuracy",
        "generation_length": "metrics.mlperf.accuracy.generation_length",
        "vbench": "metrics.quality.vbench.metric",
        "first_frame_psnr": "metrics.quality.first_frame_psnr",
        "temporal_flickering": "metrics.quality.temporal_flickering",
        "motion_smoothness": "metrics.quality.motion_smoothness",
        "dynamic_degree": "metrics.quality.dynamic_degree",
    },
}

T = TypeVar("T")
_BASES = ("pipelines.base", "workloads.base", "metrics.base")  # the modules of the base classes
_FILE_MODULE = "triptych_plugin_"  # and the stem of a file given by --plugin
_registered: dict[tuple[str, str], type] = {}
_sources: dict[type, tuple[Path, bytes]] = {}  # of plugins from files: the file, and its content when it was loaded


def register(name: str) -> Callable[[type[T]], type[T]]:
    """Register a dataclass as a plugin. Its base class must be Pipeline, Workload or Metric.

    Raises PluginError where it lacks a method or a class attribute that its base class requires, or has the name of a built-in.
    """

    def mark(cls: type[T]) -> type[T]:
        if not dataclasses.is_dataclass(cls):
            raise PluginError(f"plugin {name!r} ({cls.__qualname__}) is not a dataclass; put @dataclass below @register")
        kind = _kind(cls, name)
        if BUILT_IN[kind].get(name, cls.__module__) != cls.__module__:
            raise PluginError(f"{kind[:-1]} {name!r} is built in, and {cls.__qualname__} cannot replace it; choose another name")
        _check_complete(cls, f"{kind[:-1]} {name!r} ({cls.__qualname__})")
        _registered[kind, name] = cls
        return cls

    return mark


def load_plugin_file(path: str) -> None:
    """Import a file given by `--plugin`; what it registers is found before all else. Raises PluginError."""
    file = Path(path)
    if not file.is_file():
        raise PluginError(f"plugin file {path!r} does not exist")
    spec = importlib.util.spec_from_file_location(_FILE_MODULE + file.stem, file)
    if spec is None or spec.loader is None:
        raise PluginError(f"plugin file {path!r} is not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    before = set(_registered)
    try:
        source = file.read_bytes()
        # Not by the loader: it runs a cached compilation of a file that was changed within the same second and kept its length.
        exec(compile(source, str(file), "exec", dont_inherit=True), module.__dict__)
    except PluginError:
        raise
    except Exception as error:
        raise PluginError(f"plugin file {path!r} failed to import: {type(error).__name__}: {error}") from error
    if before == set(_registered) and not any(c.__module__ == spec.name for c in _registered.values()):
        raise PluginError(f"plugin file {path!r} registers nothing; put @register('name') above its dataclass")
    _sources.update((cls, (file, source)) for cls in _registered.values() if cls.__module__ == spec.name and cls not in _sources)


def names(kind: str) -> dict[str, str]:
    """Every known name of the kind and its origin. Imports no plugin."""
    origins = {e.name: f"package {e.dist.name if e.dist else e.value}" for e in _entry_points(kind)}
    origins |= dict.fromkeys(BUILT_IN[kind], "built in")
    for (registered, name), cls in _registered.items():
        from_file = cls.__module__.startswith(_FILE_MODULE)
        if registered == kind and (name not in origins or (from_file and name not in BUILT_IN[kind])):
            origins[name] = "--plugin"
    return origins


def find(kind: str, name: str) -> type[Any]:
    """Return the plugin class of that name.

    Raises PluginError where the name is unknown, or where its module fails to import (with the cause).
    """
    if (kind, name) not in _registered:
        _import(kind, name)
    return _registered[kind, name]


def plugin_file(kind: str, name: str) -> Path | None:
    """Return the file given by `--plugin` that registered the plugin; None for every other plugin."""
    found = _sources.get(find(kind, name))
    return found[0] if found else None


def plugin_source(kind: str, name: str) -> bytes | None:
    """Return the source of the plugin's file as it was loaded, or of its module in an installed package; None for a built-in plugin."""
    cls = find(kind, name)
    if found := _sources.get(cls):
        return found[1]
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return Path(file).read_bytes() if file and names(kind).get(name, "").startswith("package ") else None


def name_of(cls: type) -> str:
    """The name that a plugin's class is registered under; the class's own where it is not registered."""
    return next((name for (_, name), registered in _registered.items() if registered is cls), cls.__name__)


def make(kind: str, name: str, options: Mapping[str, Any], **common: Any) -> Any:
    """Find the plugin and build it from its options. common: fields that the suite sets, where the class has them."""
    cls = find(kind, name)
    fields = {f.name for f in dataclasses.fields(cls) if f.init}
    given = dict(options) | {k: v for k, v in common.items() if k in fields and k not in options}
    return validated(cls, f"{kind.removesuffix('s')} {name!r}", given)


def validated(cls: type[T], what: str, options: Mapping[str, Any]) -> T:
    """Build the dataclass from the options, each checked against its field's type. Raises ConfigError naming the option."""
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for option in options:
        if option not in fields:
            problem = unknown("option", option, fields)
            raise ConfigError(f"{what} has {problem}")
    if not hasattr(cls, "__pydantic_config__"):
        cls.__pydantic_config__ = ConfigDict(arbitrary_types_allowed=True, extra="forbid")  # type: ignore[attr-defined]
    try:
        return TypeAdapter(cls).validate_python(dict(options))
    except ValidationError as error:
        raise ConfigError(f"{what}: {explain(error)}") from None
    except PydanticUserError as error:
        reason = first_line(error)
        raise PluginError(
            f"{what} has a field whose type cannot be checked ({reason}); import the type at the file's top, or use Any"
        ) from None


def explain(error: Any) -> str:
    """Format a pydantic ValidationError as one line: `option 'a.b' is 'x': why`."""
    problems = []
    for detail in error.errors():
        where = ".".join(str(part) for part in detail["loc"])
        message = detail["msg"].removeprefix("Value error, ")
        if detail["type"] == "missing":
            problems.append(f"option {where!r:.80} is required")
        elif where:
            problems.append(f"option {where!r:.80} is {detail['input']!r:.200}: {message[0].lower() + message[1:]}")
        else:
            problems.append(message)
    return "; ".join(problems)


def _kind(cls: type, name: str) -> str:
    bases = {base.__name__ for base in cls.__mro__}
    for kind, base in zip(KINDS, ("Pipeline", "Workload", "Metric"), strict=True):
        if base in bases:
            return kind
    raise PluginError(f"plugin {name!r} ({cls.__qualname__}) derives from none of Pipeline, Workload, Metric")


def _check_complete(cls: type, what: str) -> None:
    """Raises PluginError naming the methods and class attributes that the base classes require and the plugin lacks."""
    if methods := sorted(getattr(cls, "__abstractmethods__", ())):
        raise PluginError(f"{what} lacks {_listed('method', methods)}; define what its base class requires")
    required = [
        name
        for base in cls.__mro__
        if base.__module__ in _BASES
        for name, annotation in inspect.get_annotations(base).items()
        if str(annotation).startswith("ClassVar") and not hasattr(cls, name)
    ]
    if required:
        raise PluginError(f"{what} lacks {_listed('class attribute', required)}; set it in the class: {required[0]} = ...")


def _listed(what: str, names: Sequence[str]) -> str:
    return f"{what}{'s' if len(names) > 1 else ''} {', '.join(map(repr, names))}"


@functools.cache  # reading the metadata of all installed packages takes some 20 ms, and every name that is looked up asks for it
def _entry_points(kind: str) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=f"triptych.{kind}"))


def _import(kind: str, name: str) -> None:
    if module := BUILT_IN[kind].get(name):
        importlib.import_module(module)
    elif entry := next((e for e in _entry_points(kind) if e.name == name), None):
        try:
            loaded = entry.load()
        except Exception as error:
            raise PluginError(
                f"{kind.removesuffix('s')} {name!r} of entry point {entry.value!r} failed to import: {type(error).__name__}: {error}"
            ) from error
        _registered.setdefault((kind, name), loaded)
    else:
        raise PluginError(unknown(kind.removesuffix("s"), name, names(kind)))
    assert (kind, name) in _registered, f"module of {kind} {name!r} registers another name"
