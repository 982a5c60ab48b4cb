"""Every reader of the history gets each change once and in order, or is told that it is too late."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from muslin.api.cni.v1 import cni_pb2
from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.errors import Compacted
from services.endpoint.feed import Event, Feed, Place
from services.endpoint.watching import _changes


def event(number: int) -> Event:
    attachment = cni_pb2.Attachment(container_id=str(number))
    return Event(endpoint_pb2.Change(endpoint=endpoint_pb2.WorkloadEndpoint(attachment=attachment)), "node")


def number_of(read: Event) -> int:
    return int(read.change.endpoint.attachment.container_id)


def drained(feed: Feed[Event], place: Place) -> list[int]:
    found: list[int] = []
    while True:
        batches, place = feed.read(place, 2)
        if not batches:
            return found
        found += [number_of(one) for batch in batches for one in batch.events]


def test_reading_from_a_revision() -> None:
    feed: Feed[Event] = Feed()
    feed.begin(10)
    feed.append([event(1)], 12)
    feed.append([], 13)
    feed.append([event(2), event(3)], 15)
    assert drained(feed, feed.after(10)) == [1, 2, 3]
    assert drained(feed, feed.after(11)) == [1, 2, 3]
    assert drained(feed, feed.after(12)) == drained(feed, feed.after(14)) == [2, 3]
    assert drained(feed, feed.after(15)) == drained(feed, feed.end) == []
    with pytest.raises(Compacted, match="only those after 10"):
        feed.after(9)


def test_a_new_beginning_ends_all_readers() -> None:
    feed: Feed[Event] = Feed()
    feed.begin(10)
    place = feed.end
    feed.begin(3)
    assert feed.revision == 3
    with pytest.raises(Compacted):
        feed.read(place, 1)


def test_one_batch_larger_than_what_is_kept_is_kept_whole() -> None:
    feed: Feed[Event] = Feed(kept=2)
    feed.begin(1)
    place = feed.end
    feed.append([event(n) for n in range(10)], 2)
    assert drained(feed, place) == list(range(10))
    feed.append([event(10)], 3)
    assert drained(feed, feed.after(2)) == [10]


async def test_waiting_ends_with_a_change_or_with_the_time() -> None:
    feed: Feed[Event] = Feed()
    assert not await feed.grown(0.01)
    waiting = asyncio.create_task(feed.grown(10))
    await asyncio.sleep(0)
    feed.append([event(1)], 1)
    assert await waiting


def test_a_reader_that_resumes_inside_a_batch_is_not_told_what_it_knows() -> None:
    """Processes may have received the same changes in batches of other sizes."""
    def at(revision: int) -> Event:
        return Event(endpoint_pb2.Change(endpoint=endpoint_pb2.WorkloadEndpoint(revision=revision)), "node")

    feed: Feed[Event] = Feed()
    feed.begin(1)
    feed.append([at(2), at(3), at(4)], 4)
    batches, _ = feed.read(feed.after(3), 10)
    assert [change.endpoint.revision for change in _changes(batches, 3, "")] == [4]
    assert list(_changes(batches, 3, "another")) == []


class Readers(RuleBasedStateMachine):
    """Readers that come, read and resume at any time, against the whole history."""

    def __init__(self) -> None:
        super().__init__()
        self.feed: Feed[Event] = Feed(kept=6)
        self.feed.begin(100)
        self.history: list[tuple[int, int]] = []  # revision, number
        self.readers: list[tuple[Place, int]] = [(self.feed.end, 0)]  # place, how many it has had

    @rule(count=st.integers(0, 4), skip=st.integers(1, 3))
    def append(self, count: int, skip: int) -> None:
        revision = self.feed.revision + skip
        numbers = range(len(self.history), len(self.history) + count)
        self.history += [(revision, number) for number in numbers]
        self.feed.append([event(number) for number in numbers], revision)

    @rule(which=st.integers(0, 9), most=st.integers(1, 3))
    def read(self, which: int, most: int) -> None:
        which %= len(self.readers)
        place, had = self.readers[which]
        try:
            batches, place = self.feed.read(place, most)
        except Compacted:
            assert len(self.history) - had > 6, "a reader was ended that was not far behind"
            self.readers[which] = self.feed.end, len(self.history)
            return
        got = [number_of(one) for batch in batches for one in batch.events]
        assert got == list(range(had, had + len(got)))
        assert bool(got) == (had < len(self.history))
        self.readers[which] = place, had + len(got)

    @rule(back=st.integers(0, 12))
    def resume(self, back: int) -> None:
        revision = self.feed.revision - back
        had = sum(at <= revision for at, _ in self.history)
        try:
            place = self.feed.after(revision)
        except Compacted:
            assert revision < 100 or len(self.history) - had > 6
            return
        self.readers = [*self.readers[-4:], (place, had)]

    @invariant()
    def is_bounded(self) -> None:
        assert sum(len(batch.events) for batch in self.feed.read(self.feed.after(self.feed.floor), 1000)[0]) <= 2 * 6


TestReaders = Readers.TestCase
