"""How services are reached."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import grpc

from muslin import log as logs
from muslin.errors import from_status

_OPTIONS: tuple[tuple[str, Any], ...] = (
    # A frozen peer answers nothing and closes nothing: only pings tell. ping_timeout is what counts in grpcio's
    # current transport; the older keepalive_timeout is set beside it for versions that read that.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    # How long one attempt to connect may take, despite its name: a busy machine needs more than a moment.
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
)


class _Channel:
    """A channel whose calls hand the current request's traceparent on.

    grpcio's client interceptors could do it, at the price of a task for every call; this costs a function call.
    """

    def __init__(self, inner: grpc.aio.Channel) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def __aenter__(self) -> _Channel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._inner.close()

    def unary_unary(self, *arguments: Any, **named: Any) -> Callable[..., Any]:
        return _traced(self._inner.unary_unary(*arguments, **named))

    def unary_stream(self, *arguments: Any, **named: Any) -> Callable[..., Any]:
        return _traced(self._inner.unary_stream(*arguments, **named))

    def stream_unary(self, *arguments: Any, **named: Any) -> Callable[..., Any]:
        return _traced(self._inner.stream_unary(*arguments, **named))

    def stream_stream(self, *arguments: Any, **named: Any) -> Callable[..., Any]:
        return _traced(self._inner.stream_stream(*arguments, **named))


def _traced(method: Any) -> Callable[..., Any]:
    def call(*arguments: Any, metadata: Any = None, **named: Any) -> Any:
        if (header := logs.traceparent.get()) and not any(key == "traceparent" for key, _ in metadata or ()):
            metadata = (*(metadata or ()), ("traceparent", header))
        return method(*arguments, metadata=metadata, **named)
    return call


def channel(target: str) -> grpc.aio.Channel:
    """A channel to `unix:/path` or `host:port`. It connects by itself, and again after a loss.

    The caller closes it, and gives every call a timeout.
    """
    return cast(grpc.aio.Channel, _Channel(grpc.aio.insecure_channel(target, options=_OPTIONS)))


@contextmanager
def translated(asked: str) -> Iterator[None]:
    """Around awaits on stubs: a failed call becomes the matching error of `muslin.errors`.

    `asked` says what was asked of whom, such as `endpoint: list pods`; it begins the message.
    """
    try:
        yield
    except grpc.aio.AioRpcError as problem:
        raise from_status(problem.code(), f"{asked}: {problem.details()}") from problem
