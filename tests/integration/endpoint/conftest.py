"""One etcd and one service for the tests of a module, emptied for each; fault tests have their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, suppress

import pytest

from muslin.etcd import Etcd, keys
from muslin.etcd.mirror import Mirror
from services.endpoint.store import Store
from tests.integration.endpoint.clients import Client
from tests.support.etcd import EtcdServer
from tests.support.service import Service


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


@pytest.fixture(scope="module")
def service(etcd: EtcdServer) -> Iterator[Service]:
    with Service("endpoint", "--etcd", etcd.endpoint) as process:
        yield process


@pytest.fixture
async def client(etcd: EtcdServer, service: Service) -> AsyncIterator[Client]:
    async with Etcd([etcd.endpoint]) as store:
        for record in (await store.range(keys.ENDPOINT)).items:
            await store.delete(record.key)
    async with Client(service.target) as made:
        yield made


@pytest.fixture
def replicas(etcd: EtcdServer) -> Iterator[list[Service]]:
    """Two more."""
    with ExitStack() as stack:
        processes = [Service("endpoint", "--etcd", etcd.endpoint) for _ in range(2)]
        for process in processes:
            stack.callback(process.stop)
            process.launch()
        for process in processes:
            process.wait()
        yield processes


@pytest.fixture
async def store(etcd: EtcdServer) -> AsyncIterator[Store]:
    """The records in this process, with a short history."""
    async with Etcd([etcd.endpoint]) as client:
        mirror = Mirror(client, keys.ENDPOINT)
        made = Store(client, mirror, kept=20)
        task = asyncio.create_task(mirror.run())
        await mirror.ready.wait()
        yield made
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
