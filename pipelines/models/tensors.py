"""The tensors of a checkpoint against those of the network that its configuration describes.

transformers and diffusers give random numbers to tensors that a checkpoint lacks, leave out those that the network lacks, and only log it.
Here both are refused by name, and tensors of another shape.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from configs.errors import ConfigError, first_line
from pipelines.models.checkpoint import FIX, from_pretrained, weight_files

SHOWN = 3  # at most so many tensors are named
_OTHER_SHAPE = re.compile(r"because (\S+) expected shape torch\.Size\((.*?)\), but got torch\.Size\((.*?)\)")


def load_network(kind: Any, where: str, model: str, built_in: str = "embedded", **options: Any) -> Any:
    """A transformers network with the weights of a checkpoint: all of them, and no others. Arguments as of `from_pretrained`.

    Raises ConfigError, also naming tensors as check_tensors does.
    """
    # With ignore_mismatched_sizes the library returns the tensors of another shape, instead of a message without their names.
    with _quiet():
        network, loading = from_pretrained(kind, where, model, built_in, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    check_tensors(_called(where, model), network.config, loading)
    return network


@contextlib.contextmanager
def tensors_checked(model: str) -> Iterator[list[Any]]:
    """Within it, every network that diffusers or transformers reads is checked by check_tensors, such as the parts of a pipeline.

    A pipeline's own `from_pretrained` does not return what became of its parts' tensors. Yields the networks that were checked so far.
    model: as the user named it. Raises ConfigError.
    """
    import diffusers
    import transformers

    checked: list[Any] = []

    def checking(base: Any, **always: Any) -> Any:
        original = base.from_pretrained.__func__

        def read(cls: Any, /, where: Any, *positional: Any, output_loading_info: bool = False, **options: Any) -> Any:
            try:
                network, loading = original(cls, where, *positional, output_loading_info=True, **options | always)
            except ValueError as error:  # diffusers 0.42 names the first tensor of another shape
                if found := _OTHER_SHAPE.search(str(error)):
                    loading = {"mismatched_keys": [(found[1], json.loads(found[3]), json.loads(found[2]))]}
                    check_tensors(_called(where, model), None, loading)
                raise
            # Where an index lists a tensor that its file lacks, diffusers reports nothing and leaves a parameter without memory.
            absent = [name for name, parameter in network.named_parameters() if parameter.is_meta]
            check_tensors(_called(where, model), network.config, {**loading, "missing_keys": {*loading["missing_keys"], *absent}})
            checked.append(network)
            return (network, loading) if output_loading_info else network

        return mock.patch.object(base, "from_pretrained", classmethod(read))

    # diffusers has ignore_mismatched_sizes too, but takes packed weights of a quantised checkpoint for such tensors, and drops them.
    with (
        checking(diffusers.ModelMixin),
        checking(transformers.PreTrainedModel, ignore_mismatched_sizes=True),
        _quiet(),
    ):
        yield checked


def check_headers(folder: Path, kind: Any, model: str) -> str | None:
    """Check the tensors of a transformers checkpoint by the headers of its files, without reading weights; for engines that do not check.

    kind: an auto class. Returns why they cannot all be checked, None where they fit. Raises ConfigError as check_tensors does.
    """
    import torch
    from safetensors import safe_open
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # an engine may run networks that transformers does not know
        return f"transformers cannot read it: {first_line(error)}"
    tensors: dict[str, Any] = {}
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as opened:
            tensors |= {name: torch.empty(opened.get_slice(name).get_shape(), device="meta") for name in opened.keys()}  # noqa: SIM118
    reason = ""
    if type(config) not in kind._model_mapping:
        reason = f"transformers has no {config.model_type!r}"
    elif getattr(config, "quantization_config", None):
        reason = "they are quantised"
    else:
        with _quiet():
            try:
                _, loading = kind._model_mapping[type(config)].from_pretrained(
                    None, config=config, state_dict=tensors, device_map="meta", output_loading_info=True, ignore_mismatched_sizes=True
                )
            except Exception as error:  # or cannot build so
                reason = f"transformers cannot build the network: {first_line(error)}"
    if reason:
        _check_layers(_called(folder, model), config, tensors)
        return f"{reason}; only that no layer is missing was"
    check_tensors(_called(folder, model), config, loading)
    return None


def check_tensors(what: str, config: Any, loading: Mapping[str, Any]) -> None:
    """Raises ConfigError naming tensors that a checkpoint lacks, that are not part of the network, or that have another shape.

    config: of the network. loading: what `from_pretrained` returns with output_loading_info. The libraries have removed from it what the
    network's class declares: tied weights, and matches of `_keys_to_ignore_on_load_missing` and `_keys_to_ignore_on_load_unexpected`.
    Layers that predict further tokens, which a config declares after its num_hidden_layers, may be in the files too: no engine here runs
    them.
    """
    differing = {name: f"{name} ({list(stored)}, not {list(expected)})" for name, stored, expected in loading.get("mismatched_keys", ())}
    missing = set(loading.get("missing_keys", ())) - set(differing)
    unexpected = [name for name in loading.get("unexpected_keys", ()) if not _predicts_further_tokens(name, config)]
    problems = (
        ("of the network's tensors are missing", missing),
        ("tensors are not part of the network", unexpected),
        ("tensors have another shape than the network's", differing.values()),
    )
    if found := [f"{len(names)} {problem}: {_named(names)}" for problem, names in problems if names]:
        raise ConfigError(f"{what} does not fit the network: {'; '.join(found)}; {FIX}")


def _check_layers(what: str, config: Any, names: Iterable[str]) -> None:
    """Raises ConfigError where the names, of which some have the form `layers.NUMBER.`, leave out some of num_hidden_layers."""
    found: dict[str, set[int]] = {}
    for name in names:
        if place := re.search(r"\blayers\.(\d+)\.", name):
            found.setdefault(name[: place.start()], set()).add(int(place[1]))
    expected = set(range(getattr(config.get_text_config(), "num_hidden_layers", None) or 0))
    missing = min((expected - numbers for numbers in found.values()), key=len, default=set())  # of the text's layers, not an encoder's
    if missing:
        shown = ", ".join(map(str, sorted(missing)))
        raise ConfigError(f"{what} does not fit the network: it has no tensors of {len(missing)} of its layers: {shown}; {FIX}")


def _called(where: Any, model: str) -> str:
    return f"checkpoint {str(where)!r}" if Path(str(where)).is_dir() else f"model {model!r}"


def _named(names: Collection[str]) -> str:
    """The first few in the order of layers: layers.9 before layers.10."""
    shown = sorted(
        names, key=lambda name: [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", name)]
    )
    return ", ".join(shown[:SHOWN]) + (" ..." if len(names) > SHOWN else "")


def _predicts_further_tokens(name: str, config: Any) -> bool:
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    num_layers, num_further = (getattr(text, key, None) or 0 for key in ("num_hidden_layers", "num_nextn_predict_layers"))
    layer = re.search(r"\blayers\.(\d+)\.", name)
    return layer is not None and num_layers <= int(layer[1]) < num_layers + num_further


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the libraries' own lists of such tensors. The loggers are disabled, since at level ERROR transformers logs more (5.23)."""
    loggers = [logging.getLogger(f"{name}.modeling_utils") for name in ("transformers", "diffusers.models")]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled
