"""A node that is drained gets nothing new from the moment it is said, of any process; what it has serves on."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack

import pytest

from muslin import rpc
from muslin.api.ipam.v1 import ipam_pb2
from muslin.errors import Exhausted, FailedPrecondition, InvalidArgument
from muslin.etcd import Etcd, keys
from tests.integration.ipam.clients import Client, attachment
from tests.support import ipam_invariants
from tests.support.etcd import EtcdServer
from tests.support.service import Service

_SOON = 60.0


_NOBODY = "unix:/nonexistent/endpoint.sock"
"""No endpoint service is there: claims are not known, so nothing is collected behind the tests' backs."""


@pytest.fixture(scope="module")
def services(server: EtcdServer) -> Iterator[list[Service]]:
    """Two processes on one store."""
    made = [Service("ipam", "--etcd", server.endpoint, "--endpoint", _NOBODY) for _ in range(2)]
    with ExitStack() as stack:
        for service in made:
            stack.callback(service.stop)
            service.launch()
        for service in made:
            service.wait()
        yield made


@pytest.fixture
async def clients(services: list[Service], etcd: EtcdServer) -> AsyncIterator[list[Client]]:
    """Of both, with nothing but blocks of four addresses that are given again at once."""
    async with AsyncExitStack() as stack:
        made = [await stack.enter_async_context(Client(service.target)) for service in services]
        pool = ipam_pb2.Pool(name="small", cidr="10.1.0.0/24", block_size=30, cool_down_seconds=0)
        await made[0].ipam.CreatePool(ipam_pb2.CreatePoolRequest(pool=pool), timeout=30)
        yield made


async def drain(client: Client, node: str, *, undo: bool = False) -> ipam_pb2.DrainNodeResponse:
    with rpc.translated("drain"):
        return await client.ipam.DrainNode(ipam_pb2.DrainNodeRequest(node=node, undo=undo), timeout=30)


async def use(client: Client, node: str = "") -> dict[str, tuple[int, int, bool]]:
    answer = await client.ipam.ListNodes(ipam_pb2.ListNodesRequest(node=node), timeout=30)
    return {each.node: (each.blocks, each.addresses, each.draining) for each in answer.nodes}


async def test_blocks_go_as_pods_leave(clients: list[Client]) -> None:
    client, other = clients
    for number in range(6):
        await client.assign(number)
    await client.assign(100, "n2")
    assert await use(client) == {"n1": (2, 6, False), "n2": (1, 1, False)}
    answer = await drain(client, "n1")
    assert (answer.left, list(answer.released)) == (
        ipam_pb2.NodeUse(node="n1", blocks=2, addresses=6, draining=True), [])
    for each in clients:
        with pytest.raises(Exhausted, match="node n1 is drained of addresses and gets no new one; muslin node drain-"):
            await each.assign(50)
    held = {handle.attachment.container_id: handle.addresses[0] for handle in await client.handles("n1")}
    assert await other.assign(3) == held["c3"]
    assert (await other.assign(101, "n2")).startswith("10.1.0.")
    for number in range(6):
        await client.release(number)
    answer = await drain(other, "n1")
    assert (answer.left, len(answer.released)) == (ipam_pb2.NodeUse(node="n1", draining=True), 2)
    assert await use(client) == {"n1": (0, 0, True), "n2": (1, 2, False)}


async def test_undo_gives_addresses_again_and_keeps_blocks(clients: list[Client]) -> None:
    client, other = clients
    first = await client.assign(1)
    (before,) = await client.blocks("n1")
    await drain(client, "n1")
    answer = await drain(other, "n1", undo=True)
    assert answer.left == ipam_pb2.NodeUse(node="n1", blocks=1, addresses=1)
    await client.assign(2)
    (block,) = await client.blocks("n1")
    assert (block.cidr, block.used, block.affinity) == (before.cidr, 2, before.affinity)
    assert await client.assign(1) == first


async def test_a_drained_node_borrows_nothing(clients: list[Client]) -> None:
    """No automatic, and no specific address of another's block; another node does not borrow of its blocks."""
    client, _ = clients
    await client.assign(1)
    there = await client.assign(2, "n2")
    await drain(client, "n1")
    request = ipam_pb2.AssignRequest(attachment=attachment(3), node="n1",
                                     addresses=[str(ipaddress.ip_address(there) + 1)])
    with pytest.raises(Exhausted, match="is drained"), rpc.translated("assign"):
        await client.ipam.Assign(request, timeout=30)
    (mine,) = await client.blocks("n1")
    free = str(ipaddress.ip_network(mine.cidr)[3])
    request = ipam_pb2.AssignRequest(attachment=attachment(4), node="n2", addresses=[free])
    with pytest.raises(FailedPrecondition, match="which is being given up"), rpc.translated("assign"):
        await client.ipam.Assign(request, timeout=30)


@pytest.mark.parametrize("name", ["", "a/b"])
async def test_what_is_no_name_is_refused(clients: list[Client], name: str) -> None:
    with pytest.raises(InvalidArgument, match="node"):
        await drain(clients[0], name)


async def test_nothing_is_given_after_the_answer_by_any_process(clients: list[Client], etcd: EtcdServer) -> None:
    """Both assign for all they are worth while the node is drained: it has its three blocks, and borrows."""
    client, other = clients
    await client.configure(ipam_pb2.Config(max_blocks_per_node=3))
    for number in range(12):
        await client.assign(1000 + number, f"m{number}")
    drained = asyncio.Event()
    late: list[str] = []

    async def assign(each: Client, begin: int) -> None:
        for number in range(begin, begin + 60):
            after = drained.is_set()
            try:
                address = await each.assign(number, "n1", timeout=30)
            except Exhausted:
                continue
            if after:
                late.append(address)

    async def stop() -> None:
        while len(await client.handles("n1")) < 20:  # noqa: ASYNC110  in the middle of it
            await asyncio.sleep(0.01)
        await drain(other, "n1")
        drained.set()

    async with asyncio.timeout(_SOON), asyncio.TaskGroup() as group:
        group.create_task(stop())
        for number, each in enumerate((client, other, client, other)):
            group.create_task(assign(each, 100 * number))
    assert late == []
    assert (await use(client))["n1"][2]
    async with Etcd([etcd.endpoint]) as store:
        await ipam_invariants.check(store)


async def test_the_mark_is_stored(clients: list[Client], etcd: EtcdServer) -> None:
    client, _ = clients
    await drain(client, "n1")
    async with Etcd([etcd.endpoint]) as store:
        record = await store.get(keys.ipam_node("n1"))
        assert record is not None
        assert b'"draining":true' in record.value
    assert await use(client, "n1") == {"n1": (0, 0, True)}
    assert await use(client, "other") == {"other": (0, 0, False)}
