"""The inventory: complete, in order, from any process, and bounded whatever its reader does."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.errors import Compacted, InvalidArgument
from muslin.etcd import Etcd, keys
from services.endpoint.inventory import BYTES, watch_inventory
from services.endpoint.store import Store
from tests.integration.endpoint.clients import Client, call, pod
from tests.support.etcd import EtcdServer
from tests.support.service import Service

Response = endpoint_pb2.WatchInventoryResponse
Known = dict[tuple[str, str], endpoint_pb2.InventoryChange]


def take(known: Known, response: Response) -> None:
    for change in response.changes:
        kind = change.WhichOneof("object")
        assert kind
        item = getattr(change, kind)
        key = kind, f"{item.namespace}/{item.name}" if kind == "pod" else item.name
        if change.deleted:
            del known[key]
        else:
            known[key] = change


async def snapshot(stream: AsyncGenerator[Response, None]) -> Known:
    known: Known = {}
    async for response in stream:
        take(known, response)
        if response.snapshot_complete:
            return known
    raise AssertionError("a watch does not end")


async def test_a_snapshot_and_then_what_changes(client: Client) -> None:
    """All three kinds, and nothing of endpoints, which have a watch of their own."""
    await client.apply(pod(annotations={"a": "b"}))
    await client.apply_namespace("prod", labels={"tier": "one"}, annotations={"c": "d"})
    async with aclosing(client.inventory()) as stream:
        known = await snapshot(stream)
        assert sorted(known) == [("namespace", "prod"), ("pod", "prod/web")]
        assert known["namespace", "prod"].namespace == endpoint_pb2.Namespace(
            name="prod", labels={"tier": "one"}, annotations={"c": "d"})
        assert known["pod", "prod/web"].pod.annotations == {"a": "b"}
        await client.add(call(1))
        await client.apply_node("worker", labels={"zone": "a"})
        added, = (await anext(stream)).changes
        assert added == endpoint_pb2.InventoryChange(node=endpoint_pb2.Node(name="worker", labels={"zone": "a"}))
        await client.endpoints.DeleteNodes(endpoint_pb2.DeleteNodesRequest(names=["worker", "absent"]), timeout=10)
        gone, = (await anext(stream)).changes
        assert gone == endpoint_pb2.InventoryChange(deleted=True, node=endpoint_pb2.Node(name="worker"))
        await client.endpoints.DeleteNamespaces(endpoint_pb2.DeleteNamespacesRequest(names=["prod"]), timeout=10)
        await client.forget("web")
        take(known, await anext(stream))
        take(known, await anext(stream))
        assert known == {}


async def test_applying_what_is_known_already_changes_nothing(client: Client) -> None:
    await client.apply_namespace("prod", labels={"tier": "one"})
    async with aclosing(client.inventory()) as stream:
        await snapshot(stream)
        await client.apply_namespace("prod", labels={"tier": "one"})
        await client.apply_namespace("prod", labels={"tier": "two"})
        change, = (await anext(stream)).changes
        assert change.namespace.labels == {"tier": "two"}


async def test_an_empty_snapshot_is_complete_too(client: Client) -> None:
    async with aclosing(client.inventory()) as stream:
        assert await anext(stream) == Response(snapshot_complete=True)


async def test_what_another_process_took_is_told(client: Client, replicas: list[Service]) -> None:
    async with (Client(replicas[0].target) as one, Client(replicas[1].target) as other,
                aclosing(one.inventory()) as stream):
        await snapshot(stream)
        await other.apply_namespace("prod")
        change, = (await anext(stream)).changes
        assert change.namespace.name == "prod"


async def test_long_annotations_come_in_messages_of_a_bearable_size(client: Client) -> None:
    """A pod may have 256 KiB of annotations; etcd takes 1.5 MB in one transaction, and gRPC's messages have a limit."""
    long = {"note": "x" * 200_000}
    await client.apply(*(pod(f"p{number}", annotations=long) for number in range(12)))
    async with aclosing(client.inventory()) as stream:
        known: Known = {}
        async for response in stream:
            assert response.ByteSize() < BYTES + 300_000
            take(known, response)
            if response.snapshot_complete:
                break
    assert len(known) == 12


async def test_a_damaged_record_is_as_good_as_gone(etcd: EtcdServer, client: Client) -> None:
    await client.apply_namespace("prod")
    async with aclosing(client.inventory()) as stream:
        await snapshot(stream)
        async with Etcd([etcd.endpoint]) as store:
            await store.put(keys.namespace("prod"), b'{"name": "other"}')
            await store.put(keys.node("worker"), b"{")
        gone, = (await anext(stream)).changes
        assert (gone.deleted, gone.namespace.name) == (True, "prod")
        await client.apply_node("worker")
        healed, = (await anext(stream)).changes
        assert healed.node.name == "worker"
    async with aclosing(client.inventory()) as stream:
        assert sorted(await snapshot(stream)) == [("node", "worker")]


async def test_a_name_that_is_none_is_refused(client: Client) -> None:
    with pytest.raises(InvalidArgument, match=r"namespaces\[0\].name 'A' is not a Kubernetes name"):
        await client.apply_namespace("A")


async def test_a_reader_that_is_too_slow_is_sent_away(client: Client, store: Store) -> None:
    """It costs no memory while it does not read, and is told to begin anew when it does."""
    async with aclosing(watch_inventory(store)) as slow, aclosing(watch_inventory(store)) as quick:
        await anext(slow)
        await snapshot(quick)
        for number in range(60):
            await client.apply_node(f"n{number}")
            assert (await anext(quick)).changes[0].node.name == f"n{number}"
        assert sum(len(b.events) for b in store.inventory.read(store.inventory.after(store.inventory.floor),
                                                               1000)[0]) <= 40
        with pytest.raises(Compacted, match="fallen behind"):
            await anext(slow)
    async with aclosing(watch_inventory(store)) as again:
        assert len(await snapshot(again)) == 60
