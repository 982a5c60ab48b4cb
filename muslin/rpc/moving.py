"""Streams that leave a replica which does not serve any longer, while another does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

import grpc

__all__ = ["MovingCall"]

T = TypeVar("T")


class MovingCall:
    """A stream as gRPC has it, that can be ended as if its server were gone: its user then begins anew, elsewhere."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._moved = False

    def move(self) -> None:
        """End it: whoever reads or writes learns UNAVAILABLE."""
        self._moved = True
        self._call.cancel()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    async def __aiter__(self) -> AsyncIterator[Any]:
        messages = aiter(self._call)
        while True:
            try:
                message = await self._told(anext(messages))
            except StopAsyncIteration:
                return
            yield message

    async def read(self) -> Any:
        """As gRPC's."""
        return await self._told(self._call.read())

    async def write(self, message: Any) -> None:
        """As gRPC's."""
        await self._told(self._call.write(message))

    async def _told(self, step: Awaitable[T]) -> T:
        """A step on the stream. gRPC says of a call that was ended here that the task is cancelled; it is not."""
        try:
            return await step
        except (asyncio.CancelledError, asyncio.InvalidStateError):
            task = asyncio.current_task()
            if not self._moved or (task is not None and task.cancelling()):
                raise
        raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(),
                                   details="the replica does not serve any longer, another does")
