"""Devices that this machine does not have."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

See = Callable[..., None]


@pytest.fixture
def sees(monkeypatch: pytest.MonkeyPatch) -> See:
    """Let torch see these devices, as its ROCm build does where `hip` is given."""

    def see(*devices: Any, hip: str | None = None) -> None:
        monkeypatch.setattr(torch.version, "hip", hip)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(devices))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(devices))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda d: devices[d if isinstance(d, int) else d.index])
        monkeypatch.setitem(sys.modules, "amdsmi", None)  # as if not installed, until a test puts one there
        monkeypatch.setitem(sys.modules, "pynvml", None)

    return see
