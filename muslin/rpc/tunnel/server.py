"""Serving calls that come through a tunnel, by the very handlers that serve them by themselves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import grpc

from muslin import tracing
from muslin.api.rpc.v1 import tunnel_pb2, tunnel_pb2_grpc
from muslin.rpc.identity import caller_of
from muslin.rpc.tunnel.context import Abort, CallContext, carried, received

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Wrap = Callable[[str, Any], Any]

_OK, _UNKNOWN = 0, 2
_STATUS: dict[grpc.StatusCode, int] = {code: code.value[0] for code in grpc.StatusCode}


class Handlers:
    """A server to register services with, that remembers their handlers."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server
        self._generic: list[Any] = []
        self._found: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)

    def add_generic_rpc_handlers(self, handlers: Iterable[Any]) -> None:
        """As the server has it."""
        handlers = tuple(handlers)
        self._generic += handlers
        self._server.add_generic_rpc_handlers(handlers)

    def find(self, method: str, metadata: Any, wrap: Wrap) -> Any:
        """The handler of a unary method, as `wrap` makes it; None if nobody serves it, or not as a unary one."""
        known = self._found.get(method)
        if known is None:
            details = _Details(method, metadata)
            handler = next((h for g in self._generic if (h := g.service(details)) is not None), None)
            if handler is None or handler.request_streaming or handler.response_streaming:
                return None
            known = self._found[method] = wrap(method, handler)
        return known


class _Details(grpc.HandlerCallDetails):
    def __init__(self, method: str, metadata: Any) -> None:
        self.method = method
        self.invocation_metadata = metadata


class TunnelServicer(tunnel_pb2_grpc.TunnelServicer):
    """muslin.rpc.v1.Tunnel."""

    def __init__(self, handlers: Handlers, wrap: Wrap) -> None:
        """`wrap` makes of a method and its handler the one that is called."""
        self._handlers, self._wrap = handlers, wrap
        self._streams: set[_Stream] = set()
        self._draining = False

    async def Calls(self, request_iterator: AsyncIterator[tunnel_pb2.CallsRequest],
                    context: Context) -> AsyncIterator[tunnel_pb2.CallsResponse]:
        """Carry calls until the client half-closes, or this server is shutting down."""
        stream = _Stream(self._handlers, self._wrap, context)
        self._streams.add(stream)
        reader = asyncio.create_task(stream.read(request_iterator), name="tunnel reader")
        try:
            if self._draining:
                stream.drain()
            async for response in stream.answers():
                yield response
        finally:
            self._streams.discard(stream)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            await stream.aclose()

    def drain(self) -> None:
        """Take no more calls; streams end when those that are under way have been answered."""
        self._draining = True
        for stream in self._streams:
            stream.drain()


class _Stream:
    """One client's stream."""

    def __init__(self, handlers: Handlers, wrap: Wrap, context: Context) -> None:
        self._handlers, self._wrap, self._context = handlers, wrap, context
        self._caller = caller_of(context)
        self._running: dict[int, asyncio.Task[tunnel_pb2.Answer]] = {}
        self._ready: list[tunnel_pb2.Answer] = []
        self._wake = asyncio.Event()
        self._ending = False
        self._invocation: tracing.Invocation | None = None
        """The run of the plugin that this stream is of."""

    async def read(self, requests: AsyncIterator[tunnel_pb2.CallsRequest]) -> None:
        """Begin calls as they come in."""
        try:
            async for request in requests:
                if self._ending:
                    break  # unanswered: to the client they are calls to a server that went away
                for call in request.calls:
                    self._begin(call)
                for number in request.cancelled:
                    if task := self._running.get(number):
                        task.cancel()
        finally:
            self.drain()

    async def answers(self) -> AsyncIterator[tunnel_pb2.CallsResponse]:
        """What is ready, whenever something is; ends when nothing runs and nothing more comes in."""
        while True:
            if self._ready:
                ready, self._ready = self._ready, []
                yield tunnel_pb2.CallsResponse(answers=ready)
            elif self._ending and not self._running:
                return
            else:
                self._wake.clear()
                await self._wake.wait()

    def drain(self) -> None:
        """Take no more calls."""
        self._ending = True
        self._wake.set()

    async def aclose(self) -> None:
        """End what still runs: nobody hears of it."""
        if self._invocation is not None:
            self._invocation.end()
        running = tuple(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _begin(self, call: tunnel_pb2.Call) -> None:
        if tracing.active() and self._invocation is None:
            self._invocation = tracing.invocation(received(call.metadata))
        task = asyncio.create_task(self._answer(call), name=f"tunnel {call.method}")
        self._running[call.id] = task
        task.add_done_callback(lambda done: self._done(call.id, done))

    def _done(self, number: int, task: asyncio.Task[tunnel_pb2.Answer]) -> None:
        self._running.pop(number, None)
        if not task.cancelled():
            self._ready.append(task.result())
        self._wake.set()

    async def _answer(self, call: tunnel_pb2.Call) -> tunnel_pb2.Answer:
        """Serve one call; raises nothing but CancelledError."""
        deadline = asyncio.get_running_loop().time() + call.timeout_ms / 1000 if call.timeout_ms else None
        context = CallContext(self._context, self._caller, call, deadline)
        handler = self._handlers.find(call.method, context.invocation_metadata(), self._wrap)
        if handler is None:
            return _failed(call, grpc.StatusCode.UNIMPLEMENTED, f"{call.method} is not served through a tunnel")
        try:
            decode, encode = handler.request_deserializer, handler.response_serializer
            async with asyncio.timeout_at(deadline):
                response = await handler.unary_unary(decode(call.request) if decode else call.request, context)
            code = context.code()
            answer = tunnel_pb2.Answer(id=call.id, response=encode(response) if encode else response,
                                       status=_OK if code is None else _STATUS[code], message=context.details())
        except Abort:
            answer = _failed(call, context.code() or grpc.StatusCode.UNKNOWN, context.details())
        except TimeoutError:
            answer = _failed(call, grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        except Exception as problem:
            # Handlers turn what they raise into a status; what is left is a request that can not be decoded.
            log.exception("%s failed", call.method)
            answer = _failed(call, grpc.StatusCode.INTERNAL, f"{type(problem).__name__}: {problem}")
        answer.trailing.extend(carried(context.trailing_metadata()))
        return answer


def _failed(call: tunnel_pb2.Call, code: grpc.StatusCode, message: str) -> tunnel_pb2.Answer:
    return tunnel_pb2.Answer(id=call.id, status=_STATUS.get(code, _UNKNOWN), message=message)
