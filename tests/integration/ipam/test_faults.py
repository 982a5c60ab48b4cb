"""Processes killed, frozen and cut off in the middle: nobody's address is another's, and none is lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import pytest

from muslin.errors import Exhausted, MuslinError, TimedOut, Unavailable
from muslin.etcd import Etcd
from tests.integration.ipam.clients import Client, identity, persist
from tests.support import ipam_invariants
from tests.support.etcd import EtcdServer
from tests.support.service import Service


@pytest.fixture
def etcd() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


TURNS = 20
"""Attachments of each caller: work for longer than a few kills and starts take."""


async def lives(client: Client, number: int, alive: dict[str, str], rng: random.Random) -> None:
    """One attachment after the other, each asked for until it is answered, and most of them deleted again."""
    for turn in range(TURNS):
        attachment = number * 100 + turn
        address = await persist(partial(client.assign, attachment, f"node{number % 3}"))
        assert address not in alive.values(), f"{address} was given twice"
        alive[identity(attachment)] = address
        again = await persist(partial(client.assign, attachment, f"node{number % 3}"))
        assert again == address, "asking again gives the same"
        if rng.random() < 0.8:
            del alive[identity(attachment)]  # from now on it may be freed at any moment
            await persist(partial(client.release, attachment))


async def test_killed_again_and_again(etcd: EtcdServer) -> None:
    """Kill -9 at random moments, between any two steps, while 24 callers add and delete and retry.

    Nothing is given twice, what was answered is held; and when all is deleted, all is free.
    """
    rng, alive = random.Random(1), dict[str, str]()
    with Service("ipam", "--etcd", etcd.endpoint) as service:
        async with Client(service.target) as client, Etcd([etcd.endpoint]) as store:
            async with asyncio.TaskGroup() as group:
                callers = [group.create_task(lives(client, n, alive, rng)) for n in range(24)]
                kills = 0
                while not all(caller.done() for caller in callers):
                    await asyncio.sleep(rng.uniform(0.02, 0.15))
                    service.kill()
                    kills += 1
                    await asyncio.to_thread(service.start)
                    if kills >= 5:
                        break
            assert kills >= 3
            await ipam_invariants.check(store, alive)
            for number in range(24):
                for turn in range(TURNS):
                    await client.release(number * 100 + turn)
            await ipam_invariants.check(store, {})


async def test_started_before_its_store(etcd: EtcdServer) -> None:
    """Until it has read the store it says that it is not ready; then it serves. It can be stopped all the time."""
    etcd.kill()
    service = Service("ipam", "--etcd", etcd.endpoint)
    try:
        service.launch()
        async with Client(service.target) as client:
            with pytest.raises(Unavailable, match="has not been read yet"):
                await persist_until_it_listens(client)
            assert await asyncio.to_thread(service.terminate) == 0
            service.launch()
            await asyncio.to_thread(etcd.start)
            assert await persist(partial(client.assign, 1))
    finally:
        service.stop()


async def persist_until_it_listens(client: Client) -> None:
    """Ask until the answer is the service's own, not that there is nobody."""
    async with asyncio.timeout(10):
        while True:
            try:
                await client.assign(1)
            except Unavailable as problem:
                if "connect" not in problem.message:
                    raise
            await asyncio.sleep(0.02)


async def test_etcd_killed_while_adding(etcd: EtcdServer) -> None:
    """Requests ride out a restart of the store; their callers see no error."""
    with Service("ipam", "--etcd", etcd.endpoint) as service:
        async with Client(service.target) as client, Etcd([etcd.endpoint]) as store:
            await client.assign(0)
            work = [asyncio.create_task(client.assign(n, f"node{n % 4}", timeout=20)) for n in range(1, 41)]
            await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.to_thread(etcd.restart)
            late = [asyncio.create_task(client.assign(n, f"node{n % 4}", timeout=20)) for n in range(41, 61)]
            answers = await asyncio.gather(*work, *late)
            assert len(set(answers)) == 60
            held = {identity(n): address for n, address in enumerate(answers, start=1)}
            await ipam_invariants.check(store, held | {identity(0): await client.assign(0)})


async def test_frozen_etcd_deadline_and_retry(etcd: EtcdServer) -> None:
    """The caller's deadline passes while the outcome is unknown; the same ADD later is answered, with one address."""
    with Service("ipam", "--etcd", etcd.endpoint) as service:
        async with Client(service.target) as client, Etcd([etcd.endpoint]) as store:
            await client.assign(0)
            etcd.freeze()
            try:
                with pytest.raises(TimedOut):
                    await client.assign(1, timeout=0.5)
            finally:
                etcd.thaw()
            held = {identity(n): await persist(partial(client.assign, n)) for n in (0, 1)}
            await ipam_invariants.check(store, held)


async def test_an_add_that_was_given_up_does_not_come_back_after_its_del(etcd: EtcdServer) -> None:
    """ADD hangs, the runtime gives up and sends DEL, then the store thaws and does what it finds in its queue."""
    with Service("ipam", "--etcd", etcd.endpoint) as service:
        async with Client(service.target) as client, Etcd([etcd.endpoint]) as store:
            kept = await client.assign(0)
            etcd.freeze()
            try:
                with pytest.raises(TimedOut):
                    await client.assign(1, timeout=0.3)
                with pytest.raises(TimedOut):
                    await client.assign(2, node="another", timeout=0.3)
                deletions = [asyncio.create_task(persist(partial(client.release, n))) for n in (1, 2)]
                await asyncio.sleep(0.3)  # they are on their way: nothing can be awaited, as nothing answers
            finally:
                etcd.thaw()
            await asyncio.gather(*deletions)
            await client.assign(3)
            await client.release(3)
            await ipam_invariants.check(store, {identity(0): kept})


async def test_a_store_that_lost_everything_is_begun_anew(etcd: EtcdServer) -> None:
    """An etcd that comes back empty: the service follows, and gives what the new store has."""
    with Service("ipam", "--etcd", etcd.endpoint, "--pool", "10.0.0.0/30") as service:
        async with Client(service.target) as client, Etcd([etcd.endpoint]) as store:
            for number in range(4):
                await client.assign(number)
            with pytest.raises(Exhausted):
                await client.assign(4)
            await asyncio.to_thread(etcd.wipe)
            await asyncio.to_thread(etcd.start)
            async with asyncio.timeout(20):
                while True:
                    with suppress(MuslinError):
                        if not await client.pools():
                            break
                    await asyncio.sleep(0.05)  # the store is away: no event
            await persist(lambda: client.create_pool("new", "10.9.0.0/29"))
            held = {identity(4): await persist(lambda: client.assign(4))}
            await ipam_invariants.check(store, held)
