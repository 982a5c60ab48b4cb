"""Many callers' requests over one stream (`Ipam.Batch`): taken as they come, answered as they are settled.

A call of gRPC costs this process several times what deciding an address does. On a stream a message carries what has
come in meanwhile, in both directions, so that price is shared; and requests that come together are committed together.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from muslin.api.ipam.v1 import ipam_pb2
from muslin.errors import InvalidArgument, IOFailure, MuslinError
from muslin.rpc.deadline import DEFAULT, margin
from services.ipam import handles, requests
from services.ipam.convert import handle_message
from services.ipam.handles import Request
from services.ipam.outcomes import Freed, Granted, Outcome
from services.ipam.waiting import Waiting

if TYPE_CHECKING:
    from services.ipam.server import IpamApp

__all__ = ["Session", "wanted"]

log = logging.getLogger(__name__)

UNDER_WAY = 1_024
"""Requests of one stream that are not answered yet, at most: then nothing more is read from it."""
_SWEEP = 0.1
"""Seconds between looks for requests whose time is over."""


def wanted(app: IpamApp, asked: ipam_pb2.AssignRequest) -> Request:
    """What a request of the API asks for, by what is known. Raises what `requests.of_message` raises."""
    namespace = app.inventory.namespace(asked.namespace) if asked.namespace else None
    handle = handles.of(asked.attachment, asked.node, asked.namespace, asked.pod)
    return requests.repeatable(
        handle, lambda: app.view.handle(handle.identity).value,
        lambda: requests.of_message(asked, handle, namespace, app.inventory.node(asked.node), app.view.pools()))


class _Pending(NamedTuple):
    waiting: Waiting
    deadline: float
    """By the loop's clock."""
    seconds: float


class Session:
    """One stream. `read` takes requests, in a task; `responses` gives outcomes; `close` at the end."""

    def __init__(self, app: IpamApp) -> None:
        self._app = app
        self._pending: dict[int, _Pending] = {}
        self._outcomes: list[ipam_pb2.BatchOutcome] = []
        self._moved, self._room = asyncio.Event(), asyncio.Event()
        self._sweeper: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._ended = False
        self._problem: BaseException | None = None

    async def read(self, messages: AsyncIterator[ipam_pb2.BatchRequest]) -> None:
        """Take requests until the caller has no more. Why that came to an end is raised by `responses`."""
        try:
            async for message in messages:
                for item in message.items:
                    while len(self._pending) >= UNDER_WAY and not item.HasField("cancel"):
                        self._room.clear()
                        await self._room.wait()
                    self._take(item)
        except Exception as problem:  # noqa: BLE001  it belongs to the other task
            self._problem = problem
        finally:
            self._ended = True
            self._moved.set()

    async def responses(self) -> AsyncIterator[ipam_pb2.BatchResponse]:
        """Outcomes, as many at a time as there are, until the caller has no more requests and all are answered.

        Raises:
            InvalidArgument: a number was used twice.
        """
        while True:
            await self._moved.wait()
            self._moved.clear()
            if self._problem:
                raise self._problem
            if self._outcomes:
                outcomes, self._outcomes = self._outcomes, []
                yield ipam_pb2.BatchResponse(outcomes=outcomes)
            if self._ended and not self._pending and not self._outcomes:
                return

    def close(self) -> None:
        """The stream is gone: nobody waits for what is not answered."""
        if self._sweeper:
            self._sweeper.cancel()
        for pending in self._pending.values():
            pending.waiting.give_up()
        self._pending.clear()

    def _take(self, item: ipam_pb2.BatchItem) -> None:
        number, kind = item.number, item.WhichOneof("ask")
        if kind == "cancel":
            if pending := self._pending.pop(number, None):
                pending.waiting.give_up()
                self._progress()
            return
        if number in self._pending:
            raise InvalidArgument(f"items.number {number} is of a request that is under way; give each its own")
        try:
            waiting = self._ask(item, kind)
        except Exception as problem:  # noqa: BLE001  one request's failure is not its neighbours'
            self._settled(number, problem)
            return
        seconds = item.timeout_ms / 1000 or DEFAULT
        seconds -= margin(seconds)
        self._pending[number] = _Pending(waiting, self._loop.time() + seconds, seconds)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(_SWEEP, self._sweep)

    def _ask(self, item: ipam_pb2.BatchItem, kind: str | None) -> Waiting:
        allocator, answer = self._app.allocator, partial(self._settled, item.number)
        if kind == "assign":
            return allocator.ask_assign(wanted(self._app, item.assign), answer)
        if kind == "release":
            return allocator.ask_release(handles.identity(item.release.attachment), answer)
        raise InvalidArgument(f"items: request {item.number} asks for nothing; set assign, release or cancel")

    def _settled(self, number: int, outcome: Outcome | Exception) -> None:
        self._pending.pop(number, None)
        self._outcomes.append(_message(number, outcome))
        self._progress()

    def _progress(self) -> None:
        self._moved.set()
        self._room.set()

    def _sweep(self) -> None:
        """End the requests whose time is over."""
        now = self._loop.time()
        for pending in [pending for pending in self._pending.values() if pending.deadline <= now]:
            pending.waiting.expire(pending.seconds)
        self._sweeper = self._loop.call_later(_SWEEP, self._sweep) if self._pending else None


def _message(number: int, outcome: Outcome | Exception) -> ipam_pb2.BatchOutcome:
    if isinstance(outcome, Granted):
        held = outcome.handle
        if log.isEnabledFor(logging.INFO):
            log.info("held attachment=%s node=%s addresses=%s", held.identity, held.node,
                     ",".join(a.address for a in held.addresses))
        return ipam_pb2.BatchOutcome(number=number, assigned=ipam_pb2.AssignResponse(handle=handle_message(held)))
    if isinstance(outcome, Freed):
        log.info("freed addresses=%s", outcome.addresses)
        return ipam_pb2.BatchOutcome(number=number, released=ipam_pb2.ReleaseResponse(addresses=outcome.addresses))
    if isinstance(outcome, MuslinError):
        problem = outcome
    else:
        log.error("request %d of a stream failed", number, exc_info=outcome if isinstance(outcome, Exception) else None)
        problem = IOFailure(f"{type(outcome).__name__}: {outcome}")
    code: int = problem.status.value[0]
    return ipam_pb2.BatchOutcome(number=number, failure=ipam_pb2.BatchFailure(code=code, message=problem.message))
