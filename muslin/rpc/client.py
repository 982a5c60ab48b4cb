"""How services are reached."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

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
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
)


class _Traced:
    """Hands the current request's traceparent on."""

    @staticmethod
    def _with_trace(details: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
        if not (header := logs.traceparent.get()):
            return details
        metadata = grpc.aio.Metadata(*(details.metadata or ()))
        metadata["traceparent"] = header
        return grpc.aio.ClientCallDetails(details.method, details.timeout, metadata, details.credentials,
                                          details.wait_for_ready)


class _TracedUnary(_Traced, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Callable[..., Any], client_call_details: Any,
                                    request: Any) -> Any:
        return await continuation(self._with_trace(client_call_details), request)


class _TracedStream(_Traced, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Callable[..., Any], client_call_details: Any,
                                     request: Any) -> Any:
        return await continuation(self._with_trace(client_call_details), request)


def channel(target: str) -> grpc.aio.Channel:
    """A channel to `unix:/path` or `host:port`. It connects by itself, and again after a loss.

    The caller closes it, and gives every call a timeout.
    """
    return grpc.aio.insecure_channel(target, options=_OPTIONS, interceptors=[_TracedUnary(), _TracedStream()])


@contextmanager
def translated(asked: str) -> Iterator[None]:
    """Around awaits on stubs: a failed call becomes the matching error of `muslin.errors`.

    `asked` says what was asked of whom, such as `endpoint: list pods`; it begins the message.
    """
    try:
        yield
    except grpc.aio.AioRpcError as problem:
        raise from_status(problem.code(), f"{asked}: {problem.details()}") from problem
