"""A server with faults, and the endpoint as its client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from configs.registry import make
from pipelines.endpoint.pipeline import Endpoint
from tests.pipelines.endpoint.fault_server import FaultServer


@pytest.fixture
def server() -> Iterator[FaultServer]:
    server = FaultServer()
    yield server
    server.stop()


@pytest.fixture
def loaded(server: FaultServer) -> Iterator[Callable[..., Endpoint]]:
    endpoints: list[Endpoint] = []

    def load(**options: Any) -> Endpoint:
        endpoints.append(make("pipelines", "endpoint", {"url": server.url} | options))
        endpoints[-1].load(torch.device("cpu"))
        return endpoints[-1]

    yield load
    for endpoint in endpoints:
        endpoint.close()
