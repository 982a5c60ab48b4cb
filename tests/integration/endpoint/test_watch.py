"""Watches: complete, in order, nothing twice, resumable, and bounded whatever their reader does."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing, suppress

import pytest

from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.errors import Compacted
from muslin.etcd import Etcd, Kind, keys
from services.endpoint.store import Store
from services.endpoint.watching import MESSAGE, watch
from tests.integration.endpoint.clients import DELETE, PUT, Client, call, pod
from tests.support.etcd import EtcdServer
from tests.support.service import Service

Response = endpoint_pb2.WatchResponse


def seen(response: Response) -> list[tuple[object, str]]:
    return [(change.kind, change.endpoint.attachment.container_id) for change in response.changes]


async def test_a_snapshot_and_then_what_changes(client: Client) -> None:
    await client.add(call(1))
    await client.add(call(2))
    async with aclosing(client.watch()) as stream:
        first = await anext(stream)
        assert (seen(first), first.snapshot_complete) == ([(PUT, "c1"), (PUT, "c2")], True)
        await client.add(call(3))
        added = await anext(stream)
        assert (seen(added), added.snapshot_complete) == ([(PUT, "c3")], False)
        assert added.revision == added.changes[0].endpoint.revision > first.revision
        await client.delete(call(1))
        gone = await anext(stream)
        assert seen(gone) == [(DELETE, "c1")]
        assert gone.changes[0].endpoint.node == "worker"
        assert not gone.changes[0].endpoint.addresses


async def test_an_empty_snapshot_is_complete_too(client: Client) -> None:
    async with aclosing(client.watch()) as stream:
        first = await anext(stream)
        assert (list(first.changes), first.snapshot_complete) == ([], True)


async def test_of_one_node(client: Client) -> None:
    await client.add(call(1), "a")
    await client.add(call(2), "b")
    async with aclosing(client.watch(node="b")) as stream:
        assert seen(await anext(stream)) == [(PUT, "c2")]
        await client.add(call(3), "a")
        await client.delete(call(1))
        await client.delete(call(2))
        assert seen(await anext(stream)) == [(DELETE, "c2")]


async def test_a_resumed_watch_says_at_once_that_it_goes_on(client: Client) -> None:
    await client.add(call(1))
    revision = (await client.list()).revision
    async with aclosing(client.watch(revision)) as stream:
        first = await anext(stream)
        assert (list(first.changes), first.revision, first.snapshot_complete) == ([], revision, False)
        await client.delete(call(1))
        assert seen(await anext(stream)) == [(DELETE, "c1")]


async def history(etcd: EtcdServer, begin: int) -> list[tuple[object, str, int]]:
    """What etcd itself says has happened to endpoints after a revision: kind, container and revision."""
    found: list[tuple[object, str, int]] = []
    async with Etcd([etcd.endpoint]) as store:
        latest = await store.put("/end", b"")
        async with store.watch("/", begin + 1) as events:
            async for batch in events:
                found += [(PUT if e.kind is Kind.PUT else DELETE, keys.parse_endpoint(e.key)[1], e.mod_revision)
                          for e in batch.events if e.key.startswith(keys.ENDPOINTS)]
                if batch.revision >= latest:
                    return found
    raise AssertionError("a watch does not end")


async def test_interrupted_again_and_again_nothing_is_lost_or_doubled(etcd: EtcdServer, replicas: list[Service],
                                                                      ) -> None:
    """A reader that drops its watch at any moment and resumes it at either process has etcd's own history at last."""
    rng, got = random.Random(7), list[tuple[object, str, int]]()
    async with Client(replicas[0].target) as one, Client(replicas[1].target) as other:
        begin = (await one.list()).revision

        async def churn(number: int) -> None:
            for turn in range(12):
                through = rng.choice((one, other))
                await through.add(call(number, pod=f"p{number}"), timeout=20)
                if turn % 3 == 2:
                    await through.apply(pod(f"p{number}", labels={"turn": str(turn)}))
                if turn % 2:
                    await through.delete(call(number))

        async def read() -> None:
            revision = begin
            while True:
                budget = rng.randint(1, 12)
                async with aclosing(rng.choice((one, other)).watch(revision)) as stream:
                    async for response in stream:
                        got.extend((c.kind, c.endpoint.attachment.container_id, c.endpoint.revision)
                                   for c in response.changes)
                        revision = response.revision
                        budget -= len(response.changes)
                        if budget <= 0:
                            break

        reader = asyncio.create_task(read())
        await asyncio.gather(*(churn(number) for number in range(12)))
        expected = await history(etcd, begin)
        async with asyncio.timeout(10):
            while len(got) < len(expected) and not reader.done():  # noqa: ASYNC110  the reader does not know the end
                await asyncio.sleep(0.01)
        reader.cancel()
        with suppress(asyncio.CancelledError):
            await reader
    assert [(kind, name) for kind, name, _ in got] == [(kind, name) for kind, name, _ in expected]
    assert [at for kind, _, at in got if kind == PUT] == [at for kind, _, at in expected if kind == PUT]


async def refused(client: Client, revision: int) -> None:
    async with aclosing(client.watch(revision)) as stream:
        with pytest.raises(Compacted, match="start again without"):
            await anext(stream)


async def test_a_revision_that_is_not_kept(etcd: EtcdServer, service: Service, client: Client) -> None:
    """Older than the process' history, also if that begins with no record at all; or of another store's future."""
    begin = (await client.list()).revision
    await client.add(call(1))
    await client.delete(call(1))
    service.kill()
    await asyncio.to_thread(service.start)
    await refused(client, begin)
    async with Etcd([etcd.endpoint]) as store:
        await refused(client, await store.put("/other", b"") + 1000)


async def test_compaction_under_a_watch(etcd: EtcdServer, client: Client) -> None:
    """What etcd forgets does not concern those who follow."""
    async with aclosing(client.watch()) as stream:
        first = await anext(stream)
        for number in range(5):
            await client.add(call(number))
            assert seen(await anext(stream)) == [(PUT, f"c{number}")]
            etcd.compact()
        await client.delete(call(3))
        assert seen(await anext(stream)) == [(DELETE, "c3")]
    async with aclosing(client.watch(first.revision)) as stream:
        await anext(stream)
        assert len((await anext(stream)).changes) == 6


async def test_a_reader_that_is_too_slow_is_sent_away(client: Client, store: Store) -> None:
    """It costs no memory while it does not read, and is told to begin anew when it does."""
    async with aclosing(watch(store, 0, "")) as slow, aclosing(watch(store, 0, "")) as quick:
        await anext(slow)
        await anext(quick)
        for number in range(60):
            await client.add(call(number, pod=f"p{number}"))
            assert seen(await anext(quick)) == [(PUT, f"c{number}")]
        assert sum(len(b.events) for b in store.feed.read(store.feed.after(store.feed.floor), 1000)[0]) <= 40
        with pytest.raises(Compacted, match="fallen behind"):
            await anext(slow)


async def test_bookmarks_tell_how_far_the_store_has_come(client: Client, store: Store) -> None:
    """Also one whose node has no changes; resuming from a bookmark goes on behind what others changed."""
    async with aclosing(watch(store, 0, "quiet", bookmark=0.05)) as stream:
        first = await anext(stream)
        await client.add(call(1), "noisy")
        async with asyncio.timeout(5):
            bookmark = await anext(stream)
        assert (list(bookmark.changes), bookmark.snapshot_complete) == ([], False)
        assert bookmark.revision > first.revision
    async with aclosing(watch(store, bookmark.revision, "")) as stream:
        assert not (await anext(stream)).changes
        await client.delete(call(1))
        assert seen(await anext(stream)) == [(DELETE, "c1")]


async def test_large_snapshots_come_in_pieces(etcd: EtcdServer, client: Client, store: Store) -> None:
    """Only the last piece is complete and has a revision to resume from."""
    await client.add(call(0))
    async with Etcd([etcd.endpoint]) as raw:
        record = await raw.get(keys.endpoint("net", "c0", "eth0"))
        assert record is not None
        await asyncio.gather(*(raw.put(keys.endpoint("net", f"c{n}", "eth0"),
                                       record.value.replace(b'"c0"', f'"c{n}"'.encode())) for n in range(1, 1201)))
    async with aclosing(watch(store, 0, "")) as stream:
        pieces = [await anext(stream) for _ in range(3)]
    assert [len(piece.changes) for piece in pieces] == [MESSAGE, MESSAGE, 201]
    assert [piece.snapshot_complete for piece in pieces] == [False, False, True]
    assert [bool(piece.revision) for piece in pieces] == [False, False, True]
    assert len({name for piece in pieces for _, name in seen(piece)}) == 1201
