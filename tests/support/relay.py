"""A line between a service and etcd that stops at a chosen request: before etcd has it, or before its answer."""

from __future__ import annotations

import asyncio
from enum import Enum

__all__ = ["Moment", "Relay"]


class Moment(Enum):
    """Where a request is when the line stops."""

    ASKED = "etcd has not got it"
    DONE = "etcd has got it, its answer has not come back"


class Relay:
    """A TCP line to `target` ("host:port"), reached at `endpoint`. Use as an asynchronous context manager.

    Requests are found by a piece of text in them, such as a key: gRPC sends it as it is. `silent` is a line on which
    the end of one side is not told to the other, as when a machine loses power: what it had sent may still arrive.
    """

    def __init__(self, target: str, *, silent: bool = False) -> None:
        self.stopped = asyncio.Event()
        """Set when the line has stopped at the request that it waited for."""
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._there, self._back = asyncio.Event(), asyncio.Event()  # set: that direction is open
        self._wanted: tuple[bytes, Moment] | None = None
        self._skip = 0
        self._silent = silent
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Relay:
        self.go()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.endpoint = "127.0.0.1:" + str(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.drop()
        await self._server.wait_closed()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def stop_at(self, text: str, moment: Moment, number: int = 1) -> None:
        """Stop the line at the `number`th request from now that holds a text."""
        self.stopped.clear()
        self._wanted, self._skip = (text.encode(), moment), number - 1

    def hold(self) -> None:
        """Withhold all from now on, in both directions."""
        self._there.clear()
        self._back.clear()

    def go(self) -> None:
        """Let the line go on, with what it has withheld."""
        self._wanted = None
        self._there.set()
        self._back.set()

    def drop(self) -> None:
        """Cut all connections with what is withheld on them, and let new ones pass."""
        for task in self._tasks:
            task.cancel()
        for writer in self._writers:
            writer.transport.abort()
        self.go()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.transport.abort()
            return
        for source, sink, gate in ((reader, far_writer, self._there), (far_reader, writer, self._back)):
            self._writers.add(sink)
            task = asyncio.create_task(self._carry(source, sink, gate))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, gate: asyncio.Event) -> None:
        tail = b""
        try:
            while data := await source.read(65536):
                if gate is self._there:
                    tail = self._look(tail + data)
                await gate.wait()
                sink.write(data)
                await sink.drain()
        except OSError:
            pass  # cut
        finally:
            if not self._silent:
                sink.transport.abort()
                self._writers.discard(sink)

    def _look(self, seen: bytes) -> bytes:
        """Stop if this is the request that is wanted; what of it may be the beginning of the text."""
        if self._wanted is None:
            return b""
        text, moment = self._wanted
        if text not in seen:
            return seen[1 - len(text):]
        if self._skip:
            self._skip -= 1
            return b""
        self._wanted = None
        (self._there if moment is Moment.ASKED else self._back).clear()
        self.stopped.set()
        return b""
