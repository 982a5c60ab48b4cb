"""Wiring off the event loop: pods are wired on a few threads, veths are deleted in batches on one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from services.node import metrics
from services.node.attachment import Attachment
from services.node.netlink.connection import Connection
from services.node.netlink.links import Link
from services.node.wiring import Wired, Wiring, owned_links, remove_unfinished, unwire, wire

__all__ = ["Kernel"]

T = TypeVar("T")

WIRING_THREADS = 4
"""Pods wired at a time: the kernel serialises most of it, and more would only stand in line there."""


@dataclass
class _Removal:
    attachment: Attachment
    interface: str
    done: asyncio.Future[None]


class Kernel:
    """The links of this host."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(WIRING_THREADS, "wiring")
        self._remover = ThreadPoolExecutor(1, "unwiring")
        self._local = threading.local()
        self._connections: list[Connection] = []
        self._removals: list[_Removal] = []
        self._wake = asyncio.Event()

    def _connection(self) -> Connection:
        # One for each thread: a deletion takes 20 ms, and the wiring of other pods shall not wait for its answer.
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = Connection()
            self._connections.append(connection)
        return connection

    async def _run(self, threads: ThreadPoolExecutor, function: Callable[[Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(threads, lambda: function(self._connection()))

    async def owned(self) -> dict[Attachment, Link]:
        """The host ends that are ours. Raises KernelError."""
        return await self._run(self._threads, owned_links)

    async def remove_unfinished(self) -> list[str]:
        """Delete what a killed daemon was making; gives the names. Raises KernelError."""
        return await self._run(self._threads, remove_unfinished)

    async def wire(self, wiring: Wiring) -> Wired:
        """Wire a pod. Raises as wiring.wire does; if it is cancelled, the pod may be wired all the same."""
        def timed(connection: Connection) -> Wired:
            with metrics.WIRING_SECONDS.time():
                return wire(connection, wiring)

        return await self._run(self._threads, timed)

    async def unwire(self, attachment: Attachment, interface: str) -> None:
        """Delete a host end if it is the attachment's own. Many at once are deleted together. Raises KernelError."""
        removal = _Removal(attachment, interface, asyncio.get_running_loop().create_future())
        self._removals.append(removal)
        self._wake.set()
        await removal.done

    async def run(self) -> None:
        """Delete what is to be deleted. Runs for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._removals = self._removals, []
            failure: Exception | None = None
            began = time.perf_counter()
            try:
                await self._run(self._remover, partial(unwire, owned=[(r.attachment, r.interface) for r in batch]))
            except Exception as error:  # noqa: BLE001  whoever asked gets it; this loop goes on for the others
                failure = error
            metrics.UNWIRING_SECONDS.observe(time.perf_counter() - began)
            for removal in batch:
                if not removal.done.done():
                    if failure is None:
                        removal.done.set_result(None)
                    else:
                        removal.done.set_exception(failure)

    async def aclose(self) -> None:
        """Close the sockets once the threads are done. All links stay."""
        for removal in self._removals:
            removal.done.cancel()
        for threads in (self._threads, self._remover):
            await asyncio.get_running_loop().run_in_executor(None, threads.shutdown)
        for connection in self._connections:
            connection.close()
