"""A gate between the shim and a service: an invocation stands still right before a step is asked, or answered."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from enum import Enum
from pathlib import Path

__all__ = ["Hold", "Point"]

_DATA = 0  # a frame that carries a message (RFC 9113, 6.1)


class Point(Enum):
    """Where an invocation stands."""

    ASKED = "the service has not got the request"
    DONE = "the service has done it, the shim does not know"


class Hold:
    """A unix socket at `path` before the one at `target`. Use as an asynchronous context manager.

    The first connection stops at the point; what comes after `go()` passes.
    """

    def __init__(self, path: Path, target: Path, point: Point) -> None:
        self.path = path
        self.standing = asyncio.Event()
        """Set when an invocation has come to the point."""
        self._target, self._point = target, point
        self._open = asyncio.Event()
        self._talks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Hold:
        self._server = await asyncio.start_unix_server(self._accept, self.path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._talks:
            task.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)

    def go(self) -> None:
        """Let everything pass."""
        self._open.set()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._talk(reader, writer))
        self._talks.add(task)
        task.add_done_callback(self._talks.discard)

    async def _talk(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        try:
            if self._point is Point.ASKED:
                await self._stand()
            try:
                far, on = await asyncio.open_unix_connection(self._target)
            except OSError:
                return  # nobody is there: the shim is hung up on
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._copy(near, on))
                    both.create_task(self._answers(far, back))
            finally:
                on.close()
        finally:
            back.close()

    async def _stand(self) -> None:
        self.standing.set()
        await self._open.wait()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Frame by frame; a message does not pass before it may."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readexactly(9)
                payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
                if head[3] == _DATA and payload and not self._open.is_set() and self._point is Point.DONE:
                    await self._stand()
                writer.write(head + payload)
                await writer.drain()
        writer.close()
