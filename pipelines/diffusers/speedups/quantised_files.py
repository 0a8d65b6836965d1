"""Checkpoints of denoisers that are quantised already: GGUF files, and folders written by AMD's Quark.

GGUF files are read by diffusers: weights stay packed and are unpacked at every use. Quark's folders are read by its integration with
diffusers (amd-quark 0.13): MXFP4 and its other formats stay packed too and are unpacked at every use; with `native`, AITER multiplies
the packed weights.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch

from configs.errors import ConfigError, first_line
from pipelines.devices.accelerators import require
from pipelines.models.tensors import check_tensors

GGUF_MAGIC = b"GGUF"


class Place(NamedTuple):
    """A folder or hub name, and its revision."""

    folder: str
    revision: str | None


@dataclass(frozen=True)
class GgufFiles:
    """file: of a model with one denoiser. files: by the denoiser's name, where it has two."""

    file: str | None = None
    files: dict[str, str] | None = None
    modules_to_not_convert: list[str] | None = None

    def __post_init__(self) -> None:
        if (self.file is None) == (self.files is None):
            raise ValueError("give 'file', or for a model with two denoisers 'files', such as {transformer: A.gguf, transformer_2: B.gguf}")

    def by_denoiser(self, what: str, denoisers: Sequence[str]) -> dict[str, Path]:
        """The file of each denoiser. Raises ConfigError where one is missing, is not a GGUF file or belongs to no denoiser."""
        given = self.files if self.files is not None else {denoisers[0]: str(self.file)}
        if set(given) != set(denoisers):
            names = ", ".join(denoisers)
            raise ConfigError(f"{what} has files for {', '.join(given)}, but the model has {names}. Give one for each in 'files'.")
        for name, file in given.items():
            if not Path(file).is_file():
                raise ConfigError(f"{what}: file {file!r} of {name} does not exist.")
            with Path(file).open("rb") as stream:
                if stream.read(len(GGUF_MAGIC)) != GGUF_MAGIC:
                    raise ConfigError(f"{what}: {file!r} is not a GGUF file.")
        return {name: Path(given[name]) for name in denoisers}


@dataclass(frozen=True)
class QuarkFolder:
    """native: multiply packed weights by AITER's kernels, on AMD's GPUs that have the format."""

    native: bool = False


def read_gguf(files: GgufFiles, what: str, place: Place, empty: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Read each denoiser from its file. place: of the configuration. empty: the denoisers on the meta device. Raises ConfigError."""
    from diffusers import GGUFQuantizationConfig

    read = {}
    for name, file in files.by_denoiser(what, list(empty)).items():
        kind: Any = type(empty[name])
        config = GGUFQuantizationConfig(compute_dtype=dtype)
        config.modules_to_not_convert = list(files.modules_to_not_convert or ())
        given = {
            "config": place.folder,
            "subfolder": name,
            "config_revision": place.revision,
            "quantization_config": config,
            "dtype": dtype,
        }
        try:
            with _tensors_checked(f"{what}: {str(file)!r}"):
                read[name] = kind.from_single_file(str(file), **given)
        except ConfigError:
            raise
        except Exception as error:  # diffusers and gguf raise many kinds, for damaged files and for other models' weights
            raise ConfigError(f"{what}: {str(file)!r} cannot be read as the {kind.__name__} of {name!r}: {first_line(error)}") from error
    return read


@contextlib.contextmanager
def _tensors_checked(what: str) -> Iterator[None]:
    """Within it, `from_single_file` raises ConfigError naming tensors that are missing, or left out, which diffusers 0.42 only logs."""
    from diffusers.loaders import single_file_model as library

    original = library.load_model_dict_into_meta

    def load(model: Any, *positional: Any, unexpected_keys: list[str], **named: Any) -> Any:
        done = original(model, *positional, unexpected_keys=unexpected_keys, **named)
        missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
        declared = model._keys_to_ignore_on_load_unexpected or ()
        others = [name for name in unexpected_keys if not any(re.search(pattern, name) for pattern in declared)]
        check_tensors(what, model.config, {"missing_keys": missing, "unexpected_keys": others})
        return done

    with mock.patch.object(library, "load_model_dict_into_meta", load):
        yield


def register_quark(what: str) -> None:
    """Enable diffusers to read Quark's folders. Raises ConfigError where amd-quark is not installed, or too old."""
    if importlib.util.find_spec("quark") is None:
        raise ConfigError(f"{what} needs a package: pip install amd-quark")
    try:
        importlib.import_module("quark.integrations.diffusers")
    except Exception as error:  # it compiles kernels when it is imported, which can fail in many ways
        raise ConfigError(f"{what} needs an amd-quark that reads diffusers' models, 0.13 or later: {first_line(error)}") from error


def check_native(what: str, device: torch.device) -> None:
    """Raises ConfigError where the device or the installation has no kernels for `native`."""
    require(f"{what} with native: true", device, "aiter")
    if importlib.util.find_spec("aiter") is None:
        raise ConfigError(f"{what} with native: true needs AITER, which is not installed. Leave out native, or use an image that has it.")


def use_native_kernels(what: str, denoisers: Mapping[str, Any]) -> None:
    """Convert Quark's packed layers to AITER's. Raises ConfigError where no layer of a denoiser can be converted."""
    library: Any = importlib.import_module("quark.torch.quantization.utils")
    for name, denoiser in denoisers.items():
        if not library.enable_native_inference(denoiser):
            raise ConfigError(f"{what} with native: true: AITER has no kernel for the weights of {name!r}. Leave out native.")


def format_of(layer: torch.nn.Module) -> str | None:
    """The format of a layer of Quark's or with a GGUF weight; None for any other."""
    if (quant_type := getattr(getattr(layer, "weight", None), "quant_type", None)) is not None and hasattr(quant_type, "name"):
        return f"GGUF {quant_type.name}"
    if not type(layer).__module__.startswith("quark."):
        return None
    spec = getattr(getattr(layer, "weight_quantizer", None), "qspec", None)
    stored = getattr(getattr(spec, "dtype", None), "value", None) or type(layer).__name__
    scale = getattr(getattr(spec, "scale_format", None), "value", None) or getattr(spec, "scale_format", None)
    by = "" if type(layer).__name__.startswith("QParams") else f" by {type(layer).__name__}"  # any other class multiplies natively
    return f"Quark {'mx' if scale == 'e8m0' else ''}{stored}{by}"
