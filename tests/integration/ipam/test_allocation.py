"""Pools, reservations, settings, cool-down, sticky addresses and nodes, through the API and across restarts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from muslin import rpc
from muslin.api.ipam.v1 import ipam_pb2
from muslin.errors import (
    AlreadyExists,
    Exhausted,
    FailedPrecondition,
    InvalidArgument,
    MuslinError,
    NotFound,
)
from muslin.etcd import Etcd, keys
from tests.integration.ipam.clients import Client, attachment, identity
from tests.support import ipam_invariants
from tests.support.etcd import EtcdServer
from tests.support.service import Service


@pytest.fixture(scope="module")
def process(server: EtcdServer) -> Iterator[Service]:
    with Service("ipam", "--etcd", server.endpoint) as running:
        yield running


@pytest.fixture
async def client(etcd: EtcdServer, process: Service) -> AsyncIterator[Client]:
    """Of a service without a pool."""
    async with Client(process.target) as found:
        yield found


async def assign(client: Client, number: int, node: str = "n1", pod: str = "", **fields: Any) -> ipam_pb2.Handle:
    request = ipam_pb2.AssignRequest(attachment=attachment(number), node=node, namespace="ns" if pod else "", pod=pod,
                                     **fields)
    with rpc.translated("assign"):
        return (await client.ipam.Assign(request, timeout=10)).handle


async def lookup(client: Client, address: str) -> ipam_pb2.LookupResponse:
    with rpc.translated("look up"):
        return await client.ipam.Lookup(ipam_pb2.LookupRequest(address=address), timeout=10)


async def update(client: Client, name: str, **fields: Any) -> ipam_pb2.Pool:
    with rpc.translated("update"):
        return (await client.ipam.UpdatePool(ipam_pb2.UpdatePoolRequest(name=name, **fields), timeout=10)).pool


async def remove_node(client: Client, node: str) -> ipam_pb2.RemoveNodeResponse:
    with rpc.translated("remove node"):
        return await client.ipam.RemoveNode(ipam_pb2.RemoveNodeRequest(node=node), timeout=10)


async def test_a_pool_is_made_changed_and_shown(client: Client) -> None:
    pool = ipam_pb2.Pool(name="six", cidr="fd00:10::/64", node_selector="zone == 'a'", namespace_selector="has(team)")
    with rpc.translated("create"):
        made = (await client.ipam.CreatePool(ipam_pb2.CreatePoolRequest(pool=pool), timeout=10)).pool
    assert (made.block_size, made.cool_down_seconds, made.size) == (122, 30, (1 << 64) - 1)
    assert (made.node_selector, made.namespace_selector) == ("zone == 'a'", "has(team)")
    changed = await update(client, "six", disabled=True, cool_down_seconds=0, node_selector="")
    assert (changed.disabled, changed.cool_down_seconds, changed.node_selector) == (True, 0, "")
    assert changed.namespace_selector == "has(team)", "what is not named stays"
    assert (await client.pools())["six"] == changed


@pytest.mark.parametrize(("fields", "named"), [
    ({"cool_down_seconds": 1201}, "cool_down_seconds"),
    ({"node_selector": "a == "}, "node_selector"),
    ({"namespace_selector": "&&"}, "namespace_selector"),
])
async def test_what_can_not_be_is_named(client: Client, fields: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidArgument, match=named), rpc.translated("create"):
        await client.ipam.CreatePool(ipam_pb2.CreatePoolRequest(
            pool=ipam_pb2.Pool(name="p", cidr="10.0.0.0/24", **fields)), timeout=10)
    await client.create_pool("p", "10.0.0.0/24")
    with pytest.raises(InvalidArgument, match=named):
        await update(client, "p", **fields)
    with pytest.raises(NotFound):
        await update(client, "other", disabled=True)


async def test_reservations(client: Client) -> None:
    await client.create_pool("small", "10.0.0.0/29", 29)
    held = [await client.assign(number) for number in range(2)]
    assert await client.reserve("first", "10.0.0.0/31", "10.0.0.7") == (["10.0.0.0/31", "10.0.0.7/32"], held)
    with pytest.raises(AlreadyExists):
        await client.reserve("first", "10.0.0.3")
    for cidrs in ((), ("10.0.0.1/29",), ("x",)):
        with pytest.raises(InvalidArgument, match=r"reservation\.cidrs"):
            await client.reserve("other", *cidrs)
    rest = [await client.assign(number) for number in range(2, 7)]
    assert rest == [f"10.0.0.{n}" for n in range(2, 7)]
    assert (await client.pools())["small"].reserved == 3
    with pytest.raises(Exhausted, match="3 reserved"):
        await client.assign(7)
    assert (await lookup(client, "10.0.0.7")).reservation == "first"
    await client.unreserve("first")
    assert await client.assign(7) == "10.0.0.7"
    with pytest.raises(NotFound):
        await client.unreserve("first")


async def test_settings(client: Client) -> None:
    await client.create_pool("small", "10.0.0.0/29", 30)
    with rpc.translated("settings"):
        first = (await client.ipam.GetConfig(ipam_pb2.GetConfigRequest(), timeout=10)).config
    assert first == ipam_pb2.Config(max_blocks_per_node=20)
    await client.configure(ipam_pb2.Config(strict_affinity=True, max_blocks_per_node=1))
    for number in range(4):
        await client.assign(number)
    with pytest.raises(Exhausted, match=r"1 of at most 1 blocks.*affinity is strict"):
        await client.assign(4)
    await client.assign(5, "n2")
    with pytest.raises(Exhausted):
        await client.assign(4)
    await client.configure(ipam_pb2.Config(max_blocks_per_node=1))
    address = await client.assign(4)
    borrowed = [block.borrowed for block in await client.blocks("n2")]
    assert borrowed == [1]
    assert (await lookup(client, address)).block.node == "n2"


async def test_cool_down_outlives_the_service(etcd: EtcdServer) -> None:
    """Freed, the service killed and started anew: not given before its time, and shown as cooling down; then it is."""
    with Service("ipam", "--etcd", etcd.endpoint, "--pool", "10.9.0.0/16") as process:
        async with Client(process.target) as client:
            await client.create_pool("tiny", "10.0.0.0/32", 32, cool_down=3)
            await client.delete_pool("default")
            address = await client.assign(1)
            await client.release(1)
            freed = time.monotonic()
            process.kill()
    with Service("ipam", "--etcd", etcd.endpoint) as process:
        async with Client(process.target) as client:
            with pytest.raises(Exhausted, match=r"1 cooling down \(the next is free in \d s\)"):
                await client.assign(2)
            pool = (await client.pools())["tiny"]
            assert (pool.used, pool.cooling) == (0, 1)
            found = await lookup(client, address)
            assert found.slot.handle == identity(1)
            assert abs(found.slot.released_ms / 1000 - time.time()) < 10
            async with asyncio.timeout(10):
                while True:
                    try:
                        assert await client.assign(2) == address
                        break
                    except Exhausted:
                        await asyncio.sleep(0.05)  # there is no event: the time has to pass
            assert time.monotonic() - freed >= 3


async def test_a_pod_that_returns_gets_its_address_again(etcd: EtcdServer, client: Client) -> None:
    await client.create_pool("small", "10.0.0.0/28", 28)
    first = await assign(client, 1, pod="db-0", sticky_seconds=600)
    assert await client.release(1) == []
    kept, = await client.handles()
    assert 590_000 < kept.kept_until_ms - time.time() * 1000 <= 600_000
    assert (await client.pools())["small"].used == 1
    assert (await assign(client, 2, pod="db-1")).addresses != first.addresses
    second = await assign(client, 3, "n2", pod="db-0", sticky_seconds=600)
    assert second.addresses == first.addresses
    assert second.held[0].sequence > first.held[0].sequence
    async with Etcd([etcd.endpoint]) as store:
        await ipam_invariants.check(store)


async def test_a_specific_address_and_its_errors(client: Client) -> None:
    await client.create_pool("small", "10.0.0.0/28", 28)
    assert (await assign(client, 1, addresses=["10.0.0.9"])).addresses == ["10.0.0.9"]
    cases: list[tuple[str, type[MuslinError], str]] = [
        ("10.0.0.9", AlreadyExists, identity(1)), ("10.1.0.1", InvalidArgument, "in no pool"),
        ("fd00::1", InvalidArgument, "in no pool"), ("ten", InvalidArgument, "addresses")]
    for address, error, named in cases:
        with pytest.raises(error, match=named):
            await assign(client, 2, addresses=[address])
    assert len(await client.handles()) == 1


async def test_lookup(client: Client) -> None:
    await client.create_pool("small", "10.0.0.0/28", 30)
    handle = await assign(client, 1, pod="web", addresses=["10.0.0.6"])
    found = await lookup(client, "10.0.0.6")
    assert (found.pool, found.block.cidr, found.handle) == ("small", "10.0.0.4/30", handle)
    assert (found.slot.address, found.slot.sequence) == ("10.0.0.6", handle.held[0].sequence)
    nothing = await lookup(client, "10.0.0.8")
    assert (nothing.pool, nothing.HasField("block"), nothing.HasField("slot")) == ("small", False, False)
    assert (await lookup(client, "192.0.2.1")) == ipam_pb2.LookupResponse()
    with pytest.raises(InvalidArgument, match="address"):
        await lookup(client, "ten")
    with rpc.translated("list"):
        block, = (await client.ipam.ListBlocks(ipam_pb2.ListBlocksRequest(slots=True), timeout=10)).blocks
    assert [slot.address for slot in block.slots] == ["10.0.0.6"]


async def test_affinity_is_given_up_and_taken_over(etcd: EtcdServer, client: Client) -> None:
    """A block with an address stays, is nobody's, and gives nothing; once empty another node claims it."""
    await client.create_pool("one", "10.0.0.0/30", 30)
    address = await client.assign(1)
    assert await client.release_affinity("n1", "10.9.0.0/16") == ([], [])
    assert await client.release_affinity("n1") == ([], ["10.0.0.0/30"])
    block, = await client.blocks()
    assert (block.node, block.affinity, block.used) == ("", ipam_pb2.Block.AFFINITY_NONE, 1)
    with pytest.raises(Exhausted, match="1 blocks of nodes that gave them up"):
        await client.assign(2, "n2")
    assert await client.release(1) == [address]
    await client.assign(2, "n2")
    async with Etcd([etcd.endpoint]) as store:
        await ipam_invariants.check(store)
        assert [item.key for item in (await store.range(keys.IPAM_AFFINITIES)).items] == [
            keys.affinity("n2", "10.0.0.0/30")]
    await client.release(2)
    assert await client.release_affinity("n2") == (["10.0.0.0/30"], [])
    for cidr in ("ten", "10.0.0.1/30"):
        with pytest.raises(InvalidArgument, match="cidr"):
            await client.release_affinity("n1", cidr)


async def test_a_node_is_not_removed_while_that_it_is_unused_is_not_known(client: Client) -> None:
    """Here there is no endpoint service to say so."""
    await client.create_pool("small", "10.0.0.0/28", 30)
    await client.assign(1)
    with pytest.raises(FailedPrecondition):
        await remove_node(client, "n1")
    assert len(await client.handles()) == 1


async def test_a_node_that_is_gone_is_removed(etcd: EtcdServer) -> None:
    """What it held is freed, what was kept for its pods too; its blocks go, but for one that another node uses."""
    with Service("endpoint", "--etcd", etcd.endpoint) as endpoint, Service(
            "ipam", "--etcd", etcd.endpoint, "--endpoint", endpoint.target, "--pool", "10.9.0.0/16") as process:
        async with Client(process.target) as client, Etcd([etcd.endpoint]) as store:
            await client.create_pool("small", "10.0.0.0/29", 30)
            await client.delete_pool("default")
            mine = [await client.assign(number, "gone") for number in range(5)]  # both blocks
            mine += (await assign(client, 5, "gone", pod="db-0", sticky_seconds=600)).addresses
            await client.release(5)
            lent = await client.assign(6, "alive")
            removed = await remove_node(client, "gone")
            assert set(removed.addresses) == set(mine)
            assert len(removed.blocks) == 1
            block, = await client.blocks()
            assert (block.node, block.affinity, block.used) == ("", ipam_pb2.Block.AFFINITY_NONE, 1)
            await ipam_invariants.check(store, {identity(6): lent})
            assert await remove_node(client, "gone") == ipam_pb2.RemoveNodeResponse(), "again"
            await client.assign(7, "alive")
            await ipam_invariants.check(store)
