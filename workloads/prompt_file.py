"""Prompts from a text file: one a line, UTF-8; blank lines and lines that begin with # are skipped."""

from __future__ import annotations

from pathlib import Path

from configs.errors import ConfigError


def read_prompts(path: str) -> list[str]:
    """The prompts in order. Raises ConfigError where the file is missing, empty or not UTF-8."""
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
        raise ConfigError(f"prompt file {path!r} holds no prompt; write one a line (lines that begin with # are comments)")
    return prompts
