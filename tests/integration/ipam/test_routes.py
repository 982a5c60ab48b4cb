"""Which node has which addresses: blocks, borrowed addresses, blocks that are nobody's, settings of pools."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from muslin import rpc
from muslin.api.ipam.v1 import ipam_pb2
from muslin.errors import InvalidArgument
from tests.integration.ipam.clients import Client
from tests.support.etcd import EtcdServer
from tests.support.service import Service

SECONDS = 20.0


class Known:
    """What a follower knows."""

    def __init__(self) -> None:
        self.routes: dict[str, str] = {}
        self.pools: dict[str, tuple[str, bool]] = {}


async def follow(client: Client) -> AsyncGenerator[Known, None]:
    known, complete = Known(), False
    async for message in client.ipam.WatchRoutes(ipam_pb2.WatchRoutesRequest(), timeout=60):
        known.routes |= {route.cidr: route.node for route in message.routes}
        for cidr in message.gone:
            known.routes.pop(cidr, None)
        if message.HasField("pools"):
            known.pools = {pool.name: (pool.encapsulation, pool.masquerade) for pool in message.pools.pools}
        complete = complete or message.snapshot_complete
        if complete:
            yield known


async def until(stream: AsyncGenerator[Known, None], wanted: Callable[[Known], bool]) -> None:
    known = None
    try:
        async with asyncio.timeout(SECONDS):
            while known is None or not wanted(known):
                known = await anext(stream)
    except TimeoutError:
        raise AssertionError(f"known at the end: {vars(known) if known else None}") from None


@pytest.fixture(scope="module")
def process(server: EtcdServer) -> Iterator[Service]:
    with Service("ipam", "--etcd", server.endpoint) as running:
        yield running


@pytest.fixture
async def client(etcd: EtcdServer, process: Service) -> AsyncGenerator[Client, None]:
    async with Client(process.target) as found:
        yield found


async def test_a_block_is_where_its_node_is_and_a_borrowed_address_where_its_holder_is(client: Client) -> None:
    """Blocks of two addresses, of which there are two: the third of a node is borrowed from the other."""
    await client.create_pool("p", "10.9.0.0/30", 31)
    mine = await client.assign(1, "n1")
    async with aclosing(follow(client)) as stream:
        await until(stream, lambda known: list(known.routes.values()) == ["n1"])
        await client.assign(2, "n2")
        await client.assign(3, "n1")
        await until(stream, lambda known: sorted(known.routes.values()) == ["n1", "n2"])
        borrowed = await client.assign(4, "n1")
        await until(stream, lambda known: known.routes.get(f"{borrowed}/32") == "n1" and len(known.routes) == 3)
        await client.release(4)
        await until(stream, lambda known: len(known.routes) == 2)
        # What its node gives up stays where its holders are.
        await client.release_affinity("n1")
        await until(stream, lambda known: known.routes.get(f"{mine}/32") == "n1"
                    and sum(cidr.endswith("/31") for cidr in known.routes) == 1)
        await client.release(1)
        await client.release(3)
        await until(stream, lambda known: list(known.routes.values()) == ["n2"])


async def test_another_follower_later_is_told_the_same(client: Client) -> None:
    await client.create_pool("p", "10.9.0.0/24", 31)
    for number in range(7):
        await client.assign(number, f"n{number % 3}")
    wanted = {block.cidr: block.node for block in await client.blocks()}
    for _ in range(2):
        async with aclosing(follow(client)) as stream:
            await until(stream, lambda known: known.routes == wanted)


async def update(client: Client, name: str, **fields: Any) -> None:
    with rpc.translated("update"):
        await client.ipam.UpdatePool(ipam_pb2.UpdatePoolRequest(name=name, **fields), timeout=10)


async def test_what_is_set_for_a_pool_is_told_and_kept(client: Client) -> None:
    await client.create_pool("p", "10.9.0.0/24")
    async with aclosing(follow(client)) as stream:
        await until(stream, lambda known: known.pools.get("p") == ("", True))
        await update(client, "p", encapsulation="vxlan", masquerade=False)
        await until(stream, lambda known: known.pools.get("p") == ("vxlan", False))
    await update(client, "p", disabled=True)
    pool = (await client.pools())["p"]
    assert (pool.encapsulation, pool.masquerade) == ("vxlan", False)
    with pytest.raises(InvalidArgument, match=r"pool.encapsulation 'ipip'"):
        await update(client, "p", encapsulation="ipip")
