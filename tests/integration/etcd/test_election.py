"""One leader at a time, replaced when it goes, dies or is cut off; and one of the past writes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from muslin.etcd import Etcd, Put
from muslin.etcd.election import Election, Term
from tests.support.etcd import EtcdServer
from tests.support.relay import Relay

_SOON = 60.0


class Candidate:
    """Stands for election; `terms` are those it won."""

    def __init__(self, etcd: Etcd, key: str, name: str, ttl: int = 2) -> None:
        self.election = Election(etcd, key, name, ttl)
        self.terms: asyncio.Queue[Term] = asyncio.Queue()
        self.ended = asyncio.Event()

    async def lead(self, term: Term) -> None:
        self.ended.clear()
        self.terms.put_nowait(term)
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()


@asynccontextmanager
async def standing(candidate: Candidate) -> AsyncIterator[Candidate]:
    task = asyncio.create_task(candidate.election.run(candidate.lead))
    try:
        yield candidate
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_the_next_one_leads_as_soon_as_the_first_goes(etcd: Etcd, prefix: str) -> None:
    key = prefix + "writer"
    async with asyncio.timeout(_SOON), standing(Candidate(etcd, key, "b", ttl=600)) as second:
        async with standing(Candidate(etcd, prefix + "other", "c")) as other:
            await other.terms.get()  # another place is another election
        first = await second.terms.get()
        async with standing(Candidate(etcd, key, "a", ttl=600)) as waiting:
            held = await etcd.get(key)
            assert held is not None
            assert (held.value, held.mod_revision) == (b'"b"', first.revision)
            assert waiting.terms.empty()
            assert not waiting.election.leading
            assert await etcd.delete(key)  # which is what its lease's end does: nobody waits for 600 s
            term = await waiting.terms.get()
    assert term.revision > first.revision


async def test_who_goes_gives_the_place_up(etcd: Etcd, prefix: str) -> None:
    async with asyncio.timeout(_SOON), standing(Candidate(etcd, prefix + "writer", "b", ttl=600)) as second:
        await second.terms.get()
    assert second.ended.is_set()
    assert await etcd.get(prefix + "writer") is None


async def test_a_term_that_ends_by_itself_is_followed_by_another(etcd: Etcd, prefix: str) -> None:
    terms: list[Term] = []
    done = asyncio.Event()

    async def lead(term: Term) -> None:
        terms.append(term)
        if len(terms) == 3:
            done.set()

    task = asyncio.create_task(Election(etcd, prefix + "writer", "a").run(lead))
    async with asyncio.timeout(_SOON):
        await done.wait()
    task.cancel()
    await asyncio.wait([task])
    assert [term.revision for term in terms] == sorted({term.revision for term in terms})


async def test_what_the_work_dies_of_ends_the_candidate(etcd: Etcd, prefix: str) -> None:
    async def lead(_: Term) -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        async with asyncio.timeout(_SOON):
            await Election(etcd, prefix + "writer", "a").run(lead)
    assert await etcd.get(prefix + "writer") is None


async def test_one_that_is_cut_off_is_replaced_and_can_write_no_more(shared: EtcdServer, etcd: Etcd,
                                                                      prefix: str) -> None:
    """The first can not refresh its lease: its term ends by its own clock, another begins, and its writes fail."""
    key = prefix + "writer"
    async with (asyncio.timeout(_SOON), Relay(shared.endpoint) as relay, Etcd([relay.endpoint], timeout=0.5) as far,
                standing(Candidate(far, key, "cut off")) as first):
        before = await first.terms.get()
        async with standing(Candidate(etcd, key, "next")) as second:
            relay.hold()
            after = await second.terms.get()
            await first.ended.wait()
            assert not (await etcd.txn([before.guard], [Put(prefix + "x", b"old")])).succeeded
            assert (await etcd.txn([after.guard], [Put(prefix + "x", b"new")])).succeeded
            relay.go()
