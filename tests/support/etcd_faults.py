"""What a test of etcd's clients needs: somebody who writes, somebody who records, and somebody who cuts the line."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sized
from contextlib import asynccontextmanager

from muslin.errors import TimedOut, Unavailable
from muslin.etcd import Delete, Etcd, Event, Put, Watch, WatchBatch

__all__ = ["Line", "Recorder", "writing", "history", "until", "more"]


async def until(condition: Callable[[], object], timeout: float = 10.0) -> None:
    """Wait until a function gives something true; for state that has no event of its own."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout} s")
        await asyncio.sleep(0.01)


async def more(growing: Sized, count: int) -> None:
    """Wait until something has grown by more than `count`."""
    length = len(growing) + count
    await until(lambda: len(growing) > length)


class Recorder:
    """Keeps all that a watch delivers, in a task of its own; leaving it ends the watch."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.batches: list[WatchBatch] = []
        self.times: list[float] = []
        self._more = asyncio.Event()

    @property
    def events(self) -> list[Event]:
        """All events in the order they came."""
        return [event for batch in self.batches for event in batch.events]

    async def __aenter__(self) -> Recorder:
        self.task = asyncio.create_task(self._record())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])

    async def _record(self) -> None:
        async for batch in self.watch:
            self.batches.append(batch)
            self.times.append(asyncio.get_running_loop().time())
            self._more.set()

    async def reached(self, revision: int, timeout: float = 15.0) -> None:
        """Wait until a revision has been delivered; raises what ended the watch, if anything did."""
        async with asyncio.timeout(timeout):
            while not self.batches or self.batches[-1].revision < revision:
                self._more.clear()
                more = asyncio.create_task(self._more.wait())
                await asyncio.wait([more, self.task], return_when=asyncio.FIRST_COMPLETED)
                more.cancel()
                if self.task.done():
                    self.task.result()


async def history(etcd: Etcd, prefix: str, first: int, last: int) -> list[Event]:
    """The truth: all changes from one revision to another as a healthy store tells them, undisturbed."""
    async with Recorder(etcd.watch(prefix, first)) as recorder:
        await recorder.reached(last)
    return [event for event in recorder.events if event.mod_revision <= last]


@asynccontextmanager
async def writing(etcd: Etcd, prefix: str, *, pause: float = 0.002, seed: int = 1) -> AsyncIterator[list[int]]:
    """Somebody who puts, deletes and does both in one transaction, until left; yields the revisions acknowledged.

    Etcd being away is waited out: such a write may or may not have been done.
    """
    choice = random.Random(seed)
    acknowledged: list[int] = []
    leave = asyncio.Event()

    async def write() -> None:
        number = 0
        while not leave.is_set():
            number += 1
            one, other = (f"{prefix}{key:02}" for key in choice.sample(range(40), 2))
            value = str(number).encode()
            kind = choice.randrange(10)
            try:
                if kind < 6:
                    acknowledged.append(await etcd.put(one, value, timeout=1))
                elif kind < 8:
                    acknowledged.append(await etcd.delete(one, timeout=1))
                else:
                    result = await etcd.txn([], [Put(one, value), Delete(other)], timeout=1)
                    acknowledged.append(result.revision)
            except (Unavailable, TimedOut):
                pass  # its outcome is unknown, the store's history will tell
            await asyncio.sleep(pause)

    task = asyncio.create_task(write())
    try:
        yield acknowledged
    finally:
        leave.set()
        await task


class Line:
    """A TCP line to an endpoint that can be cut; `endpoint` is its own end. Use as an asynchronous context manager."""

    def __init__(self, target: str) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = True

    async def __aenter__(self) -> Line:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.endpoint = "127.0.0.1:" + str(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await self._server.wait_closed()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def cut(self) -> None:
        """Reset all connections that there are; new ones can be made."""
        for writer in self._writers:
            writer.transport.abort()

    def block(self) -> None:
        """Cut it and let nobody connect."""
        self._open = False
        self.cut()

    def unblock(self) -> None:
        """Let connections be made again."""
        self._open = True

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._open:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.transport.abort()
            return
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            self._writers.add(sink)
            task = asyncio.create_task(self._carry(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        except OSError:
            pass  # cut
        finally:
            sink.transport.abort()
            self._writers.discard(sink)
