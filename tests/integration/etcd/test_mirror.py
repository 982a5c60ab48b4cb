"""A mirror under faults: what it holds, and what it told, must be what the store holds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from muslin.errors import TimedOut
from muslin.etcd import Etcd, KeyValue, Put
from muslin.etcd.mirror import Change, Mirror
from tests.support.etcd import EtcdServer
from tests.support.etcd_faults import Line, more, until, writing


class Subscriber:
    """Holds what it was told, and insists that each change begins where the last one ended."""

    def __init__(self, mirror: Mirror) -> None:
        self.items: dict[str, KeyValue] = {}
        self.told = 0
        self._mirror = mirror
        mirror.subscribe(self)

    def __call__(self, changes: Sequence[Change], revision: int) -> None:
        assert changes, "nothing is no news"
        assert revision == self._mirror.revision
        self.told += len(changes)
        for change in changes:
            assert self.items.get(change.key) == change.old
            assert change.old != change.new
            if change.new is None:
                del self.items[change.key]
            else:
                self.items[change.key] = change.new
        assert self.items == self._mirror.items


@asynccontextmanager
async def running(mirror: Mirror) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(mirror.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()


async def agree(etcd: Etcd, prefix: str, mirror: Mirror, subscriber: Subscriber) -> None:
    """The store, the mirror and what the subscriber was told are the same, also in their revisions."""
    await mirror.reached(await etcd.put(prefix + "end", b""), 15)
    expected = {item.key: item for item in (await etcd.range(prefix)).items}
    assert mirror.items == expected
    assert subscriber.items == expected


@pytest.mark.parametrize("yields", [0.0, 0.005])
async def test_it_lists_and_then_follows(etcd: Etcd, prefix: str, yields: float) -> None:
    await etcd.put(prefix + "a", b"1")
    mirror = Mirror(etcd, prefix, yields)
    subscriber = Subscriber(mirror)
    assert not mirror.ready.is_set()
    async with running(mirror):
        await asyncio.wait_for(mirror.ready.wait(), 5)
        assert [item.value for item in mirror.items.values()] == [b"1"]
        assert subscriber.items == mirror.items, "the first list is told as changes"
        async with writing(etcd, prefix) as acknowledged:
            await until(lambda: len(acknowledged) > 100)
        await agree(etcd, prefix, mirror, subscriber)
        assert mirror.relists == 1
        assert mirror.trouble == ""


@pytest.mark.parametrize("yields", [0.0, 0.005])
async def test_reached_waits_for_a_write_to_arrive(etcd: Etcd, prefix: str, yields: float) -> None:
    """The way to read one's own write from the copy."""
    mirror = Mirror(etcd, prefix, yields)
    async with running(mirror):
        await asyncio.wait_for(mirror.ready.wait(), 5)
        for number in range(30):
            key, value = f"{prefix}{number % 3}", str(number).encode()
            await mirror.reached(await etcd.put(key, value), 5)
            assert mirror.items[key].value == value
            await mirror.reached(await etcd.delete(key), 5)
            assert key not in mirror.items
        later = asyncio.create_task(mirror.reached(mirror.revision + 2, 5))
        await mirror.reached(await etcd.put(prefix + "one", b""), 5)
        assert not later.done(), "one is not two"
        await etcd.put(prefix + "two", b"")
        await later
        assert prefix + "two" in mirror.items
        with pytest.raises(TimedOut, match="did not reach"):
            await mirror.reached(mirror.revision + 1, 0.05)


async def test_who_no_longer_subscribes_is_told_nothing(etcd: Etcd, prefix: str) -> None:
    mirror = Mirror(etcd, prefix)
    told: list[Change] = []
    leave = mirror.subscribe(lambda changes, revision: told.extend(changes))
    async with running(mirror):
        await asyncio.wait_for(mirror.ready.wait(), 5)
        await mirror.reached(await etcd.put(prefix + "a", b""), 5)
        leave()
        await mirror.reached(await etcd.put(prefix + "b", b""), 5)
    assert [change.key for change in told] == [prefix + "a"]


async def test_a_subscriber_that_fails_ends_the_mirror(etcd: Etcd, prefix: str) -> None:
    """It has missed a change: going on as if nothing were would be worse."""
    mirror = Mirror(etcd, prefix)

    def fail(changes: Sequence[Change], revision: int) -> None:
        raise ValueError("a mistake of the subscriber's")

    mirror.subscribe(fail)
    await etcd.put(prefix + "a", b"")
    with pytest.raises(ValueError, match="mistake"):
        await asyncio.wait_for(mirror.run(), 5)


async def test_it_waits_for_a_server_that_is_not_there_yet(server: EtcdServer, prefix: str) -> None:
    server.kill()
    async with Etcd([server.endpoint], timeout=0.5) as etcd:
        mirror = Mirror(etcd, prefix)
        subscriber = Subscriber(mirror)
        async with running(mirror):
            await until(lambda: "could be reached" in mirror.trouble)
            assert not mirror.ready.is_set()
            await asyncio.to_thread(server.start)
            await asyncio.wait_for(mirror.ready.wait(), 5)
            await agree(etcd, prefix, mirror, subscriber)
            assert mirror.trouble == ""


async def test_silence_is_told_from_having_nothing_to_tell(server: EtcdServer, prefix: str,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """Long before the watch's own pings are missed: who relies on the items goes where they are newer."""
    monkeypatch.setattr("muslin.etcd.mirror.PULSE", 0.1)
    monkeypatch.setattr("muslin.etcd.mirror.PULSE_SECONDS", 0.3)
    async with Etcd([server.endpoint], timeout=1) as etcd:
        mirror = Mirror(etcd, prefix)
        async with running(mirror):
            await asyncio.wait_for(mirror.ready.wait(), 5)
            server.freeze()
            try:
                await until(lambda: mirror.trouble)
            finally:
                server.thaw()
            await until(lambda: not mirror.trouble)
            assert mirror.relists == 1, "it was heard of again, and had missed nothing"


async def test_after_compaction_it_tells_exactly_the_difference(server: EtcdServer, prefix: str) -> None:
    async with (Line(server.endpoint) as line, Etcd([line.endpoint], timeout=1) as etcd,
                Etcd([server.endpoint]) as direct):
        await direct.txn([], [Put(prefix + name, b"old") for name in ("changed", "deleted", "same")])
        mirror = Mirror(etcd, prefix)
        subscriber = Subscriber(mirror)
        async with running(mirror):
            await asyncio.wait_for(mirror.ready.wait(), 5)
            line.block()
            await until(lambda: mirror.trouble)
            for value in (b"between", b"new"):
                await direct.put(prefix + "changed", value)
            await direct.put(prefix + "made", b"new")
            last = await direct.delete(prefix + "deleted")
            server.compact(last)
            told = subscriber.told
            line.unblock()
            await mirror.reached(last, 10)
            assert subscriber.told - told == 3, "one deleted, one changed, one made; not the one that is the same"
            await agree(direct, prefix, mirror, subscriber)
            assert mirror.relists == 2


@pytest.mark.parametrize("yields", [0.0, 0.005])
async def test_it_stays_true_through_broken_lines_restarts_and_compactions(server: EtcdServer, prefix: str,
                                                                               yields: float) -> None:
    async with Line(server.endpoint) as line, Etcd([line.endpoint]) as etcd, Etcd([server.endpoint]) as direct:
        mirror = Mirror(etcd, prefix, yields)
        subscriber = Subscriber(mirror)
        async with running(mirror):
            async with writing(direct, prefix) as acknowledged:
                for fault in (line.cut, server.restart, server.compact, line.cut, server.compact):
                    await more(acknowledged, 20)
                    if fault == line.cut:
                        line.cut()
                    else:
                        await asyncio.to_thread(fault)
            await agree(direct, prefix, mirror, subscriber)


async def test_a_store_that_went_back_in_time_is_followed(server: EtcdServer, prefix: str) -> None:
    """An empty etcd in the place of the old one: what is gone must be told as gone."""
    async with Etcd([server.endpoint]) as etcd:
        for number in range(5):
            await etcd.put(f"{prefix}{number}", b"old")
        mirror = Mirror(etcd, prefix)
        subscriber = Subscriber(mirror)
        async with running(mirror):
            await asyncio.wait_for(mirror.ready.wait(), 5)
            before = mirror.revision
            await asyncio.to_thread(server.wipe)
            await asyncio.to_thread(server.start)
            await until(lambda: not mirror.items)
            assert mirror.revision < before
            assert subscriber.items == {}
            await agree(etcd, prefix, mirror, subscriber)


async def test_transactions_go_first_and_it_catches_up(server: EtcdServer, prefix: str) -> None:
    """However long it waits for the client's next transaction, then it reads all that others wrote meanwhile."""
    async with Etcd([server.endpoint]) as etcd, Etcd([server.endpoint]) as other:
        mirror = Mirror(etcd, prefix, 30.0)
        subscriber = Subscriber(mirror)
        async with running(mirror):
            await asyncio.wait_for(mirror.ready.wait(), 5)
            for turn in range(10):
                own = await etcd.txn([], [Put(prefix + "own", str(turn).encode())])
                await mirror.reached(own.revision, 15)
                for number in range(100):
                    await other.put(f"{prefix}{number % 7}", str(turn).encode())
            own = await etcd.txn([], [Put(prefix + "own", b"end")])
            await mirror.reached(own.revision, 15)
            assert subscriber.items == {item.key: item for item in (await etcd.range(prefix)).items}


async def test_a_quiet_mirror_costs_next_to_nothing(server: EtcdServer, prefix: str) -> None:
    etcd = Etcd([server.endpoint])
    mirror = Mirror(etcd, prefix)
    async with etcd, running(mirror):
        await asyncio.wait_for(mirror.ready.wait(), 5)
        cpu, begun = time.process_time(), time.monotonic()
        await asyncio.sleep(2.5)  # what is measured is this time
        assert time.process_time() - cpu < 0.05 * (time.monotonic() - begun)
