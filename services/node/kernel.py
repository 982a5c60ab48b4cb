"""Wiring off the event loop: pods are wired on a few threads, veths are deleted in batches on others.

Deleting a link takes the kernel about 20 ms, of which one is spent on taking it out of use: it is then gone from every
list, in both namespaces, with its addresses and routes, and its names are free. The rest is waiting for whoever still
looked at it (rcu_barrier in netdev_run_todo). So a deletion is over for its caller once the kernel has told that the
link is gone; the request that does it may go on, and can not be undone any more.
"""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from services.node import metrics
from services.node.attachment import Attachment
from services.node.errors import KernelError
from services.node.netlink import links
from services.node.netlink.connection import Connection
from services.node.netlink.links import Link
from services.node.upkeep.events import Monitor
from services.node.uplink import Uplink
from services.node.wiring import DELETION_GROUP, Wired, Wiring, owned_links, remove_unfinished, wire

__all__ = ["Kernel", "delete_together"]

T = TypeVar("T")

WIRING_THREADS = 4
"""Pods wired at a time: the kernel serialises most of it, and more would only stand in line there."""

REMOVALS_AT_ONCE = 6
"""Batches of deletions at a time: what comes while as many wait in the kernel goes into the next one together."""


@dataclass
class _Removal:
    attachment: Attachment
    interface: str
    done: asyncio.Future[None]


class Kernel:
    """The links of this host."""

    def __init__(self, monitor: Monitor, uplink: Uplink) -> None:
        """`monitor` tells when a link is gone, `uplink` how large packets may be where nobody says."""
        self._monitor = monitor
        self._uplink = uplink
        self._threads = ThreadPoolExecutor(WIRING_THREADS, "wiring")
        # One more than delete, so that a batch is looked up while the others wait.
        self._removers = ThreadPoolExecutor(REMOVALS_AT_ONCE + 1, "unwiring")
        self._local = threading.local()
        self._connections: list[Connection] = []
        self._removals: list[_Removal] = []
        self._wake = asyncio.Event()
        self._slots = asyncio.Semaphore(REMOVALS_AT_ONCE)
        self._batches: set[asyncio.Task[None]] = set()
        self._groups = itertools.count()

    def _connection(self) -> Connection:
        # One for each thread: a deletion takes 20 ms, and the wiring of other pods shall not wait for its answer.
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = Connection()
            self._connections.append(connection)
        return connection

    def _run(self, threads: ThreadPoolExecutor, function: Callable[[Connection], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(threads, lambda: function(self._connection()))

    async def owned(self) -> dict[Attachment, Link]:
        """The host ends that are ours. Raises KernelError."""
        return await self._run(self._threads, owned_links)

    async def remove_unfinished(self) -> list[str]:
        """Delete what a killed daemon was making; gives the names. Raises KernelError."""
        return await self._run(self._threads, remove_unfinished)

    async def run(self, function: Callable[[Connection], T]) -> T:
        """Run a function with a connection to route netlink, on a thread. Raises what it raises."""
        return await self._run(self._threads, function)

    def wire(self, wiring: Wiring) -> asyncio.Future[Wired]:
        """Begin to wire a pod. Raises as wiring.wire does; if it is cancelled, the pod may be wired all the same."""
        def timed(connection: Connection) -> Wired:
            with metrics.WIRING_SECONDS.time():
                mtu = wiring.mtu or self._uplink.mtu(connection)
                return wire(connection, dataclasses.replace(wiring, mtu=mtu))

        return self._run(self._threads, timed)

    async def unwire(self, attachment: Attachment, interface: str) -> None:
        """Delete a host end if it is the attachment's own. Many at once are deleted together.

        Afterwards both ends are in no list, with all that belonged to them, and their names are free. Raises
        KernelError.
        """
        removal = _Removal(attachment, interface, asyncio.get_running_loop().create_future())
        self._removals.append(removal)
        self._wake.set()
        await removal.done

    async def remove(self) -> None:
        """Delete what is to be deleted. Runs for ever."""
        while True:
            await self._wake.wait()
            await self._slots.acquire()
            self._wake.clear()
            batch, self._removals = self._removals, []
            task = asyncio.get_running_loop().create_task(self._remove(batch), name=f"unwire {len(batch)}")
            self._batches.add(task)
            task.add_done_callback(self._removed)

    def _removed(self, task: asyncio.Task[None]) -> None:
        self._batches.discard(task)
        self._slots.release()

    async def _remove(self, batch: Sequence[_Removal]) -> None:
        began = time.perf_counter()
        indexes: list[int] = []
        try:
            found = await self._run(self._removers, partial(_own, removals=batch))
            indexes = [link.index for link in found if link is not None]
            for removal, link in zip(batch, found, strict=True):
                if link is None:
                    _settle(removal)
                else:
                    self._monitor.departure(link.index).add_done_callback(partial(_departed, removal))
            if indexes:
                group = DELETION_GROUP + (next(self._groups) & 0xFF)
                await self._run(self._removers, partial(delete_together, indexes=indexes, group=group))
        except Exception as failure:  # noqa: BLE001  whoever asked gets it; other batches go on
            for removal in batch:
                _settle(removal, failure)
        finally:
            for index in indexes:
                self._monitor.forget(index)
            for removal in batch:
                _settle(removal)  # where the kernel's message was lost
        metrics.UNWIRING_SECONDS.observe(time.perf_counter() - began)

    async def aclose(self) -> None:
        """Close the sockets once the threads are done. All links stay."""
        for removal in self._removals:
            removal.done.cancel()
        await asyncio.gather(*self._batches, return_exceptions=True)
        for threads in (self._threads, self._removers):
            await asyncio.get_running_loop().run_in_executor(None, threads.shutdown)
        for connection in self._connections:
            connection.close()


def _own(connection: Connection, removals: Sequence[_Removal]) -> list[Link | None]:
    """The link of each, if it is there and the attachment's own."""
    return [link if (link := links.get(connection, removal.interface)) is not None
            and link.alias == removal.attachment.alias else None for removal in removals]


def delete_together(connection: Connection, indexes: Sequence[int], group: int) -> None:
    """Delete links; several at the price of about one, as the group of that number, which is to be empty.

    Those that are gone already are a success. Raises KernelError.
    """
    try:
        if len(indexes) > 1:
            connection.request([links.set_link(index, group=group) for index in indexes])
            connection.request([links.delete_group(group)])
            return
    except KernelError as error:
        if error.errno != errno.ENODEV:  # one of them went by itself: take the others one by one
            raise
    for index in indexes:
        try:
            connection.request([links.delete(index)])
        except KernelError as error:
            if error.errno != errno.ENODEV:
                raise


def _departed(removal: _Removal, gone: asyncio.Future[None]) -> None:
    if not gone.cancelled():
        _settle(removal)


def _settle(removal: _Removal, failure: Exception | None = None) -> None:
    if removal.done.done():
        return
    if failure is None:
        removal.done.set_result(None)
    else:
        removal.done.set_exception(failure)
