"""Where nodes can be reached: announced by themselves only, known while they are away, gone when they are forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from muslin import rpc
from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.errors import Denied, InvalidArgument, MuslinError
from muslin.etcd import Etcd, keys
from muslin.rpc.identity import NODE_METADATA
from tests.integration.endpoint.clients import Client
from tests.support.etcd import EtcdServer
from tests.support.service import Service

Hosts = dict[str, endpoint_pb2.Host]


async def announce(client: Client, node: str, *addresses: str, ttl: int = 30, lease: int = 0, caller: str = "") -> int:
    request = endpoint_pb2.AnnounceRequest(host=endpoint_pb2.Host(node=node, addresses=addresses), ttl_seconds=ttl,
                                           lease=lease)
    with rpc.translated("announce"):
        answer = await client.endpoints.Announce(request, timeout=10, metadata=((NODE_METADATA, caller or node),))
    return answer.lease


async def hosts(client: Client) -> AsyncGenerator[Hosts, None]:
    """What is known after each message, from the snapshot on."""
    known: Hosts = {}
    complete = False
    async for message in client.endpoints.WatchHosts(endpoint_pb2.WatchHostsRequest(), timeout=60):
        known |= {host.node: host for host in message.hosts}
        for node in message.forgotten:
            known.pop(node, None)
        complete = complete or message.snapshot_complete
        if complete:
            yield dict(known)


async def test_a_node_announces_where_it_is(client: Client) -> None:
    """Changes of address are told; what is the cluster's own word of a node stays as it is."""
    await announce(client, "n1", "192.0.2.1", "2001:db8::1")
    async with aclosing(hosts(client)) as stream:
        assert await anext(stream) == {
            "n1": endpoint_pb2.Host(node="n1", addresses=["192.0.2.1", "2001:db8::1"], present=True)}
        await client.apply_node("n2", labels={"zone": "a"})
        await announce(client, "n2", "192.0.2.2")
        while "192.0.2.2" not in (await anext(stream)).get("n2", endpoint_pb2.Host()).addresses:
            pass
        await announce(client, "n2", "192.0.2.3")
        while "192.0.2.3" not in (await anext(stream))["n2"].addresses:
            pass
    assert (await client.node("n2")).labels == {"zone": "a"}


async def test_going_on_with_a_lease_writes_nothing(client: Client, etcd: EtcdServer,
                                                    replicas: list[Service]) -> None:
    """Of whichever process: a thousand nodes that say nothing new cost the store nothing."""
    lease = await announce(client, "n1", "192.0.2.1")
    async with Etcd([etcd.endpoint]) as store:
        before = (await store.range(keys.HOSTS)).revision
        assert await announce(client, "n1", "192.0.2.1", lease=lease) == lease
        async with Client(replicas[0].target) as other, asyncio.timeout(20):
            # A process that has not heard of the presence yet gives another lease, which does no harm.
            while (given := await announce(other, "n1", "192.0.2.1", lease=lease)) != lease:
                lease, before = given, (await store.range(keys.HOSTS)).revision
        assert (await store.range(keys.HOSTS)).revision == before


async def test_a_node_that_is_not_heard_of_is_absent_and_still_known(client: Client) -> None:
    await announce(client, "n1", "192.0.2.1", ttl=2)
    async with aclosing(hosts(client)) as stream, asyncio.timeout(40):
        assert (await anext(stream))["n1"].present
        while (known := await anext(stream))["n1"].present:
            pass
        assert known["n1"].addresses == ["192.0.2.1"]
        await announce(client, "n1", "192.0.2.1", ttl=30)
        while not (await anext(stream))["n1"].present:
            pass


async def test_a_node_that_is_deleted_is_forgotten(client: Client) -> None:
    """Also one that nobody but itself has told of."""
    await announce(client, "n1", "192.0.2.1")
    async with aclosing(hosts(client)) as stream, asyncio.timeout(20):
        await anext(stream)
        await client.endpoints.DeleteNodes(endpoint_pb2.DeleteNodesRequest(names=["n1"]), timeout=10)
        while await anext(stream):
            pass


@pytest.mark.parametrize(("node", "addresses", "ttl", "caller", "kind", "says"), [
    ("n1", ["192.0.2.1"], 30, "n2", Denied, "announces itself"),
    ("n1", ["192.0.2.300"], 30, "", InvalidArgument, r"host.addresses\[0\]"),
    ("n1", ["192.0.2.1", "192.0.2.2"], 30, "", InvalidArgument, "second of its family"),
    ("n1", ["127.0.0.1"], 30, "", InvalidArgument, "no address that other nodes can reach"),
    ("n1", ["fe80::1"], 30, "", InvalidArgument, "no address that other nodes can reach"),
    ("n1", [], 1, "", InvalidArgument, "ttl_seconds"),
    ("N/1", [], 30, "", InvalidArgument, r"names\[0\]"),
])
async def test_what_can_not_be_is_refused(client: Client, node: str, addresses: list[str], ttl: int, caller: str,
                                          kind: type[MuslinError], says: str) -> None:
    with pytest.raises(kind, match=says):
        await announce(client, node, *addresses, ttl=ttl, caller=caller)
