"""How services are reached."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import grpc

from muslin import log as logs
from muslin.errors import InvalidArgument, from_status
from muslin.rpc import tls
from muslin.rpc.replicas import Replicas

__all__ = ["channel", "translated"]

_HOST = re.compile(r"[A-Za-z0-9._:%\[\]-]+")
"""A name or an address; not what is left of one where a variable is not there, `$(MUSLIN_IPAM_SERVICE_HOST)`."""

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

_REMOTE: tuple[tuple[str, Any], ...] = (
    *((key, value) for key, value in _OPTIONS if not key.startswith(("grpc.keepalive", "grpc.http2.ping_"))),
    # There are other replicas to go to, so a frozen one is given up within four seconds. gRPC's own threads answer
    # pings: a process that is merely busy does.
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.http2.ping_timeout_ms", 2_000),
    ("grpc.enable_http_proxy", 0),  # never through a proxy meant for the web
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


def channel(target: str, name: str = "") -> grpc.aio.Channel:
    """A channel to `unix:/path`, or to the replicas `host:port[,host:port...]` of a service, over TCP with TLS.

    It connects by itself, and again after a loss. Of several replicas `name` (this process', by default a random one)
    decides which is preferred, so that callers spread over them. The caller closes it, and gives every call a timeout.

    Raises:
        InvalidArgument: the target is neither.
        FailedPrecondition: TCP, and this process has no certificate.
    """
    if target.startswith("unix:"):
        return cast(grpc.aio.Channel, _Channel(grpc.aio.insecure_channel(target, options=_OPTIONS)))
    certificates = tls.own(target)
    replicas = Replicas(_targets(target), certificates, _secure, name)
    return cast(grpc.aio.Channel, _Channel(cast(grpc.aio.Channel, replicas)))


def _secure(target: str, credentials: grpc.ChannelCredentials) -> grpc.aio.Channel:
    return grpc.aio.secure_channel(target, credentials, options=_REMOTE)


def _targets(text: str) -> Sequence[str]:
    found = list(dict.fromkeys(each.strip() for each in text.split(",") if each.strip()))
    for each in found:
        host, _, port = each.rpartition(":")
        if not host or not _HOST.fullmatch(host) or not port.isdecimal() or not 0 < int(port) < 65536:
            raise InvalidArgument(f"target {each!r}: use unix:/path, or host:port, several with commas between")
    if not found:
        raise InvalidArgument(f"target {text!r}: use unix:/path, or host:port, several with commas between")
    return found


@contextmanager
def translated(asked: str) -> Iterator[None]:
    """Around awaits on stubs: a failed call becomes the matching error of `muslin.errors`.

    `asked` says what was asked of whom, such as `endpoint: list pods`; it begins the message.
    """
    try:
        yield
    except grpc.aio.AioRpcError as problem:
        raise from_status(problem.code(), f"{asked}: {problem.details()}") from problem
