"""What a handler sees of a call that came through a tunnel: what it would see of one that came by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import grpc

from muslin.api.rpc.v1 import tunnel_pb2
from muslin.rpc.identity import Caller

Pairs = Sequence[tuple[str, str | bytes]]
"""Metadata as grpcio has it."""


def carried(pairs: Pairs) -> list[tunnel_pb2.Metadata]:
    """Metadata as messages have it."""
    return [tunnel_pb2.Metadata(key=key, value=value if isinstance(value, bytes) else value.encode())
            for key, value in pairs]


def received(items: Iterable[tunnel_pb2.Metadata]) -> Pairs:
    """Metadata out of a message: text, or bytes where the key ends in `-bin`, as gRPC has it."""
    return tuple((item.key, item.value if item.key.endswith("-bin") else item.value.decode(errors="replace"))
                 for item in items)


class Abort(grpc.aio.BaseError):
    """Ends a handler with a status."""


class CallContext:
    """The part of grpc.aio.ServicerContext that unary handlers use; the rest is the stream's own."""

    def __init__(self, stream: Any, caller: Caller, call: tunnel_pb2.Call, deadline: float | None) -> None:
        """`caller` is who opened the stream; `deadline` is in the loop's time."""
        self._stream, self._deadline = stream, deadline
        self.caller = caller
        self._metadata = received(call.metadata)
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self._trailing: Pairs = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def invocation_metadata(self) -> Pairs:
        """The call's own."""
        return self._metadata

    def time_remaining(self) -> float | None:
        """Seconds; None without a deadline."""
        return None if self._deadline is None else max(0.0, self._deadline - asyncio.get_running_loop().time())

    def code(self) -> grpc.StatusCode | None:
        """What was set so far."""
        return self._code

    def details(self) -> str:
        """What was set so far."""
        return self._details

    def trailing_metadata(self) -> Pairs:
        """What was set so far."""
        return self._trailing

    def set_code(self, code: grpc.StatusCode) -> None:
        """The status the call is going to end with."""
        self._code = code

    def set_details(self, details: str) -> None:
        """The message the call is going to end with."""
        self._details = details

    def set_trailing_metadata(self, metadata: Pairs) -> None:
        """What goes with the answer."""
        self._trailing = tuple(metadata)

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Pairs = ()) -> NoReturn:
        """End the call. Raises Abort, which the handler must let pass."""
        self._code, self._details, self._trailing = code, details, tuple(trailing_metadata) or self._trailing
        raise Abort
