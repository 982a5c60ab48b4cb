"""Calling through a tunnel."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress

import grpc

from muslin.api.rpc.v1 import tunnel_pb2, tunnel_pb2_grpc
from muslin.rpc.tunnel.context import Pairs, carried, received

log = logging.getLogger(__name__)

_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
CONNECT_SECONDS = 1.0
"""How long a new stream waits for a connection: a server that is being started anew is back by then."""

_TOGETHER = 256
"""Calls in one message at most: an answer should not wait for very many requests to be read."""


class Tunnel:
    """A stream to one server, opened when it is needed and again after a loss.

    Not safe for threads. Calls fail as unary ones do, with grpc.aio.AioRpcError; those that were on their way when the
    stream broke are UNAVAILABLE, and may have been carried out.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        """The channel stays the caller's, and must live longer."""
        self._channel = channel
        self._stream: _Stream | None = None
        self._closed = False

    async def call(self, method: str, request: bytes, *, timeout: float, metadata: Pairs = (),
                   again: bool = False) -> tunnel_pb2.Answer:
        """Call a unary method, such as `/muslin.ipam.v1.Plugin/Add`, with its serialized request.

        Whether the call could be made `again` elsewhere does not matter here: there is one server.

        Raises:
            grpc.aio.AioRpcError: it failed, or has no answer within `timeout` seconds, or the server is not there.
        """
        if self._closed:
            raise _error(grpc.StatusCode.CANCELLED, "the tunnel is closed")
        if self._stream is None or self._stream.ended:
            self._stream = _Stream(self._channel)
        answer = await self._stream.call(method, request, timeout, metadata)
        if answer.status:
            raise _error(_CODES.get(answer.status, grpc.StatusCode.UNKNOWN), answer.message, received(answer.trailing))
        return answer

    async def finish(self) -> None:
        """Take no more calls, and end when those on their way have ended."""
        self._closed = True
        if self._stream is not None:
            await self._stream.drained()
            await self._stream.aclose()

    async def aclose(self) -> None:
        """End the stream; calls on their way fail with CANCELLED."""
        self._closed = True
        if self._stream is not None:
            await self._stream.aclose()


class _Stream:
    """One stream, from its opening to its end."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.ended = False
        self._channel = channel
        self._stub: tunnel_pb2_grpc.TunnelAsyncStub = tunnel_pb2_grpc.TunnelStub(channel)
        self._pending: dict[int, asyncio.Future[tunnel_pb2.Answer]] = {}
        self._outbox: dict[int, tunnel_pb2.Call] = {}
        self._cancelled: list[int] = []
        self._wake = asyncio.Event()
        self._last = 0
        self._task = asyncio.create_task(self._run(), name="tunnel")

    async def call(self, method: str, request: bytes, timeout: float, metadata: Pairs) -> tunnel_pb2.Answer:
        self._last += 1
        number = self._last
        future: asyncio.Future[tunnel_pb2.Answer] = asyncio.get_running_loop().create_future()
        self._pending[number] = future
        self._outbox[number] = tunnel_pb2.Call(id=number, method=method, request=request,
                                               timeout_ms=max(1, int(timeout * 1000)), metadata=carried(metadata))
        self._wake.set()
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            self._forget(number)
            raise _error(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded") from None
        except asyncio.CancelledError:
            self._forget(number)
            raise
        finally:
            self._pending.pop(number, None)

    def _forget(self, number: int) -> None:
        """Nobody waits for an answer any longer."""
        if self._outbox.pop(number, None) is None:
            self._cancelled.append(number)
            self._wake.set()

    async def drained(self) -> None:
        while self._pending:
            await asyncio.wait(set(self._pending.values()))
            await asyncio.sleep(0)  # who waited takes its future out

    async def aclose(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._end(_error(grpc.StatusCode.CANCELLED, "the tunnel is closed"))  # where the task had not yet begun

    async def _run(self) -> None:
        error = _error(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")
        calls = None
        try:
            with suppress(TimeoutError):  # then the stream fails at once, and says why
                async with asyncio.timeout(CONNECT_SECONDS):
                    await self._channel.channel_ready()
            calls = self._stub.Calls(self._requests())
            async for response in calls:
                for answer in response.answers:
                    future = self._pending.get(answer.id)
                    if future is not None and not future.done():
                        future.set_result(answer)
        except grpc.aio.AioRpcError as problem:
            # INTERNAL is grpcio's word for a stream that was written to when it had ended (grpc/grpc#36066).
            lost = problem.code() is grpc.StatusCode.INTERNAL
            error = _error(grpc.StatusCode.UNAVAILABLE, "the connection was lost") if lost else problem
        except asyncio.CancelledError:
            error = _error(grpc.StatusCode.CANCELLED, "the tunnel is closed")
            raise
        except Exception as problem:
            log.exception("tunnel")
            error = _error(grpc.StatusCode.INTERNAL, f"{type(problem).__name__}: {problem}")
        finally:
            if calls is not None:
                calls.cancel()
            self._end(error)

    def _end(self, error: grpc.aio.AioRpcError) -> None:
        self.ended = True
        self._wake.set()
        for future in self._pending.values():
            if not future.done():
                future.set_exception(error)

    async def _requests(self) -> AsyncIterator[tunnel_pb2.CallsRequest]:
        while not self.ended:
            if self._outbox or self._cancelled:
                numbers = list(self._outbox)[:_TOGETHER]
                cancelled, self._cancelled = self._cancelled, []
                yield tunnel_pb2.CallsRequest(calls=[self._outbox.pop(n) for n in numbers], cancelled=cancelled)
            else:
                self._wake.clear()
                await self._wake.wait()


def _error(code: grpc.StatusCode, message: str, trailing: Pairs = ()) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details=message)
