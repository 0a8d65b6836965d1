"""Checks of a checkpoint, before and after it is loaded, and its loading: what is missing, damaged or unreachable is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from configs.decode import reading
from configs.errors import ConfigError, first_line

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
FIX = "restore it from where the model came from (in this repository: git checkout -- PATH)"


def check_diffusers_folder(folder: Path) -> None:
    """Raises ConfigError naming the first file of a diffusers checkpoint that is missing or damaged.

    Safetensors only: a component whose weights are in another format counts as missing.
    """
    if not folder.is_dir():
        raise ConfigError(f"checkpoint {str(folder)!r} is not a folder; give a folder written by save_pretrained")
    index = _read_json(folder / "model_index.json")
    for name, entry in index.items():
        if not isinstance(entry, list) or not entry or entry[0] is None:
            continue
        part = folder / name
        if not part.is_dir():
            raise ConfigError(f"checkpoint {str(folder)!r} is incomplete: folder {name!r} is missing; {FIX}")
        if (part / "config.json").exists() or str(entry[-1]).endswith(("Model", "Model3DModel", "Wan")):
            _read_json(part / "config.json")
            _check_weights(part)


def check_transformers_folder(folder: Path) -> None:
    """Raises ConfigError naming the first file of a transformers checkpoint that is missing or damaged: config.json, weights, tokenizer."""
    if not folder.is_dir():
        raise ConfigError(f"checkpoint {str(folder)!r} is not a folder; give a folder written by save_pretrained")
    _read_json(folder / "config.json")
    _check_weights(folder)
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        raise ConfigError(f"checkpoint {str(folder)!r} has no tokenizer (one of {', '.join(TOKENIZER_FILES)}); {FIX}")
    if (folder / "tokenizer.json").exists():
        _read_json(folder / "tokenizer.json")


def from_pretrained(kind: Any, where: str, model: str, built_in: str = "embedded", **options: Any) -> Any:
    """`kind.from_pretrained(where, **options)`. Raises ConfigError with what to do, whatever the libraries raise.

    model: as the user named it. built_in: the models of this kind that come with the suite.
    """
    try:
        return kind.from_pretrained(where, **options)
    except ConfigError:
        raise
    except Exception as error:  # transformers, safetensors, gguf and the hub raise many kinds
        raise ConfigError(f"model {model!r} cannot be loaded: {load_problem(error, where)} (built in: {built_in})") from error


def load_problem(error: BaseException, where: str) -> str:
    """What is wrong with a checkpoint and what to do, from what the libraries raise."""
    names = set()
    link: BaseException | None = error
    while link is not None:
        names |= {kind.__name__ for kind in type(link).__mro__}
        link = link.__cause__ or link.__context__
    if "GatedRepoError" in names:
        return "it is gated; accept its terms on the hub, then run `hf auth login` or set HF_TOKEN"
    if names & {"LocalEntryNotFoundError", "OfflineModeIsEnabled"}:
        return f"it is not on this disk and the hub cannot be reached; run `hf download {where}` where it can be, or give a folder"
    if "RepositoryNotFoundError" in names:
        return "the hub has no such model, or it is private; check the name, and for a private one set HF_TOKEN"
    return f"{first_line(error)}; give a folder written by save_pretrained or a hub name"


class _Index(msgspec.Struct):
    """model.safetensors.index.json: the file of each tensor."""

    weight_map: dict[str, str] = {}


def _listed(index: Path) -> set[str]:
    """Names of the files in an index. Raises ConfigError where one is not beside it."""
    names = set(_read_json(index, _Index).weight_map.values())
    for name in names:
        if Path(name).name != name or "\0" in name:
            raise ConfigError(f"checkpoint file {str(index)!r} is damaged: it names {name!r:.80}, which is no file beside it; {FIX}")
    return names


def weight_files(part: Path) -> list[Path]:
    """The safetensors files of a folder: those that an index lists, else all. Raises ConfigError for a damaged index."""
    names = {name for index in part.glob("*.safetensors.index.json") for name in _listed(index)}
    return sorted(part / name for name in names) or sorted(part.glob("*.safetensors"))


def check_tokenizer(tokenizer: Any, num_tokens: int, model: str) -> None:
    """num_tokens: of the network's embeddings. Raises ConfigError where the tokenizer has ids beyond them."""
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= num_tokens:
        raise ConfigError(
            f"model {model!r}: its tokenizer has token ids up to {highest}, but the network has only {num_tokens} tokens; "
            "give the tokenizer that it was trained with"
        )


def _check_weights(part: Path) -> None:
    files = sorted(part.glob("*.safetensors"))
    for index in part.glob("*.safetensors.index.json"):
        if missing := sorted(_listed(index) - {f.name for f in files}):
            raise ConfigError(f"checkpoint {str(part)!r} is incomplete: {missing[0]:.80} is missing; {FIX}")
    if not files:
        raise ConfigError(f"checkpoint {str(part)!r} is incomplete: it has no .safetensors file; {FIX}")
    for file in files:
        _check_safetensors(file)


def _check_safetensors(file: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            opened.keys()
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"checkpoint file {str(file)!r} is damaged ({error}); {FIX}") from None


def _read_json(path: Path, kind: Any = dict[str, Any]) -> Any:
    if not path.exists():
        raise ConfigError(f"checkpoint {str(path.parent)!r} is incomplete: {path.name} is missing; {FIX}")
    with reading(f"checkpoint file {str(path)!r}", FIX):
        value = json.loads(path.read_text(encoding="utf-8"))  # not msgspec: configurations may hold NaN and Infinity
        return msgspec.convert(value, kind)
