"""Transactions sent together: fewer for etcd, and for each caller as if its own had been alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest

from muslin.errors import Conflict
from muslin.etcd import Etcd, KeyValue, keys
from services.endpoint.commits import OPERATIONS, Commits, Decide, Outcome, Read
from tests.integration.endpoint.test_late import _TRANSACTIONS
from tests.support.etcd import EtcdServer
from tests.support.etcd_faults import until
from tests.support.relay import Moment, Relay


def key(number: int) -> str:
    return keys.endpoint("net", f"c{number}", "eth0")


def putting(*numbers: int, value: bytes = b"x") -> Decide:
    """Makes records that are not there."""
    def decide(read: Read) -> Mapping[str, bytes | None]:
        return {key(number): value for number in numbers if read(key(number)) is None}
    return decide


class Line:
    """Transactions of one process, whose first has no answer yet."""

    def __init__(self, server: EtcdServer, etcd: Etcd, relay: Relay) -> None:
        self.known: dict[str, KeyValue | None] = {}
        """What its mirror knows."""
        self.etcd = etcd
        self._server, self._relay = server, relay
        self.commits = Commits(etcd, self.known.get)
        self.tasks: list[asyncio.Task[Outcome]] = []

    async def stop(self) -> None:
        before = self._server.metric(_TRANSACTIONS)
        self._relay.stop_at(key(0), Moment.DONE)
        self.want(putting(0))
        async with asyncio.timeout(20):
            await self._relay.stopped.wait()
        await until(lambda: self._server.metric(_TRANSACTIONS) > before, 20)

    def want(self, *decides: Decide) -> None:
        self.tasks += [asyncio.create_task(self.commits.together(decide, {})) for decide in decides]

    async def go(self) -> tuple[list[Outcome | BaseException], int]:
        """Let the answer come; the outcomes, but for the first one's, and how many transactions etcd was sent since."""
        await asyncio.sleep(0)  # those that are wanted begin to wait
        before = self._server.metric(_TRANSACTIONS)
        self._relay.go()
        outcomes = await asyncio.gather(*self.tasks, return_exceptions=True)
        return outcomes[1:], int(self._server.metric(_TRANSACTIONS) - before)


@pytest.fixture
async def line(etcd: EtcdServer) -> AsyncIterator[Line]:
    async with opened(etcd) as made:
        yield made


@asynccontextmanager
async def opened(server: EtcdServer) -> AsyncIterator[Line]:
    async with Etcd([server.endpoint]) as direct:
        for item in (await direct.range(keys.ENDPOINT)).items:
            await direct.delete(item.key)
        async with Relay(server.endpoint) as relay, Etcd([relay.endpoint]) as etcd:
            made = Line(server, etcd, relay)
            await made.stop()
            try:
                yield made
            finally:
                relay.go()
                await made.commits.aclose()


async def stored(line: Line) -> list[str]:
    return [item.key for item in (await line.etcd.range(keys.ENDPOINTS)).items]


async def test_what_waits_goes_together(line: Line) -> None:
    line.want(*(putting(number) for number in range(1, 31)))
    outcomes, sent = await line.go()
    assert sent == 1
    assert all(isinstance(outcome, Outcome) and outcome.found is None for outcome in outcomes)
    assert len({outcome.revision for outcome in outcomes if isinstance(outcome, Outcome)}) == 1
    assert await stored(line) == sorted(key(number) for number in range(31))


async def test_more_than_etcd_takes_go_in_several(line: Line) -> None:
    """Operations are counted, with those on fences, and so is the size."""
    line.want(*(putting(number) for number in range(1, 200)))
    line.want(*(putting(number, value=b"x" * 600_000) for number in range(200, 204)))
    outcomes, sent = await line.go()
    assert all(isinstance(outcome, Outcome) and outcome.found is None for outcome in outcomes)
    assert 2 * 199 / OPERATIONS < sent < 12
    assert len(await stored(line)) == 204


async def test_who_has_to_do_with_what_another_writes_goes_after_it(line: Line) -> None:
    """Deciding by what the one before has left needs that to be known: it finds out, and decides anew."""
    line.want(putting(1, value=b"first"), putting(1, value=b"second"), putting(2))
    outcomes, sent = await line.go()
    first, second, third = outcomes
    assert sent == 2
    assert isinstance(first, Outcome)
    assert isinstance(second, Outcome)
    assert isinstance(third, Outcome)
    assert (first.found, third.found) == (None, None)
    assert second.found is not None
    found = second.found[key(1)]
    assert found is not None
    assert found.value == b"first"


async def test_a_conflict_of_one_is_done_by_none(line: Line, etcd: EtcdServer) -> None:
    """All are told what there is at their keys: with that each can go on alone."""
    async with Etcd([etcd.endpoint]) as other:
        revision = await other.put(key(2), b"other")
    line.want(putting(1), putting(2), putting(3))
    outcomes, sent = await line.go()
    assert sent == 1
    found = [outcome.found for outcome in outcomes if isinstance(outcome, Outcome)]
    assert [bool(entry) for entry in found] == [True] * 3
    assert found[0] == {key(1): None, keys.endpoint_fence(key(1)): None}
    assert found[1] == {key(2): KeyValue(key(2), b"other", revision, revision), keys.endpoint_fence(key(2)): None}
    assert await stored(line) == [key(0), key(2)]


async def test_an_error_in_deciding_is_its_caller_s(line: Line) -> None:
    def refusing(_: Read) -> Mapping[str, bytes | None]:
        raise Conflict("not this one")

    line.want(putting(1), refusing, putting(2))
    outcomes, sent = await line.go()
    assert sent == 1
    assert isinstance(outcomes[1], Conflict)
    assert await stored(line) == [key(0), key(1), key(2)]


async def test_who_has_gone_is_left_out(line: Line) -> None:
    line.want(putting(1), putting(2))
    await asyncio.sleep(0)
    line.tasks[1].cancel()
    outcomes, _ = await line.go()
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert await stored(line) == [key(0), key(2)]


async def test_one_that_is_too_large_for_etcd_harms_no_other(line: Line) -> None:
    line.want(putting(1), putting(2, value=b"x" * 990_000), putting(3))

    def too_many(read: Read) -> Mapping[str, bytes | None]:
        read(key(4))
        return dict.fromkeys(map(key, range(4, 4 + OPERATIONS)))

    line.want(too_many)
    outcomes, _ = await line.go()
    assert [isinstance(outcome, Outcome) for outcome in outcomes] == [True, True, True, False]
    assert await stored(line) == [key(0), key(1), key(2), key(3)]


async def test_deletions_with_the_same_fence_go_one_after_the_other(line: Line) -> None:
    first = key(1)
    second = next(key(n) for n in range(2, 10_000) if keys.endpoint_fence(key(n)) == keys.endpoint_fence(first))
    line.want(lambda read: {first: None}, lambda read: {second: None}, lambda read: {key(0): None})
    outcomes, sent = await line.go()
    assert sent == 2
    assert all(isinstance(outcome, Outcome) and outcome.found is None for outcome in outcomes)
