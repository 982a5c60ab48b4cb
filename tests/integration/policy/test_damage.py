"""A stored policy that can not be understood: in force as it was, and closed after a restart; never open."""

from __future__ import annotations

import asyncio

import pytest

from muslin.api.policy.v1 import policy_pb2
from muslin.etcd import Etcd
from tests.integration.policy.clients import Client, namespace
from tests.integration.policy.endpoints import EndpointServer
from tests.integration.policy.test_service import CLIENT, POLICY, WEB
from tests.support.etcd import EtcdServer
from tests.support.service import Service

KEY = "/muslin/policy/v1/objects/NetworkPolicy/x/web"


@pytest.fixture(autouse=True)
def pods(endpoint_server: EndpointServer) -> None:
    endpoint_server.endpoints.put(WEB, CLIENT)


async def refused(client: Client) -> policy_pb2.PolicyStatus:
    """The policy's status, once this replica has seen the damage."""
    async with asyncio.timeout(20):
        while True:
            (policy,) = (await client.state()).policies
            if not policy.accepted:
                return policy
            await asyncio.sleep(0.02)


async def test_a_restart_opens_nothing(client: Client, service: Service, etcd: EtcdServer) -> None:
    await client.apply(namespace("x"), POLICY)
    assert [await client.allowed("x/client", "x/web", port) for port in (80, 81)] == [True, False]
    async with Etcd([etcd.endpoint]) as store:
        await store.put(KEY, b"damaged")
    status = await refused(client)
    assert "the version before it is in force" in status.conditions[0].message
    assert not status.closed
    assert [await client.allowed("x/client", "x/web", port) for port in (80, 81)] == [True, False]
    service.kill()
    service.launch()
    await asyncio.to_thread(service.wait)
    async with Client(service.target) as again:
        assert (await refused(again)).closed
        assert [await again.allowed("x/client", "x/web", port) for port in (80, 81)] == [False, False]
        assert not await again.allowed("x/web", "x/client", 80), "nobody knows any more which of its pods it was for"
        await again.apply(POLICY)
        assert [await again.allowed("x/client", "x/web", port) for port in (80, 81)] == [True, False]
        assert (await again.state()).policies[0].accepted
