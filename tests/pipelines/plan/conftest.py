"""Networks on the meta device, built and traced once a session: the largest take seconds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pipelines.plan import modules, video


@pytest.fixture(scope="session", autouse=True)
def each_network_is_built_once() -> Iterator[None]:
    built: dict[tuple[str, str], Any] = {}
    build_video, build_language = video.build, modules.build

    def once_video(parts: Any, index: Any, name: str) -> Any:
        return built[key] if (key := (name, str(parts))) in built else built.setdefault(key, build_video(parts, index, name))

    def once_language(config: Any, name: str) -> Any:
        return built[key] if (key := (name, config.to_json_string())) in built else built.setdefault(key, build_language(config, name))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(video, "build", once_video)
        patch.setattr(modules, "build", once_language)
        yield
