"""Writes that arrive late, after their process has died: what was deleted or changed meanwhile stays as it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from muslin.api.policy.v1 import policy_pb2
from muslin.errors import MuslinError
from muslin.etcd import keys
from tests.integration.policy.clients import Client, namespace, network_policy
from tests.integration.policy.endpoints import EndpointServer
from tests.support.etcd import EtcdServer
from tests.support.etcd_faults import until
from tests.support.relay import Moment, Relay
from tests.support.service import Service

_TRANSACTIONS = ('grpc_server_handled_total{grpc_code="OK",grpc_method="Txn",grpc_service="etcdserverpb.KV",'
                 'grpc_type="unary"}')
POLICY = network_policy("x", "web", {"podSelector": {}})
OTHER = network_policy("x", "web", {"podSelector": {"matchLabels": {"app": "web"}}})
KEY = keys.policy_object("NetworkPolicy", "x", "web")

Step = Callable[[Client], Awaitable[Any]]


@asynccontextmanager
async def withheld(server: EtcdServer, endpoints: EndpointServer,
                   step: Step) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """A step whose transaction is on its way to etcd when its process is killed; calling this lets it arrive."""
    async with Relay(server.endpoint, silent=True) as relay:
        dying = Service("policy", "--etcd", relay.endpoint, "--endpoint", endpoints.target)
        try:
            await asyncio.to_thread(dying.start)
            async with Client(dying.target) as client:
                relay.stop_at(KEY, Moment.ASKED)
                task = asyncio.ensure_future(step(client))
                async with asyncio.timeout(20):
                    await relay.stopped.wait()
                dying.kill()
                with suppress(MuslinError):
                    await task
        finally:
            dying.stop()

        async def arrive() -> None:
            before = server.metric(_TRANSACTIONS)
            relay.go()
            await until(lambda: server.metric(_TRANSACTIONS) > before, 20)

        yield arrive


async def stored(client: Client) -> list[policy_pb2.Object]:
    """What there is, once this replica has seen all that was written before."""
    await client.apply(namespace("later"))
    return [item for item in (await client.listed()).objects if item.kind != "Namespace"]


async def test_a_policy_that_arrives_after_it_was_deleted(etcd: EtcdServer, endpoint_server: EndpointServer,
                                                          client: Client) -> None:
    """The deletion comes to another process, which finds nothing: what was sent before it may not come back."""
    async with withheld(etcd, endpoint_server, lambda dying: dying.apply(POLICY)) as arrive:
        await client.delete(POLICY)
        await arrive()
        assert await stored(client) == []


async def test_a_policy_that_was_repeated_and_deleted_meanwhile(etcd: EtcdServer, endpoint_server: EndpointServer,
                                                                client: Client) -> None:
    async with withheld(etcd, endpoint_server, lambda dying: dying.apply(POLICY, namespace("x"))) as arrive:
        await client.apply(POLICY)
        await client.delete(POLICY)
        await arrive()
        assert await stored(client) == []


async def test_a_version_that_arrives_after_a_newer_one(etcd: EtcdServer, endpoint_server: EndpointServer,
                                                        client: Client) -> None:
    async with withheld(etcd, endpoint_server, lambda dying: dying.apply(POLICY)) as arrive:
        await client.apply(OTHER)
        await arrive()
        assert await stored(client) == [OTHER]


async def test_a_deletion_that_arrives_after_its_policy_was_applied_again(
        etcd: EtcdServer, endpoint_server: EndpointServer, client: Client) -> None:
    await client.apply(POLICY)
    async with withheld(etcd, endpoint_server, lambda dying: dying.delete(POLICY)) as arrive:
        await client.apply(OTHER)
        await arrive()
        assert await stored(client) == [OTHER]


async def test_replicas_that_write_and_delete_at_once_all_succeed(etcd: EtcdServer, endpoint_server: EndpointServer,
                                                                  client: Client) -> None:
    """Each knows the other's writes late, and 16 fences are shared by all: nobody's patience is used up."""
    other = Service("policy", "--etcd", etcd.endpoint, "--endpoint", endpoint_server.target)
    try:
        await asyncio.to_thread(other.start)
        async with Client(other.target) as second:
            for _ in range(3):
                await asyncio.gather(
                    *(client.apply(network_policy("x", f"p{n}", {"podSelector": {}})) for n in range(20)),
                    *(second.delete(network_policy("x", f"q{n}", {})) for n in range(20)),
                    second.apply(*(network_policy("y", f"r{n}", {"podSelector": {}}) for n in range(150))))
                await asyncio.gather(
                    *(second.delete(network_policy("x", f"p{n}", {})) for n in range(20)),
                    client.delete(*(network_policy("y", f"r{n}", {}) for n in range(150))))
            assert await stored(client) == []
    finally:
        other.stop()
