"""A policy service as a process, on a real etcd, with an endpoint service that tests can steer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.integration.policy.clients import Client
from tests.integration.policy.endpoints import EndpointServer
from tests.support.etcd import EtcdServer
from tests.support.service import Service


@pytest.fixture
def etcd() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


@pytest.fixture
async def endpoint_server(tmp_path: Path) -> AsyncIterator[EndpointServer]:
    async with EndpointServer(tmp_path) as server:
        yield server


@pytest.fixture
async def service(etcd: EtcdServer, endpoint_server: EndpointServer) -> AsyncIterator[Service]:
    async with Service("policy", "--etcd", etcd.endpoint, "--endpoint", endpoint_server.target) as made:
        yield made


@pytest.fixture
async def client(service: Service) -> AsyncIterator[Client]:
    async with Client(service.target) as made:
        yield made
