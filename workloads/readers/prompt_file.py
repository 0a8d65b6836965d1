"""Prompts from a file in UTF-8: one a line, or JSON lines with reference answers.

In a text file blank lines and lines that begin with # are skipped. In a .jsonl file each line is an object with `prompt` and optionally
`answer` and `scored_by`: `rouge` (the default) or `exact_match`.
"""

from __future__ import annotations

import json
from pathlib import Path

from configs.errors import ConfigError, unknown
from workloads.records import Sample

BUILT_IN = Path(__file__).parent / "prompts"  # `builtin:NAME` is a file here
JUDGES = ("rouge", "exact_match")


def read_prompt_items(path: str) -> list[Sample]:
    """Samples from a text file or, if its name ends in .jsonl, from JSON lines. Raises ConfigError naming the line.

    `builtin:NAME` is a set that comes with the suite.
    """
    if path.startswith("builtin:"):
        known = {p.stem: str(p) for p in BUILT_IN.glob("*.jsonl")}
        if (name := path.removeprefix("builtin:")) not in known:
            raise ConfigError(unknown("built-in prompt set", name, known))
        path = known[name]
    if not path.endswith(".jsonl"):
        return [Sample(i, text) for i, text in enumerate(read_prompts(path))]
    samples: list[Sample] = []
    for number, line in enumerate(read_prompts(path), 1):
        where = f"prompt file {path!r}, entry {number}"
        try:
            item = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigError(f'{where} is not JSON ({error.msg}); write {{"prompt": "...", "answer": "..."}}') from None
        if not isinstance(item, dict) or not isinstance(item.get("prompt"), str) or not item["prompt"].strip():
            raise ConfigError(f'{where} has no "prompt" with text; write {{"prompt": "...", "answer": "..."}}')
        for key in item:
            if key not in ("prompt", "answer", "scored_by", "task"):
                raise ConfigError(f"{where} has {unknown('field', key, ('prompt', 'answer', 'scored_by', 'task'))}")
        if "answer" in item and not isinstance(item["answer"], str):
            raise ConfigError(f"{where}: the answer must be a text, got {item['answer']!r}")
        if item.get("scored_by", "rouge") not in JUDGES:
            raise ConfigError(f"{where}: {unknown('scored_by', item['scored_by'], JUDGES)}")
        meta = {k: v for k, v in item.items() if k != "prompt"}
        if "answer" in meta:
            meta.setdefault("scored_by", "rouge")
        samples.append(Sample(len(samples), item["prompt"], meta))
    return samples


def numbered_lines(path: str, example: str) -> list[tuple[int, str]]:
    """Lines that are not blank, with their numbers.

    example: a correct line, for the messages. Raises ConfigError if the file is missing, empty or not UTF-8.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise ConfigError(f"prompt file {path!r} does not exist; give dataset.prompts lines like {example}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"prompt file {path!r} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"prompt file {path!r} cannot be read: {error.strerror}; give a file with lines like {example}") from None
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise ConfigError(f"prompt file {path!r} has no prompt; write lines like {example}")
    return numbered


def read_prompts(path: str) -> list[str]:
    """The prompts in order. Raises ConfigError if the file is missing, empty or not UTF-8."""
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"prompt file {path!r} does not exist; give dataset.prompts a text file with one prompt a line") from None
    except IsADirectoryError:
        raise ConfigError(f"prompt file {path!r} is a folder; give dataset.prompts a text file with one prompt a line") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"prompt file {path!r} is not UTF-8 (byte {error.start}); save it as UTF-8, one prompt a line") from None
    except OSError as error:
        raise ConfigError(f"prompt file {path!r} cannot be read: {error.strerror}") from None
    prompts = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not prompts:
        raise ConfigError(f"prompt file {path!r} has no prompt; write one a line (lines that begin with # are comments)")
    return prompts
