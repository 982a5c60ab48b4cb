"""One etcd for the tests of a module, emptied for each; fault tests have their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from muslin.etcd import Etcd, keys
from tests.support.etcd import EtcdServer


@pytest.fixture(scope="module")
def server() -> Iterator[EtcdServer]:
    with EtcdServer() as running:
        yield running


@pytest.fixture
async def etcd(server: EtcdServer) -> EtcdServer:
    async with Etcd([server.endpoint]) as store:
        for record in (await store.range(keys.IPAM)).items:
            await store.delete(record.key)
    return server
