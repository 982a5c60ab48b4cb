"""The service is killed, or cut off, at every request to etcd that an operation makes, before it and after it.

Not by chance: a line between the two stops at the first request, the second, and so on until the operation is through.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest

from muslin.errors import MuslinError, NotFound, TimedOut
from muslin.etcd import Etcd, keys
from tests.integration.ipam.clients import Client, identity, persist
from tests.support import ipam_invariants
from tests.support.etcd import EtcdServer
from tests.support.relay import Moment, Relay
from tests.support.service import Service

Step = Callable[[Client], Awaitable[object]]


class Line:
    """A service whose way to etcd is a relay."""

    def __init__(self, relay: Relay, service: Service, store: Etcd) -> None:
        self.relay, self.service, self.store = relay, service, store
        self.written = 0
        """Stops at which the operation had changed the store already."""

    async def revision(self) -> int:
        return (await self.store.range(keys.IPAM)).revision

    async def at(self, client: Client, step: Step, text: str, moment: Moment, number: int,
                 ) -> asyncio.Task[object] | None:
        """Begin a step, up to its `number`th request that holds a text; None if it made fewer, and is through."""
        before = await self.revision()
        self.relay.stop_at(text, moment, number)
        task = asyncio.ensure_future(step(client))
        stopped = asyncio.ensure_future(self.relay.stopped.wait())
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED, timeout=10)
        if not self.relay.stopped.is_set():
            stopped.cancel()
            self.relay.go()
            await task
            return None
        if moment is Moment.DONE:
            # A request that only reads leaves no trace to wait for: etcd gets the time for a write.
            for _ in range(10):
                await asyncio.sleep(0.01)
                if await self.revision() != before:
                    self.written += 1
                    break
        return task

    async def kill(self) -> None:
        """Kill the service; what the line has withheld is lost."""
        self.service.kill()
        self.relay.drop()
        await asyncio.to_thread(self.service.start)


@asynccontextmanager
async def line(server: EtcdServer) -> AsyncIterator[Line]:
    async with Etcd([server.endpoint]) as store, Relay(server.endpoint) as relay:
        service = Service("ipam", "--etcd", relay.endpoint, "--pool", "10.0.0.0/24")
        try:
            await asyncio.to_thread(service.start)
            yield Line(relay, service, store)
        finally:
            service.stop()


async def points(line: Line, prepare: Step, step: Step, text: str, after: Callable[[], Awaitable[None]]) -> int:
    """Kill at each point of a step; the count of points there are. After each, the step is done by being repeated."""
    for number in range(1, 100):
        for moment in Moment:
            async with Client(line.service.target) as client:
                await prepare(client)
                task = await line.at(client, step, text, moment, number)
                if task is None:
                    return number - 1
                await line.kill()
                with suppress(MuslinError):
                    await task
                await ipam_invariants.check(line.store)
                await persist(partial(step, client))
                await after()
    raise AssertionError("it has no end")


async def test_killed_at_every_point_of_the_first_assignment_of_a_node(etcd: EtcdServer) -> None:
    """The block is claimed, the address is given: all, or nothing that would be in the way."""
    async with line(etcd) as stopped:
        nodes: list[str] = []

        async def new_node(client: Client) -> None:
            await client.release(1)
            nodes.append(f"node{len(nodes)}")

        async def assign(client: Client) -> str:
            return await client.assign(1, nodes[-1])

        async def held() -> None:
            owners = ipam_invariants.owners(await ipam_invariants.read(stopped.store))
            assert list(owners.values()) == [identity(1)]
            await ipam_invariants.check(stopped.store)

        assert await points(stopped, new_node, assign, keys.handle("net", "c1", "eth0"), held) >= 1
        assert stopped.written


async def test_killed_at_every_point_of_a_release(etcd: EtcdServer) -> None:
    async with line(etcd) as stopped:
        kept: dict[str, str] = {}

        async def two(client: Client) -> None:
            kept[identity(2)] = await client.assign(2)
            await client.assign(1)

        async def freed() -> None:
            await ipam_invariants.check(stopped.store, kept)

        assert await points(stopped, two, lambda client: client.release(1), keys.handle("net", "c1", "eth0"),
                            freed) >= 1
        assert stopped.written


async def test_killed_at_every_point_of_deleting_a_pool(etcd: EtcdServer) -> None:
    """In the middle the pool is marked and serves nothing; repeated, the deletion goes on to the end."""
    async with line(etcd) as stopped:
        async def used(client: Client) -> None:
            if "other" not in await client.pools():
                await client.create_pool("other", "10.1.0.0/28", 30)

        async def delete(client: Client) -> None:
            with suppress(NotFound):  # it was done, and the answer was lost
                await client.delete_pool("other")

        async def gone() -> None:
            records = await ipam_invariants.read(stopped.store)
            assert [key for key in records if "other" in key or "10.1." in key] == []

        assert await points(stopped, used, delete, keys.pool("other"), gone) >= 2
        assert stopped.written >= 2, "its mark, and its end"


@pytest.mark.parametrize("moment", Moment, ids=lambda moment: moment.name.lower())
async def test_the_line_is_cut_at_an_assignment_and_the_caller_is_answered_all_the_same(
        etcd: EtcdServer, moment: Moment) -> None:
    """The service does not know whether its transaction was done. It finds out, and answers; nothing is given twice."""
    async with line(etcd) as stopped, Client(stopped.service.target) as client:
        kept = await client.assign(0)
        task = await stopped.at(client, lambda c: c.assign(1), keys.handle("net", "c1", "eth0"), moment, 1)
        assert task
        stopped.relay.drop()
        address = await task
        assert await client.assign(1) == address
        await ipam_invariants.check(stopped.store, {identity(0): kept, identity(1): str(address)})


@pytest.mark.parametrize("moment", Moment, ids=lambda moment: moment.name.lower())
async def test_the_reply_is_late_and_the_same_add_is_retried(etcd: EtcdServer, moment: Moment) -> None:
    """The caller's deadline passes, it asks again while the first is still on its way: one address."""
    async with line(etcd) as stopped, Client(stopped.service.target) as client:
        kept = await client.assign(0)
        task = await stopped.at(client, lambda c: c.assign(1, timeout=0.5), keys.handle("net", "c1", "eth0"), moment, 1)
        assert task
        with pytest.raises(TimedOut):
            await task
        again = asyncio.ensure_future(client.assign(1))
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(again), 0.1)
        stopped.relay.go()
        held = {identity(0): kept, identity(1): await again}
        await ipam_invariants.check(stopped.store, held)


@pytest.mark.parametrize("moment", Moment, ids=lambda moment: moment.name.lower())
async def test_an_add_that_hangs_is_overtaken_by_its_del(etcd: EtcdServer, moment: Moment) -> None:
    """ADD's transaction waits on the line, the runtime gives up and sends DEL; then all comes through."""
    async with line(etcd) as stopped, Client(stopped.service.target) as client:
        kept = await client.assign(0)
        task = await stopped.at(client, lambda c: c.assign(1, timeout=0.3), keys.handle("net", "c1", "eth0"), moment, 1)
        assert task
        with pytest.raises(TimedOut):
            await task
        deletion = asyncio.ensure_future(persist(partial(client.release, 1)))
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(deletion), 0.1)
        stopped.relay.go()
        await deletion
        await ipam_invariants.check(stopped.store, {identity(0): kept})


async def test_a_frozen_replica_wakes_up_to_a_changed_world(etcd: EtcdServer) -> None:
    """It is frozen with its transaction on the line; another gives the last address; it must not give it too."""
    async with line(etcd) as stopped, Client(stopped.service.target) as client:
        with Service("ipam", "--etcd", etcd.endpoint) as other:
            async with Client(other.target) as second:
                await second.create_pool("last", "10.9.0.0/32")
                await second.delete_pool("default")
                task = await stopped.at(client, lambda c: c.assign(1), keys.handle("net", "c1", "eth0"),
                                        Moment.ASKED, 1)
                assert task
                stopped.service.freeze()
                taken = await second.assign(2, "n2")
                stopped.service.thaw()
                stopped.relay.go()
                with pytest.raises(MuslinError, match="1 of 1"):
                    await task
                await ipam_invariants.check(stopped.store, {identity(2): taken})
