"""A client of the address manager that many may use at once: their requests travel together over one stream.

Whoever needs addresses at a high rate uses this instead of `Assign` and `Release` one by one; a message carries what
has been asked while the last one was being sent, as the service's transactions do.
"""

from __future__ import annotations

import asyncio
import logging
from itertools import count, islice

import grpc

from muslin import rpc
from muslin.api.cni.v1 import cni_pb2
from muslin.api.ipam.v1 import ipam_pb2, ipam_pb2_grpc
from muslin.errors import BY_STATUS, MuslinError, TimedOut, Unavailable, Unknown, from_status
from muslin.etcd.backoff import Backoff
from muslin.tasks import TaskSet

__all__ = ["Addresses"]

log = logging.getLogger(__name__)

_MESSAGE = 256
"""Requests in a message, at most."""
_LASTING = (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED,
            grpc.StatusCode.UNAUTHENTICATED)
"""What a stream may end with that another one would end with, too."""
_STATUS = {status.value[0]: status for status in BY_STATUS}

Call = grpc.aio.StreamStreamCall[ipam_pb2.BatchRequest, ipam_pb2.BatchResponse]
Answer = ipam_pb2.AssignResponse | ipam_pb2.ReleaseResponse


class _Asked:
    """A request that is not answered yet."""

    def __init__(self, item: ipam_pb2.BatchItem, deadline: float, future: asyncio.Future[Answer]) -> None:
        self.item, self.deadline, self.future = item, deadline, future


class Addresses:
    """Assigns and releases at `target`, for any number of callers at once; `async with` ends it, as does `aclose()`.

    Connects when first used. When the stream breaks, what is not answered is asked again over a new one, until the
    caller's time is over: the service answers an attachment that has its addresses with the same.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._channel: grpc.aio.Channel | None = None
        self._tasks = TaskSet()
        self._numbers = count(1)
        self._asked: dict[int, _Asked] = {}
        self._unsent: dict[int, ipam_pb2.BatchItem] = {}
        self._more = asyncio.Event()
        self._trouble = "not connected yet"

    async def __aenter__(self) -> Addresses:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the stream. Callers that still wait get Unavailable."""
        await self._tasks.aclose()
        self._fail(Unavailable(f"ipam at {self._target}: the client was closed; whether it was done is unknown"))
        if self._channel:
            await self._channel.close()

    async def assign(self, request: ipam_pb2.AssignRequest, timeout: float = 10.0) -> ipam_pb2.Handle:
        """What the attachment holds now: its addresses, the same again if it had some.

        Raises:
            What `Ipam.Assign` ends with, as the error of that meaning.
            TimedOut: not known to be done within `timeout` seconds; ask again.
        """
        answer = await self._ask(ipam_pb2.BatchItem(assign=request), timeout)
        assert isinstance(answer, ipam_pb2.AssignResponse)
        return answer.handle

    async def release(self, attachment: cni_pb2.Attachment, timeout: float = 10.0) -> tuple[str, ...]:
        """Free what the attachment holds, and return that; nothing, too, if the first answer was lost on the way.

        Raises: as `assign`.
        """
        request = ipam_pb2.ReleaseRequest(attachment=attachment)
        answer = await self._ask(ipam_pb2.BatchItem(release=request), timeout)
        assert isinstance(answer, ipam_pb2.ReleaseResponse)
        return tuple(answer.addresses)

    async def _ask(self, item: ipam_pb2.BatchItem, timeout: float) -> Answer:
        loop = asyncio.get_running_loop()
        if self._channel is None:
            self._channel = rpc.channel(self._target)
            self._tasks.spawn("ipam stream", self._run(self._channel))
        number = item.number = next(self._numbers)
        item.timeout_ms = max(1, int(timeout * 1000))
        asked = self._asked[number] = _Asked(item, loop.time() + timeout, loop.create_future())
        self._send(item)
        timer = loop.call_later(timeout, self._expire, asked, timeout)
        try:
            return await asked.future
        finally:
            timer.cancel()
            if self._asked.pop(number, None) and self._unsent.pop(number, None) is None:
                self._send(ipam_pb2.BatchItem(number=number, cancel=True))

    def _send(self, item: ipam_pb2.BatchItem) -> None:
        self._unsent[item.number] = item
        self._more.set()

    def _expire(self, asked: _Asked, seconds: float) -> None:
        if not asked.future.done():
            trouble = f" ({self._trouble})" if self._trouble else ""
            asked.future.set_exception(TimedOut(f"ipam at {self._target} did not answer within {seconds:.3g} s"
                                                f"{trouble}; whether it was done is unknown, ask again"))

    def _fail(self, problem: MuslinError) -> None:
        for asked in self._asked.values():
            if not asked.future.done():
                asked.future.set_exception(problem)
        self._asked.clear()
        self._unsent.clear()

    async def _run(self, channel: grpc.aio.Channel) -> None:
        """Have a stream whenever somebody asks, until cancelled."""
        stub, backoff = ipam_pb2_grpc.IpamStub(channel), Backoff(most=0.5)
        while True:
            await self._more.wait()
            problem = await self._stream(stub.Batch(timeout=None), backoff)
            self._trouble = f"the stream ended: {problem.message}"
            if problem.status in _LASTING:
                self._fail(problem)
            now = asyncio.get_running_loop().time()
            self._unsent.clear()
            for number, asked in self._asked.items():
                asked.item.timeout_ms = max(1, int((asked.deadline - now) * 1000))
                self._unsent[number] = asked.item
            if self._unsent:
                self._more.set()
            else:
                self._more.clear()
            await asyncio.sleep(backoff.next())

    async def _stream(self, call: Call, backoff: Backoff) -> MuslinError:
        """Converse until the stream breaks; why it did."""
        writing = asyncio.create_task(self._write(call), name="ipam stream, requests")
        try:
            while isinstance(response := await call.read(), ipam_pb2.BatchResponse):
                for outcome in response.outcomes:
                    self._answered(outcome)
                self._trouble = ""
                backoff.reset()
            return _error(await call.code(), await call.details())
        except grpc.aio.AioRpcError as error:
            return _error(error.code(), error.details())
        finally:
            writing.cancel()
            call.cancel()
            await asyncio.wait([writing])

    async def _write(self, call: Call) -> None:
        while True:
            await self._more.wait()
            numbers = list(islice(self._unsent, _MESSAGE))
            message = ipam_pb2.BatchRequest(items=[self._unsent.pop(number) for number in numbers])
            if not self._unsent:
                self._more.clear()
            try:
                await call.write(message)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                return  # whoever reads learns why

    def _answered(self, outcome: ipam_pb2.BatchOutcome) -> None:
        asked = self._asked.pop(outcome.number, None)
        if asked is None or asked.future.done():
            return  # given up meanwhile
        kind = outcome.WhichOneof("outcome")
        if kind == "assigned":
            asked.future.set_result(outcome.assigned)
        elif kind == "released":
            asked.future.set_result(outcome.released)
        else:
            status = _STATUS.get(outcome.failure.code, grpc.StatusCode.UNKNOWN)
            asked.future.set_exception(from_status(status, f"ipam at {self._target}: {outcome.failure.message}"))


def _error(code: grpc.StatusCode, details: str | None) -> MuslinError:
    if code is grpc.StatusCode.OK:
        return Unavailable("the service has ended it")
    return BY_STATUS.get(code, Unknown)(details or code.name)
