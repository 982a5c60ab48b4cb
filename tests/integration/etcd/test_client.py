"""Records, transactions and leases on a real etcd, of each version installed."""

from __future__ import annotations

import asyncio
import time

import pytest

from muslin.errors import Cancelled, Compacted, InvalidArgument, NotFound, TimedOut, Unavailable
from muslin.etcd import Delete, Etcd, Get, KeyValue, Put, absent, unchanged
from muslin.etcd.mirror import Mirror
from tests.support.etcd import EtcdServer
from tests.support.etcd_faults import Recorder, history, more, until, writing


async def test_put_get_delete(etcd: Etcd, prefix: str) -> None:
    key = prefix + "a"
    assert await etcd.get(key) is None
    first = await etcd.put(key, b"1")
    second = await etcd.put(key, b"2")
    assert second > first
    assert await etcd.get(key) == KeyValue(key, b"2", first, second)
    assert await etcd.delete(key) == second + 1
    assert await etcd.get(key) is None
    assert await etcd.delete(key) == 0, "nothing was there any more"


async def test_keys_and_values_are_bytes_to_etcd(etcd: Etcd, prefix: str) -> None:
    """Any text as key, any bytes as value, also none."""
    for key, value in ((prefix + "ä€\U0001f9f5", b""), (prefix + "\udcff\udcfe", bytes(range(256)))):
        await etcd.put(key, value)
        found = await etcd.get(key)
        assert found is not None
        assert (found.key, found.value) == (key, value)


async def test_a_transaction_does_one_list_or_the_other(etcd: Etcd, prefix: str) -> None:
    key, other = prefix + "a", prefix + "b"
    made = await etcd.txn([absent(key)], [Put(key, b"1"), Put(other, b"x"), Get(key)])
    record = KeyValue(key, b"1", made.revision, made.revision)
    assert made.succeeded
    assert made.responses == (None, None, record)

    again = await etcd.txn([absent(key)], [Put(key, b"2")], [Get(key), Get(prefix + "none")])
    assert not again.succeeded
    assert again.responses == (record, None)
    assert again.revision == made.revision, "a transaction that only reads makes no revision"

    swapped = await etcd.txn([unchanged(key, made.revision), unchanged(prefix + "none", 0)],
                             [Put(key, b"3"), Delete(other)])
    assert swapped.succeeded
    snapshot = await etcd.range(prefix)
    assert snapshot.items == (KeyValue(key, b"3", made.revision, swapped.revision),)
    assert snapshot.revision == swapped.revision

    stale = await etcd.txn([unchanged(key, made.revision)], [Delete(key)])
    assert not stale.succeeded
    assert await etcd.get(key) is not None


async def test_of_many_who_compare_and_swap_one_wins_each_round(etcd: Etcd, prefix: str) -> None:
    """Lost updates would show: 40 increments by 8 writers at once are exactly 40."""
    key = prefix + "counter"
    await etcd.put(key, b"0")

    async def increment() -> None:
        while True:
            record = await etcd.get(key)
            assert record is not None
            value = str(int(record.value) + 1).encode()
            if (await etcd.txn([unchanged(key, record.mod_revision)], [Put(key, value)])).succeeded:
                return

    for _ in range(5):
        await asyncio.gather(*(increment() for _ in range(8)))
    record = await etcd.get(key)
    assert record is not None
    assert record.value == b"40"


async def test_pages_are_of_one_revision_while_writes_go_on(etcd: Etcd, prefix: str) -> None:
    """All 100 keys are always rewritten together, so a snapshot that mixes two revisions mixes two values."""
    keys = [f"{prefix}{number:03}" for number in range(100)]
    stop = asyncio.Event()
    await etcd.txn([], [Put(key, b"0") for key in keys])

    async def rewrite() -> int:
        generation = 0
        while not stop.is_set():
            generation += 1
            await etcd.txn([], [Put(key, str(generation).encode()) for key in keys])
        return generation

    writer = asyncio.create_task(rewrite())
    seen = set()
    for _ in range(8):
        snapshot = await etcd.range(prefix, page=7)
        assert [item.key for item in snapshot.items] == keys
        assert len({item.value for item in snapshot.items}) == 1
        assert all(item.mod_revision <= snapshot.revision for item in snapshot.items)
        seen.add(snapshot.items[0].value)
        assert await etcd.range(prefix, revision=snapshot.revision) == snapshot, "the past does not change"
    stop.set()
    assert await writer > 8
    assert len(seen) > 1, "writes did go on between the snapshots"


@pytest.mark.parametrize(("count", "page"), [(0, 3), (1, 3), (2, 3), (3, 3), (4, 3), (6, 3), (7, 3)])
async def test_pages_meet_without_gap_or_overlap(etcd: Etcd, prefix: str, count: int, page: int) -> None:
    keys = [f"{prefix}{number}" for number in range(count)]
    await etcd.txn([], [Put(key, b"") for key in keys])
    assert [item.key for item in (await etcd.range(prefix, page=page)).items] == keys


async def test_a_prefix_ends_where_it_says(etcd: Etcd, prefix: str) -> None:
    """Also one whose last byte has no successor: 0xff."""
    names = ["a", "a\udcfe", "a\udcff", "a\udcff\udcff", "a\udcff\udcffz", "b"]
    await etcd.txn([], [Put(prefix + name, b"") for name in names])
    for under in ("", "a", "a\udcff", "a\udcff\udcff", "b"):
        found = [item.key.removeprefix(prefix) for item in (await etcd.range(prefix + under, page=2)).items]
        assert found == [name for name in names if name.startswith(under)]


async def test_a_lease_takes_its_keys_with_it(etcd: Etcd, prefix: str) -> None:
    short, long = await etcd.lease(1), await etcd.lease(60)
    await etcd.put(prefix + "short", b"", short.id)
    await etcd.txn([], [Put(prefix + "long", b"", lease=long.id)])
    record = await etcd.get(prefix + "long")
    assert record is not None
    assert record.lease == long.id
    assert 0 < await long.refresh() <= 60

    async with Recorder(etcd.watch(prefix + "short", record.mod_revision)) as recorder:
        await until(lambda: recorder.events)
    assert [event.key for event in recorder.events] == [prefix + "short"]
    assert await etcd.get(prefix + "short") is None
    with pytest.raises(NotFound, match="ended"):
        await short.refresh()
    with pytest.raises(NotFound, match="lease not found"):
        await etcd.put(prefix + "late", b"", short.id)

    await long.revoke()
    assert await etcd.get(prefix + "long") is None
    with pytest.raises(NotFound):
        await long.revoke()


async def test_what_etcd_refuses_is_told_as_what_it_is(etcd: Etcd, prefix: str) -> None:
    with pytest.raises(InvalidArgument, match="duplicate key"):
        await etcd.txn([], [Put(prefix, b""), Put(prefix, b"")])
    with pytest.raises(InvalidArgument, match="too many operations"):
        await etcd.txn([], [Put(f"{prefix}{number}", b"") for number in range(200)])
    with pytest.raises(InvalidArgument, match="too large"):
        await etcd.put(prefix + "large", bytes(1_700_000))
    with pytest.raises(InvalidArgument, match="too large"):
        await etcd.put(prefix + "larger", bytes(3_000_000))
    revision = await etcd.put(prefix + "a", b"")
    with pytest.raises(Compacted):
        await etcd.range(prefix, revision=revision + 1_000_000)


async def test_maintenance(shared: EtcdServer, etcd: Etcd, prefix: str) -> None:
    status = await etcd.status()
    assert status.endpoint == shared.endpoint
    assert status.leader == "default"
    assert status.db_size > 0
    assert [member.name for member in await etcd.members()] == ["default"]
    assert await etcd.alarms() == ()
    old = await etcd.put(prefix + "a", b"1")
    new = await etcd.put(prefix + "a", b"2")
    await etcd.compact(new)
    with pytest.raises(Compacted):
        await etcd.range(prefix, revision=old)
    with pytest.raises(Compacted):
        await etcd.compact(old)


async def test_names_are_resolved_and_dead_endpoints_passed_over(shared: EtcdServer, prefix: str) -> None:
    async with Etcd(["127.0.0.1:1", f"localhost:{shared.port}", "no-such-host.invalid:2379"]) as etcd:
        await etcd.put(prefix + "a", b"1")
        assert await etcd.get(prefix + "a") is not None


async def test_without_any_member_the_error_says_where_and_why() -> None:
    begun = time.monotonic()
    async with Etcd(["127.0.0.1:1", "no-such-host.invalid:2379"], timeout=0.5) as etcd:
        with pytest.raises(Unavailable) as caught:
            await etcd.get("/a")
    assert 0.4 < time.monotonic() - begun < 2
    for expected in ("127.0.0.1:1", "no-such-host.invalid:2379", "0.5 s", "onnection refused"):
        assert expected in caught.value.message


async def test_closing_ends_what_is_going_on(server: EtcdServer, prefix: str) -> None:
    etcd = Etcd([server.endpoint])
    await etcd.put(prefix + "a", b"1")
    watch = etcd.watch(prefix)
    reading = asyncio.ensure_future(anext(watch))
    await until(lambda: not watch.trouble)
    server.freeze()
    getting = asyncio.create_task(etcd.get(prefix + "a"))
    leasing = asyncio.create_task(etcd.lease(5))
    await asyncio.sleep(0)
    async with asyncio.timeout(2):
        await etcd.aclose()
        results = await asyncio.gather(reading, getting, leasing, return_exceptions=True)
    assert [type(result) for result in results[:2]] == [Cancelled, Cancelled]
    assert isinstance(results[2], Cancelled | Unavailable)
    with pytest.raises(Unavailable, match="closed"):
        await etcd.get(prefix + "a")
    server.thaw()


async def test_closing_ends_waiting_for_a_server_too() -> None:
    etcd = Etcd(["127.0.0.1:1"], timeout=60)
    getting = asyncio.create_task(etcd.get("/a"))
    mirroring = asyncio.create_task(Mirror(etcd, "/a").run())
    await asyncio.sleep(0.1)  # until they wait
    async with asyncio.timeout(2):
        await etcd.aclose()
        results = await asyncio.gather(getting, mirroring, return_exceptions=True)
    assert [type(result) for result in results] == [Unavailable, Unavailable]


async def test_a_write_without_an_answer_is_called_unknown_and_sent_once(server: EtcdServer, prefix: str) -> None:
    """The frozen server has the requests in its socket: when it goes on, it does each of them at most once."""
    async with Etcd([server.endpoint]) as etcd:
        begin = await etcd.put(prefix + "begin", b"")
        server.freeze()
        calls = (etcd.put(prefix + "put", b"1", timeout=0.5), etcd.delete(prefix + "begin", timeout=0.5),
                 etcd.txn([absent(prefix + "txn")], [Put(prefix + "txn", b"1")], timeout=0.5))
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [TimedOut] * 3
        assert all("whether it was done is unknown" in str(result) for result in results)
        server.thaw()
        end = await etcd.put(prefix + "end", b"")
        keys = [event.key for event in await history(etcd, prefix, begin + 1, end)]
        assert len(keys) == len(set(keys)), "none was done twice"


async def test_a_write_cut_short_is_not_sent_again(server: EtcdServer, prefix: str) -> None:
    """The server dies with the requests unread and is back at once: sent again, they would all be done now."""
    async with Etcd([server.endpoint]) as etcd:
        begin = await etcd.put(prefix + "begin", b"")
        server.freeze()
        calls = asyncio.gather(etcd.put(prefix + "put", b"1"), etcd.delete(prefix + "begin"),
                               etcd.txn([absent(prefix + "txn")], [Put(prefix + "txn", b"1")]), return_exceptions=True)
        await asyncio.sleep(0.1)  # on their way
        await asyncio.to_thread(server.restart)
        results = await calls
        assert [type(result) for result in results] == [Unavailable] * 3
        assert all("whether it was done is unknown" in str(result) for result in results)
        assert [item.mod_revision for item in (await etcd.range(prefix)).items] == [begin]


async def test_a_frozen_server_never_blocks_the_event_loop(server: EtcdServer, prefix: str) -> None:
    """Least of all through python-etcd3, which blocks the thread that it runs in."""
    async with Etcd([server.endpoint], timeout=1) as etcd:
        lease = await etcd.lease(60)
        server.freeze()
        calls = asyncio.gather(*(lease.refresh() for _ in range(10)), etcd.status(), etcd.get(prefix),
                               return_exceptions=True)
        gaps, last = [], time.monotonic()
        while not calls.done():
            await asyncio.sleep(0.01)
            gaps.append(time.monotonic() - last)
            last = time.monotonic()
        server.thaw()
    assert all(isinstance(result, TimedOut | Unavailable) for result in await calls)
    assert max(gaps) < 0.3


async def test_reads_are_repeated_while_the_server_restarts(server: EtcdServer, prefix: str) -> None:
    async with Etcd([server.endpoint]) as etcd:
        await etcd.put(prefix + "a", b"1")
        restart = asyncio.create_task(asyncio.to_thread(server.restart))
        reads = 0
        while not restart.done():
            record = await etcd.get(prefix + "a")
            assert record is not None
            reads += 1
        await restart
        assert reads > 0


async def test_who_gives_up_waiting_for_a_server_does_not_stop_the_others(server: EtcdServer, prefix: str) -> None:
    server.kill()
    async with Etcd([server.endpoint]) as etcd:
        patient = asyncio.create_task(etcd.get(prefix + "a"))
        with pytest.raises(Unavailable):
            await etcd.get(prefix + "a", timeout=0.2)
        await asyncio.to_thread(server.start)
        assert await patient is None


async def test_deadlines_hold_for_each_call(server: EtcdServer, prefix: str) -> None:
    async with Etcd([server.endpoint], timeout=30) as etcd:
        await etcd.put(prefix + "a", b"1")
        server.freeze()
        begun = time.monotonic()
        for call in (etcd.get(prefix, timeout=0.3), etcd.range(prefix, timeout=0.3)):
            with pytest.raises((TimedOut, Unavailable)):
                await call
        assert time.monotonic() - begun < 1.5
        server.thaw()


async def test_writers_and_their_history_agree(etcd: Etcd, prefix: str) -> None:
    """The tool that later tests lean on: every acknowledged write is in the history that it is checked against."""
    async with writing(etcd, prefix) as acknowledged:
        await more(acknowledged, 50)
    first = min(revision for revision in acknowledged if revision)
    revisions = {event.mod_revision for event in await history(etcd, prefix, first, max(acknowledged))}
    assert {revision for revision in acknowledged if revision} <= revisions
