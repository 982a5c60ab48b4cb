"""A stream of requests: each is answered by itself, and no more are taken than may be under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from types import SimpleNamespace
from typing import cast

import grpc
import pytest

from muslin.api.cni.v1 import cni_pb2
from muslin.api.ipam.v1 import ipam_pb2
from muslin.errors import Exhausted, InvalidArgument, Unavailable
from services.ipam.batch import UNDER_WAY, Session
from services.ipam.handles import Request
from services.ipam.outcomes import Freed, Granted, Release
from services.ipam.server import IpamApp
from services.ipam.waiting import Answer, Waiting


class Allocator:
    """Keeps what it is asked."""

    def __init__(self) -> None:
        self.asked: list[Waiting] = []
        self._grown = asyncio.Event()

    def ask_assign(self, request: Request, answer: Answer) -> Waiting:
        return self._keep(Waiting(request, request.identity, request.handle.node, answer))

    def ask_release(self, identity: str, answer: Answer) -> Waiting:
        return self._keep(Waiting(Release(identity), identity, "", answer))

    def _keep(self, waiting: Waiting) -> Waiting:
        self.asked.append(waiting)
        self._grown.set()
        return waiting

    async def reached(self, count: int) -> None:
        while len(self.asked) < count:
            self._grown.clear()
            await self._grown.wait()

    def grant(self, number: int) -> None:
        request = self.asked[number].request
        assert isinstance(request, Request)
        self.asked[number].settle(Granted(request.handle, new=True))


class Stream:
    """A session and its caller."""

    def __init__(self) -> None:
        self.allocator = Allocator()
        inventory = SimpleNamespace(namespace=lambda name: None, node=lambda name: None)
        view = SimpleNamespace(pools=lambda: (), handle=lambda identity: SimpleNamespace(value=None))
        self.session = Session(cast(IpamApp, SimpleNamespace(allocator=self.allocator, inventory=inventory, view=view)))
        self._messages: asyncio.Queue[ipam_pb2.BatchRequest | None] = asyncio.Queue()
        self._answers = self.session.responses()
        self.reading = asyncio.create_task(self.session.read(self._requests()))

    async def _requests(self) -> AsyncIterator[ipam_pb2.BatchRequest]:
        while (message := await self._messages.get()) is not None:
            yield message

    def send(self, items: Iterable[ipam_pb2.BatchItem]) -> None:
        self._messages.put_nowait(ipam_pb2.BatchRequest(items=items))

    def end(self) -> None:
        self._messages.put_nowait(None)

    async def asked(self, count: int) -> None:
        """Wait until the allocator was asked so many times, and nothing is left to do."""
        async with asyncio.timeout(30):
            await self.allocator.reached(count)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(self.allocator.asked) == count

    async def answers(self) -> dict[int, str]:
        """What the next message says, by number."""
        async with asyncio.timeout(30):
            message = await anext(self._answers)
        return {outcome.number: outcome.WhichOneof("outcome") or "" for outcome in message.outcomes}

    async def failure(self) -> ipam_pb2.BatchFailure:
        async with asyncio.timeout(30):
            outcome, = (await anext(self._answers)).outcomes
        return outcome.failure


@pytest.fixture
async def stream() -> AsyncIterator[Stream]:
    made = Stream()
    yield made
    made.reading.cancel()
    await asyncio.wait([made.reading])
    made.session.close()


def assign(number: int, node: str = "n1") -> ipam_pb2.BatchItem:
    attachment = cni_pb2.Attachment(network="net", container_id=f"c{number}", ifname="eth0")
    return ipam_pb2.BatchItem(number=number, assign=ipam_pb2.AssignRequest(attachment=attachment, node=node))


def release(number: int) -> ipam_pb2.BatchItem:
    attachment = cni_pb2.Attachment(network="net", container_id=f"c{number}", ifname="eth0")
    return ipam_pb2.BatchItem(number=number, release=ipam_pb2.ReleaseRequest(attachment=attachment))


async def test_answers_come_as_they_are_known_and_together_if_they_are(stream: Stream) -> None:
    stream.send([assign(1), assign(2), release(3)])
    await stream.asked(3)
    stream.allocator.asked[2].settle(Freed(("10.0.0.9",)))
    assert await stream.answers() == {3: "released"}
    stream.allocator.grant(1)
    stream.allocator.asked[0].settle(Exhausted("no address"))
    assert await stream.answers() == {2: "assigned", 1: "failure"}


async def test_one_that_can_not_be_right_fails_alone_and_says_what_the_call_would(stream: Stream) -> None:
    stream.send([assign(1, node="")])
    failure = await stream.failure()
    assert failure.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert failure.message.startswith("node '' must not be empty")
    stream.send([ipam_pb2.BatchItem(number=2), assign(3)])
    assert "set assign, release or cancel" in (await stream.failure()).message
    await stream.asked(1)
    stream.allocator.asked[0].settle(Unavailable("the store is away"))
    failure = await stream.failure()
    assert (failure.code, failure.message) == (grpc.StatusCode.UNAVAILABLE.value[0], "the store is away")


async def test_a_defect_is_one_request_s_failure(stream: Stream) -> None:
    stream.send([assign(1)])
    await stream.asked(1)
    stream.allocator.asked[0].settle(KeyError("x"))
    assert (await stream.failure()).code == grpc.StatusCode.INTERNAL.value[0]


async def test_no_more_are_taken_than_may_be_under_way(stream: Stream) -> None:
    """Until some are answered; giving one up makes room, too."""
    stream.send(assign(number) for number in range(UNDER_WAY + 3))
    await stream.asked(UNDER_WAY)
    stream.allocator.grant(5)
    await stream.asked(UNDER_WAY + 1)
    stream.allocator.asked[6].expire(1.0)
    await stream.asked(UNDER_WAY + 2)
    assert await stream.answers() == {5: "assigned", 6: "failure"}


async def test_what_is_given_up_is_not_answered(stream: Stream) -> None:
    stream.send([assign(1), assign(2), ipam_pb2.BatchItem(number=1, cancel=True),
                 ipam_pb2.BatchItem(number=7, cancel=True)])
    await stream.asked(2)
    assert stream.allocator.asked[0].settled
    stream.allocator.grant(0)
    stream.allocator.grant(1)
    assert await stream.answers() == {2: "assigned"}


async def test_a_time_that_is_over_is_said(stream: Stream) -> None:
    item = assign(1)
    item.timeout_ms = 1
    stream.send([item, assign(2)])
    await stream.asked(2)
    failure = await stream.failure()
    assert failure.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    assert "net/c1/eth0: no answer within 0.0 s; whether it was done is unknown" in failure.message
    assert not stream.allocator.asked[1].settled


async def test_a_number_used_twice_ends_the_stream(stream: Stream) -> None:
    stream.send([assign(1), assign(1)])
    with pytest.raises(InvalidArgument, match=r"items\.number 1 is of a request that is under way"):
        await stream.answers()


async def test_a_number_may_be_used_again_once_it_is_answered(stream: Stream) -> None:
    for turn in range(2):
        stream.send([assign(1)])
        await stream.asked(turn + 1)
        stream.allocator.grant(turn)
        assert await stream.answers() == {1: "assigned"}


async def test_a_caller_that_has_no_more_requests_is_answered_those_it_made(stream: Stream) -> None:
    stream.send([assign(1)])
    stream.end()
    await stream.asked(1)
    stream.allocator.grant(0)
    assert await stream.answers() == {1: "assigned"}
    with pytest.raises(StopAsyncIteration):
        await stream.answers()


async def test_when_the_stream_is_gone_nobody_waits(stream: Stream) -> None:
    stream.send([assign(1)])
    await stream.asked(1)
    stream.session.close()
    assert stream.allocator.asked[0].settled
