"""A watch under faults: compared event by event with the history that the store tells afterwards."""

from __future__ import annotations

import asyncio
import time

import pytest

from muslin.errors import Compacted
from muslin.etcd import Delete, Etcd, Event, Kind, Put
from tests.support.etcd import EtcdServer
from tests.support.etcd_faults import Line, Recorder, history, more, until, writing


async def same_history(etcd: Etcd, recorder: Recorder, prefix: str, first: int, last: int) -> None:
    """None lost, none doubled, none out of order, and no revision split between two batches."""
    await recorder.reached(last)
    assert recorder.events == await history(etcd, prefix, first, last)
    ends = [batch.revision for batch in recorder.batches]
    assert ends == sorted(ends)
    begins = [batch.events[0].mod_revision for batch in recorder.batches if batch.events]
    assert all(begin > end for begin, end in zip(begins[1:], [b.revision for b in recorder.batches if b.events][:-1],
                                                 strict=True))


async def test_events_are_what_was_done(etcd: Etcd, prefix: str) -> None:
    one = await etcd.put(prefix + "a", b"1")
    both = (await etcd.txn([], [Put(prefix + "a", b"2"), Put(prefix + "b", b"3")])).revision
    await etcd.put("/elsewhere" + prefix, b"")
    gone = await etcd.delete(prefix + "a")
    async with Recorder(etcd.watch(prefix, one)) as recorder:
        await recorder.reached(gone)
    assert recorder.events == [
        Event(Kind.PUT, prefix + "a", b"1", one, one), Event(Kind.PUT, prefix + "a", b"2", both, one),
        Event(Kind.PUT, prefix + "b", b"3", both, both), Event(Kind.DELETE, prefix + "a", b"", gone)]


async def test_a_watch_begins_where_it_is_told(etcd: Etcd, prefix: str) -> None:
    """With the revision given, that one included; without one, with what comes after."""
    await etcd.put(prefix + "a", b"before")
    watch = etcd.watch(prefix)
    async with Recorder(watch) as now:
        await until(lambda: not watch.trouble)
        second = await etcd.put(prefix + "a", b"after")
        await now.reached(second)
        assert [event.value for event in now.events] == [b"after"]
    async with Recorder(etcd.watch(prefix, second)) as then:
        await then.reached(second)
    assert then.events == now.events


async def test_neighbouring_prefixes_do_not_mix(etcd: Etcd, prefix: str) -> None:
    """Also where a prefix ends in 0xff and so has no simple end."""
    first = (await etcd.txn([], [Put(prefix + name, b"") for name in ("a\udcfe", "a\udcff", "a\udcff\udcff", "b")])
             ).revision
    for under, expected in (("a\udcff", ["a\udcff", "a\udcff\udcff"]), ("a\udcff\udcff", ["a\udcff\udcff"])):
        async with Recorder(etcd.watch(prefix + under, first)) as recorder:
            await recorder.reached(first)
        assert [event.key.removeprefix(prefix) for event in recorder.events] == expected


async def test_nothing_is_lost_or_doubled_over_many_broken_connections(server: EtcdServer, prefix: str) -> None:
    async with Line(server.endpoint) as line, Etcd([line.endpoint]) as etcd, Etcd([server.endpoint]) as direct:
        first = await direct.put(prefix + "a", b"")
        async with Recorder(etcd.watch(prefix, first)) as recorder:
            async with writing(direct, prefix) as acknowledged:
                for _ in range(5):
                    await more(recorder.batches, 5)
                    line.cut()
                    await until(lambda: recorder.watch.trouble)
            last = await direct.put(prefix + "z", b"")
            await same_history(direct, recorder, prefix, first, last)
        assert recorder.watch.attempts == 6
        assert len(acknowledged) > 50


async def test_an_interrupted_catching_up_goes_on_where_it_was(server: EtcdServer, prefix: str) -> None:
    """What lies far back comes in pieces that all carry the present's revision: no place to resume from."""
    async with Line(server.endpoint) as line, Etcd([line.endpoint]) as etcd, Etcd([server.endpoint]) as direct:
        first = await direct.put(prefix + "a", b"")
        await asyncio.gather(*(direct.put(f"{prefix}{number % 7}", bytes(500)) for number in range(2500)))
        last = await direct.put(prefix + "z", b"")
        watch = etcd.watch(prefix, first)
        begin = await anext(watch)
        assert begin.revision < last, "it does come in pieces"
        line.cut()
        async with Recorder(watch) as recorder:
            recorder.batches.append(begin)
            await same_history(direct, recorder, prefix, first, last)
        assert watch.attempts > 1


async def test_a_killed_server_that_comes_back(server: EtcdServer, prefix: str) -> None:
    async with Etcd([server.endpoint]) as etcd:
        first = await etcd.put(prefix + "a", b"")
        async with Recorder(etcd.watch(prefix, first)) as recorder:
            async with writing(etcd, prefix) as acknowledged:
                for _ in range(2):
                    await more(acknowledged, 20)
                    await asyncio.to_thread(server.restart)
                await more(acknowledged, 20)
            last = await etcd.put(prefix + "z", b"")
            await same_history(etcd, recorder, prefix, first, last)


async def test_a_frozen_server_is_noticed_and_then_resumed(server: EtcdServer, prefix: str) -> None:
    """A quiet watch looks just like a healthy one: only asking tells."""
    async with Etcd([server.endpoint]) as etcd:
        first = await etcd.put(prefix + "a", b"")
        watch = etcd.watch(prefix, first)
        async with Recorder(watch) as recorder:
            await recorder.reached(first)
            await asyncio.sleep(1)  # right after a response gRPC itself has a ping under way
            server.freeze()
            begun = time.monotonic()
            await until(lambda: watch.trouble)
            assert time.monotonic() - begun < 6
            assert server.endpoint in watch.trouble
            server.thaw()
            last = await etcd.put(prefix + "z", b"")
            await same_history(etcd, recorder, prefix, first, last)
            assert not watch.trouble


async def test_compacted_history_is_said_and_not_skipped(server: EtcdServer, prefix: str) -> None:
    async with Etcd([server.endpoint]) as etcd:
        first = await etcd.put(prefix + "a", b"1")
        last = await etcd.put(prefix + "a", b"2")
        server.compact()
        async with Recorder(etcd.watch(prefix, first)) as late:
            with pytest.raises(Compacted, match=f"compacted revision {first} "):
                await late.reached(first)
        assert late.events == []
        async with Recorder(etcd.watch(prefix, last)) as recorder:
            await recorder.reached(last)
        assert len(recorder.events) == 1


async def test_compaction_behind_a_watch_does_not_disturb_it(server: EtcdServer, prefix: str) -> None:
    async with Etcd([server.endpoint]) as etcd:
        first = await etcd.put(prefix + "a", b"")
        events: list[Event] = []
        async with Recorder(etcd.watch(prefix, first)) as recorder, writing(etcd, prefix) as acknowledged:
            for _ in range(10):
                await more(acknowledged, 10)
                kept = max(acknowledged)
                await recorder.reached(kept)
                events += await history(etcd, prefix, max(first, events[-1].mod_revision + 1 if events else 0), kept)
                await asyncio.to_thread(server.compact, kept)
            assert recorder.watch.attempts == 1
        assert recorder.events[:len(events)] == events


async def test_compaction_during_an_interruption_is_said(server: EtcdServer, prefix: str) -> None:
    async with Line(server.endpoint) as line, Etcd([line.endpoint]) as etcd, Etcd([server.endpoint]) as direct:
        first = await direct.put(prefix + "a", b"")
        watch = etcd.watch(prefix, first)
        async with Recorder(watch) as recorder:
            await recorder.reached(first)
            line.block()
            await until(lambda: watch.trouble)
            await direct.put(prefix + "a", b"lost to the watch")
            last = await direct.put(prefix + "a", b"")
            server.compact(last)
            line.unblock()
            with pytest.raises(Compacted):
                await recorder.reached(last)
        assert [event.mod_revision for event in recorder.events] == [first]


async def test_a_store_that_was_replaced_by_an_empty_one_is_noticed(server: EtcdServer, prefix: str) -> None:
    """By itself, etcd would wait in silence until the new store had reached the old one's revision."""
    async with Etcd([server.endpoint]) as etcd:
        for _ in range(5):
            first = await etcd.put(prefix + "a", b"")
        async with Recorder(etcd.watch(prefix, first)) as recorder:
            await recorder.reached(first)
            await asyncio.to_thread(server.wipe)
            await asyncio.to_thread(server.start)
            with pytest.raises(Compacted, match="another store"):
                await recorder.reached(first + 1)


async def test_without_a_server_attempts_are_few_and_cost_nothing(server: EtcdServer, prefix: str) -> None:
    async with Etcd([server.endpoint]) as etcd:
        first = await etcd.put(prefix + "a", b"")
        watch = etcd.watch(prefix, first)
        async with Recorder(watch) as recorder:
            await recorder.reached(first)
            server.kill()
            await until(lambda: watch.trouble)
            attempts, cpu = watch.attempts, time.process_time()
            await asyncio.sleep(3)  # what is measured is this time
            assert watch.attempts - attempts <= 3
            assert time.process_time() - cpu < 0.15
            await asyncio.to_thread(server.start)
            last = await etcd.put(prefix + "a", b"")
            await same_history(etcd, recorder, prefix, first, last)


async def test_a_server_that_hangs_up_again_and_again_is_not_pestered(server: EtcdServer, prefix: str) -> None:
    """Each stream begins well and breaks at once: success must not set the pauses back."""
    async with Line(server.endpoint) as line, Etcd([line.endpoint]) as etcd:
        first = await etcd.put(prefix + "a", b"")
        async with Recorder(etcd.watch(prefix, first)) as recorder:
            await recorder.reached(first)
            attempts, cpu, end = recorder.watch.attempts, time.process_time(), time.monotonic() + 2
            while time.monotonic() < end:
                await until(lambda: not recorder.watch.trouble)
                line.cut()
                await until(lambda: recorder.watch.trouble)
            assert 2 <= recorder.watch.attempts - attempts <= 8
            assert time.process_time() - cpu < 1
            last = await etcd.put(prefix + "a", b"")
            await same_history(etcd, recorder, prefix, first, last)


async def test_leaving_a_watch_ends_it_on_the_server_too(server: EtcdServer, prefix: str) -> None:
    async with Etcd([server.endpoint]) as etcd:
        first = (await etcd.txn([], [Put(prefix + "a", b""), Delete(prefix + "b")])).revision
        async with etcd.watch(prefix, first) as watch:
            await anext(watch)
            assert await asyncio.to_thread(server.metric, "etcd_debugging_mvcc_watcher_total") == 1
        await until(lambda: server.metric("etcd_debugging_mvcc_watcher_total") == 0)
        with pytest.raises(StopAsyncIteration):
            await anext(watch)
