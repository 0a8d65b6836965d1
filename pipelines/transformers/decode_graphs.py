"""CUDA graphs for `generate`: a static cache, and decoding steps that are captured once and replayed.

A step of decoding is some thousand small kernels; launched one by one they keep an H100 waiting for Python most of the time. transformers'
own way there is torch.compile, which takes minutes for a large model. Here the step runs once as it is, is captured at the second call with
the same shapes, and is replayed from then on. Only for models whose layers all keep every key: the others count in Python, which a graph
does not repeat.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

LENGTHS = 256  # tokens: caches are made in multiples of it, so that batches of about the same length share one
KEPT = 4  # caches, with their graphs; the least recently used one goes first


@dataclass(frozen=True, slots=True)
class Captured:
    """A step: its input tensors by name, what it returns, and how it is repeated."""

    inputs: Mapping[str, torch.Tensor]
    output: Any
    replay: Callable[[], None]


def capture(step: Callable[[], Any], pool: Any) -> tuple[Any, Callable[[], None]]:
    """Capture the step's kernels without running them; what it returns, and the call that runs them."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        output = step()
    return output, graph.replay


class DecodeGraphs:
    """Decoding steps of one model. Give `generate` the cache of `cache_for`, within `installed`.

    capture: what `capture` above does; tests replace it, as a CPU has no graphs.
    """

    def __init__(self, model: Any, capture: Callable[[Callable[[], Any], Any], tuple[Any, Callable[[], None]]] = capture) -> None:
        self._model, self._capture = model, capture
        self._caches: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._steps: dict[tuple[Any, ...], Captured | None] = {}  # None: ran once
        self._pool: Any = None

    def cache_for(self, batch: int, num_tokens: int) -> Any:
        """An empty cache for so many rows, with room for at least so many tokens."""
        from transformers import StaticCache

        size = batch, -(-num_tokens // LENGTHS) * LENGTHS
        cache = self._caches.pop(size, None)
        if cache is None:
            while len(self._caches) >= KEPT:
                _, old = self._caches.popitem(last=False)
                self._steps = {key: step for key, step in self._steps.items() if key[0] != id(old)}
            cache = StaticCache(config=self._model.config, max_cache_len=size[1])
        cache.reset()
        self._caches[size] = cache
        return cache

    def generate(self, **arguments: Any) -> Any:
        """The model's `generate`, whose decoding steps are `step`."""
        model = self._model
        model.get_compiled_call = lambda _: self.step
        model._valid_auto_compile_criteria = lambda *_: True
        try:
            return model.generate(**arguments)
        finally:  # the class's own methods again
            del model.get_compiled_call, model._valid_auto_compile_criteria

    def step(self, **arguments: Any) -> Any:
        """The model's forward pass. Its output holds the graph's own tensors, until the next step."""
        tensors = {name: value for name, value in arguments.items() if isinstance(value, torch.Tensor)}
        key = id(arguments["past_key_values"]), *((name, value.shape, value.dtype) for name, value in sorted(tensors.items()))
        if key not in self._steps:
            self._steps[key] = None
            return self._model(**arguments)
        captured = self._steps[key]
        if captured is None:
            captured = self._steps[key] = self._captured(arguments, tensors)
        for name, value in tensors.items():
            captured.inputs[name].copy_(value)
        captured.replay()
        return captured.output

    def _captured(self, arguments: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Captured:
        if self._pool is None and self._model.device.type == "cuda":
            self._pool = torch.cuda.graph_pool_handle()
        inputs = {name: value.clone() for name, value in tensors.items()}
        output, replay = self._capture(lambda: self._model(**{**arguments, **inputs}), self._pool)
        return Captured(inputs, output, replay)


def make_graphs(model: Any) -> DecodeGraphs | str:
    """Graphs for this model, or why its decoding cannot be replayed."""
    from transformers import StaticCache
    from transformers.cache_utils import StaticLayer

    if model.device.type != "cuda":
        return f"the device is {model.device.type}"
    if getattr(model, "_tp_size", None):
        return "the model is split over several ranks"
    if not getattr(model, "_can_compile_fullgraph", False):
        return f"transformers' {type(model).__name__} does not take a static cache"
    if {type(layer) for layer in StaticCache(config=model.config, max_cache_len=LENGTHS).layers} != {StaticLayer}:
        return "some of its layers do not keep every key"
    return DecodeGraphs(model)
