"""Established connections that policy no longer allows are cut: their entries in the connection table are deleted.

What comes of such a connection afterwards is judged anew, as a first packet, and dropped. Connections that stay allowed
are not touched. It is done beside the writing of rules, on a thread of its own: one look at the connection table for
all changes that have come meanwhile, and not more than a fifth of the time unless a deletion waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from muslin.errors import MuslinError
from services.node import metrics
from services.node.enforce.judge import Flow, Judge
from services.node.enforce.narrowing import Scope, everything, narrowed
from services.node.enforce.parts import Owner
from services.node.enforce.state import State
from services.node.netlink.connection import Connection
from services.node.netlink.conntrack import Conntrack
from services.node.netlink.network import addresses

__all__ = ["Change", "Cutter"]

log = logging.getLogger(__name__)

SHARE = 4
"""Pause after a look, as a multiple of what it took."""

RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Change:
    """What has come into the kernel: states before and after, and the parts that differ; None if that is not known."""

    old: State
    new: State
    owners: frozenset[Owner] | None


@dataclass
class _Work:
    changes: list[Change] = field(default_factory=list)
    done: list[asyncio.Future[None]] = field(default_factory=list)
    """Those who wait until it is done."""


class Cutter:
    """Cuts connections after changes of the program."""

    def __init__(self, namespace: str | os.PathLike[str] | None = None) -> None:
        """Of that network namespace; None for this process' own."""
        self._namespace = namespace
        self._thread = ThreadPoolExecutor(1, "conntrack")
        self._sockets: tuple[Conntrack, Connection] | None = None
        self._work = _Work()
        self._wake, self._hurry = asyncio.Event(), asyncio.Event()
        self._state = State()  # what is in the kernel
        self._left = Scope()  # what a look that failed has left undone
        self._refused = False

    def add(self, change: Change, waiting: Iterable[asyncio.Future[None]]) -> None:
        """Take a change that is in the kernel. The futures get their result when its connections are cut."""
        self._work.changes.append(change)
        self._work.done += waiting
        self._wake.set()
        if self._work.done:
            self._hurry.set()

    async def run(self) -> None:
        """Cut as changes come. Runs for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._hurry.clear()
            work, self._work = self._work, _Work()
            began = time.perf_counter()
            retry = False
            try:
                retry = not await asyncio.get_running_loop().run_in_executor(self._thread, self._cut, work.changes)
            finally:
                for each in work.done:
                    if not each.done():
                        each.set_result(None)
            if retry:
                asyncio.get_running_loop().call_later(RETRY_SECONDS, self._wake.set)
            try:
                async with asyncio.timeout(SHARE * (time.perf_counter() - began)):
                    await self._hurry.wait()
            except TimeoutError:
                pass

    def _cut(self, changes: list[Change]) -> bool:
        """Blocks; on the thread. Whether it could be done."""
        scope = self._left
        for change in changes:
            scope |= (everything(change.old, change.new) if change.owners is None
                      else narrowed(change.old, change.new, change.owners))
        if changes:
            self._state = changes[-1].new
        if not scope:
            return True
        try:
            with metrics.CUT_SECONDS.time():
                count = self._delete(scope)
        except (MuslinError, OSError) as error:
            # Once is enough: a kernel without ctnetlink says the same each time.
            log.log(logging.DEBUG if self._refused else logging.WARNING,
                    "connections that policy forbids now can not be cut: %s", error)
            self._left, self._refused = scope, True
            self._close()
            return False
        self._left, self._refused = Scope(), False
        if count:
            metrics.CUTS.inc(count)
            log.info("cut connections=%d that policy does not allow any more, or whose pod is gone", count)
        return True

    def _delete(self, scope: Scope) -> int:
        if self._sockets is None:
            self._sockets = Conntrack(self._namespace), Connection(self._namespace)
        conntrack, route = self._sockets
        found = conntrack.entries(scope.judged | scope.gone)
        if not found:
            return 0
        judge = Judge(self._state, frozenset(each.address.ip.packed for each in addresses(route)))
        return conntrack.delete([
            entry for entry in found
            if not scope.gone.isdisjoint((entry.source, entry.destination, entry.target))
            or not (entry.related or judge.allows(Flow(entry.source, entry.destination, entry.protocol, entry.port)))])

    def _close(self) -> None:
        sockets, self._sockets = self._sockets, None
        for each in sockets or ():
            each.close()

    async def aclose(self) -> None:
        """Give up what waits, and the thread. To be called when run has ended."""
        for each in self._work.done:
            each.cancel()
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)
        self._close()
