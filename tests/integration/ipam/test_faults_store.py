"""The store's own trouble: its leader killed or frozen, history compacted, no space left; and clocks that are wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from itertools import count

import pytest

from muslin.api.ipam.v1 import ipam_pb2
from muslin.errors import Exhausted, MuslinError
from muslin.etcd import Etcd
from tests.integration.ipam.clients import Client, identity, persist
from tests.support import ipam_invariants
from tests.support.clock import Clock
from tests.support.etcd import EtcdCluster, EtcdServer
from tests.support.etcd_faults import Line
from tests.support.service import Service


@pytest.fixture(scope="module")
def cluster() -> Iterator[EtcdCluster]:
    with EtcdCluster() as members:
        yield members


async def leader(cluster: EtcdCluster) -> EtcdServer:
    async with Etcd(cluster.endpoints) as etcd:
        name = (await etcd.status()).leader
    return next(member for member in cluster.members if member.name == name)


def kill(member: EtcdServer) -> Callable[[], None]:
    member.kill()
    return member.start


def freeze(member: EtcdServer) -> Callable[[], None]:
    member.freeze()
    return member.thaw


@pytest.mark.parametrize("fault", [kill, freeze])
async def test_the_leader_goes_and_another_takes_over(
        cluster: EtcdCluster, fault: Callable[[EtcdServer], Callable[[], None]]) -> None:
    """Three members, two address managers: while the leader is away all are served, and nothing is given twice."""
    flags = [flag for endpoint in cluster.endpoints for flag in ("--etcd", endpoint)]
    with Service("ipam", *flags) as one, Service("ipam", *flags) as other:
        async with Client(one.target) as first, Client(other.target) as second, Etcd(cluster.endpoints) as store:
            clients = (first, second)
            before = await asyncio.gather(*(persist(partial(clients[n % 2].assign, n)) for n in range(8)))
            undo = fault(await leader(cluster))
            try:
                during = await asyncio.gather(*(
                    persist(partial(clients[n % 2].assign, n, f"n{n % 3}", timeout=2)) for n in range(8, 20)))
            finally:
                undo()
            await asyncio.to_thread(cluster.heal)
            held = {identity(n): address for n, address in enumerate([*before, *during])}
            assert len(set(held.values())) == 20
            await ipam_invariants.check(store, held)
            await asyncio.gather(*(persist(partial(clients[n % 2].release, n)) for n in range(20)))
            await ipam_invariants.check(store, {})


async def test_compacted_behind_a_cut_line(etcd: EtcdServer) -> None:
    """A replica that was cut off learns, after the history it missed is gone, what the other has done meanwhile."""
    async with AsyncExitStack() as stack:
        line = await stack.enter_async_context(Line(etcd.endpoint))
        clients = []
        for endpoint in (line.endpoint, etcd.endpoint):
            service = Service("ipam", "--etcd", endpoint, "--pool", "10.0.0.0/30")
            stack.callback(service.stop)
            await asyncio.to_thread(service.start)  # the line is served by this loop
            clients.append(await stack.enter_async_context(Client(service.target)))
        behind, other = clients
        store = await stack.enter_async_context(Etcd([etcd.endpoint]))
        held = {identity(0): await behind.assign(0)}
        line.block()
        for number in (1, 2, 3):
            held[identity(number)] = await other.assign(number)
        await other.release(2)
        held.pop(identity(2))
        await asyncio.to_thread(etcd.compact)
        line.unblock()
        assert await persist(partial(behind.assign, 3)) == held[identity(3)]
        with pytest.raises(Exhausted, match="cooling down"):
            await persist(partial(behind.assign, 9))
        await ipam_invariants.check(store, held)


async def test_a_store_without_space_is_named() -> None:
    """NOSPACE: an ADD fails, says why, and has done nothing."""
    with (EtcdServer(arguments=["--quota-backend-bytes=2000000"]) as small,
          Service("ipam", "--etcd", small.endpoint) as service):
        async with Client(service.target) as client, Etcd([small.endpoint]) as store:
            held = {identity(0): await client.assign(0)}
            with pytest.raises(MuslinError, match="space"):
                await fill(store)
            await until_alarmed(store)
            with pytest.raises(MuslinError, match="space"):
                await client.assign(1)
            await ipam_invariants.check(store, held)


@pytest.mark.skipif(not Clock.possible, reason="moving a process' clock needs a C compiler")
@pytest.mark.parametrize("hour", [3600, -3600])
async def test_a_clock_an_hour_off(etcd: EtcdServer, hour: int) -> None:
    """One replica's clock jumps while it runs: what it frees still cools down for the other, and the other way round.

    Nothing is given early, and nothing is kept back for an hour.
    """
    with Clock() as clock:
        pool = ("--etcd", etcd.endpoint, "--pool", "10.0.0.0/30")
        with (Service("ipam", *pool, environment=clock.environment) as wrong, Service("ipam", *pool) as right):
            async with Client(wrong.target) as first, Client(right.target) as second, Etcd([etcd.endpoint]) as store:
                held = {n: await first.assign(n) for n in range(4)}
                clock.move(hour)
                await first.ipam.UpdatePool(ipam_pb2.UpdatePoolRequest(name="default", cool_down_seconds=2), timeout=10)
                loop = asyncio.get_running_loop()
                for gone, new, one, other in ((0, 10, first, second), (1, 11, second, first)):
                    freed = loop.time()
                    assert await one.release(gone) == [held.pop(gone)]
                    with pytest.raises(Exhausted, match="cooling down"):
                        await other.assign(new)
                    held[new] = await until_given(other, new)

                    assert 2.0 <= loop.time() - freed < 10
                await ipam_invariants.check(store, {identity(n): address for n, address in held.items()})


async def fill(store: Etcd) -> None:
    """Write until there is no space. etcd counts what it has on disk, which it writes ten times a second."""
    async with asyncio.timeout(60):
        for number in count():
            await store.put(f"/other/{number}", b"x" * 200_000)


async def until_alarmed(store: Etcd) -> None:
    """The write that leaves no space is done all the same, and the alarm after which none is comes a little later."""
    async with asyncio.timeout(30):
        while True:
            if any(alarm.kind == "NOSPACE" for alarm in await store.alarms()):
                return
            await asyncio.sleep(0.02)


async def until_given(client: Client, number: int) -> str:
    """Ask until the pool has an address."""
    async with asyncio.timeout(15):
        while True:
            try:
                return await client.assign(number)
            except Exhausted:
                await asyncio.sleep(0.05)


async def test_del_before_add_and_del_of_the_old_sandbox_after_the_new_one_s_add(etcd: EtcdServer) -> None:
    """A DEL frees what exactly this sandbox holds: nothing, before its ADD; never the new one's."""
    with Service("ipam", "--etcd", etcd.endpoint) as one, Service("ipam", "--etcd", etcd.endpoint) as other:
        async with Client(one.target) as first, Client(other.target) as second, Etcd([etcd.endpoint]) as store:
            assert await first.release(1) == []
            old = await first.assign(1)
            new = await second.assign(2)
            assert await second.release(1) == [old]
            assert await first.release(1) == []
            await ipam_invariants.check(store, {identity(2): new})
