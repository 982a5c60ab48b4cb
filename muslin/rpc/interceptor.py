"""What happens around every call that is served: admission, request id, metrics, errors, an end to streams."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, cast

import grpc

from muslin import log as logs
from muslin import metrics, tracing
from muslin.errors import MuslinError
from muslin.rpc.guard import Guard, decoder
from muslin.rpc.refusals import refused

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

LARGEST = 64 << 20
"""Bytes of a message that is taken in at all."""

_BARE = frozenset({"/muslin.rpc.v1.Tunnel/Calls"})
"""Methods served as they are: the calls within a tunnel are what counts, and it ends by itself on shutdown."""


_ROUTINE = (".Plugin/Status", ".Endpoints/Announce")
"""How methods end that every node calls every few seconds: only what goes wrong of them is worth a line."""


class Around(grpc.aio.ServerInterceptor):
    """One for each server."""

    def __init__(self) -> None:
        self.own: frozenset[str] = frozenset()
        """Names of the services whose calls get a line in the log. Others are passed on: who serves them has one."""
        self._draining = False
        self._streams: set[asyncio.Task[Any]] = set()
        self._wrapped: dict[str, tuple[Any, Any]] = {}
        self._unread: dict[asyncio.Task[Any] | None, str] = {}
        """Calls by themselves whose request has not come yet: the task of each, and its method."""

    def drain(self) -> None:
        """End the streams that are open: their clients go elsewhere at once instead of after the grace period."""
        self._draining = True
        for task in self._streams:
            task.cancel()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the handler of a call; once for a handler, since most are the same for every call of a method."""
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        if not handler.request_streaming and (task := asyncio.current_task()) is not None:
            self._unread[task] = method
            task.add_done_callback(self._done)
        return cast("grpc.RpcMethodHandler[Any, Any]", handler if method in _BARE else self.wrap(method, handler))

    def _done(self, task: asyncio.Task[Any]) -> None:
        """A call is over. gRPC itself refuses a message that is larger than it takes, and tells nobody here of it."""
        if (method := self._unread.pop(task, None)) and not task.cancelled():
            refused("oversized", "a caller", f"{method}: no request came: it had more than {LARGEST:,} bytes, or the "
                                             "caller left")

    def wrap(self, method: str, handler: Any) -> Any:
        """The handler with all that happens around its calls."""
        known, wrapped = self._wrapped.get(method, (None, None))
        if known is not handler:
            wrapped = self._wrap(method, handler)
            self._wrapped[method] = handler, wrapped
        return wrapped

    def _level(self, method: str) -> int:
        return logging.INFO if method[1:].partition("/")[0] in self.own else logging.DEBUG

    def _wrap(self, method: str, handler: Any) -> Any:
        wrap: Callable[[str, Any, bool], Any] = self._stream if handler.response_streaming else self._unary
        kind = (f"{'stream' if handler.request_streaming else 'unary'}"
                f"_{'stream' if handler.response_streaming else 'unary'}")
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        inner = wrap(method, getattr(handler, kind), bool(handler.request_streaming))
        return make(inner, decoder(handler.request_deserializer), handler.response_serializer)

    def _guard(self, method: str) -> Guard:
        return Guard(method, lambda: self.own)

    def _unary(self, method: str, inner: Callable[..., Awaitable[Any]], streams: bool,
               ) -> Callable[..., Awaitable[Any]]:
        guard = self._guard(method)

        async def call(request: Any, context: Context) -> Any:
            self._unread.pop(asyncio.current_task(), None)
            with _Observation(method, context, self._level(method)):
                try:
                    request = _admitted(guard, request, context, streams)
                    return await inner(request, context)
                except Exception as problem:  # noqa: BLE001  every failure gets a status here, and only here
                    await _abort(method, context, problem)
        return call

    def _stream(self, method: str, inner: Callable[..., AsyncIterator[Any] | Awaitable[None]], streams: bool,
                ) -> Callable[..., AsyncIterator[Any]]:
        guard = self._guard(method)

        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            task = asyncio.current_task()
            assert task is not None
            self._unread.pop(task, None)
            self._streams.add(task)
            with _Observation(method, context, self._level(method)):
                try:
                    responses = inner(_admitted(guard, request, context, streams), context)
                    if isinstance(responses, AsyncIterator):
                        async for response in responses:
                            yield response
                    else:  # the other style that grpcio knows, which its own health service has: it writes by itself
                        await responses
                except asyncio.CancelledError:
                    if not self._draining:
                        raise
                    task.uncancel()
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "the service is shutting down")
                except Exception as problem:  # noqa: BLE001  as above
                    await _abort(method, context, problem)
                finally:
                    self._streams.discard(task)
        return call


def _admitted(guard: Guard, request: Any, context: Context, streams: bool) -> Any:
    """The request, or the stream of them, once it may pass. Raises MuslinError if it may not."""
    caller = guard.admit(context)
    if streams:
        return guard.checked(request, caller, context)
    guard.check(request, caller, context)
    return request


class _Observation:
    """Request id, duration, outcome and one log line of a call."""

    def __init__(self, method: str, context: Context, level: int) -> None:
        self._method, self._context, self._level = method, context, level

    def __enter__(self) -> None:
        logs.adopt(next((_text(v) for k, v in self._context.invocation_metadata() or () if k == "traceparent"), ""))
        self._span = tracing.begin(self._method)
        self._began = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        seconds = time.perf_counter() - self._began
        status = _status(self._context.code() if kind is None or issubclass(kind, grpc.aio.BaseError) else kind)
        metrics.rpc(self._method, status, seconds)
        if self._span is not None:
            self._span.end(status)
        level = logging.DEBUG if status == "OK" and self._method.endswith(_ROUTINE) else self._level
        log.log(level, "%s %s %.1f ms", self._method, status, seconds * 1000)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode(errors="replace")


def _status(outcome: object) -> str:
    """A status' name, from what grpcio gives: a code, its number, nothing for OK, or the exception's class."""
    if isinstance(outcome, grpc.StatusCode):
        return outcome.name
    if isinstance(outcome, int):
        return next((c.name for c in grpc.StatusCode if c.value[0] == outcome), str(outcome))
    return "OK" if outcome is None else "CANCELLED"


async def _abort(method: str, context: Context, problem: Exception) -> NoReturn:
    if isinstance(problem, grpc.aio.BaseError):  # an abort of the handler's own
        raise problem
    if isinstance(problem, NotImplementedError):  # a method that the servicer leaves to the generated base class
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{method} is not implemented")
    if isinstance(problem, MuslinError):
        log.info("%s: %s", method, problem.message)
        await context.abort(problem.status, problem.message)
    log.error("%s failed", method, exc_info=problem)
    await context.abort(grpc.StatusCode.INTERNAL, f"{type(problem).__name__}: {problem}")
