"""Established connections that policy no longer allows are cut: their entries in the connection table are deleted.

What comes of such a connection afterwards is judged anew, as a first packet, and dropped. Connections that stay allowed
are not touched. It is done beside the writing of rules, on a thread of its own: one look at the connection table for
all changes that have come meanwhile. A look costs the kernel 9 ms however few connections there are, since it walks
the buckets of all namespaces (262,144 on a host of 24 GB). So nobody waits for it but who gets an address that has just
become free.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from muslin.errors import MuslinError
from services.node import metrics
from services.node.enforce.judge import Flow, Judge
from services.node.enforce.narrowing import Scope, departed, everything, narrowed
from services.node.enforce.parts import Owner
from services.node.enforce.state import State
from services.node.netlink.connection import Connection
from services.node.netlink.conntrack import Conntrack
from services.node.netlink.network import addresses

__all__ = ["Change", "Cutter"]

log = logging.getLogger(__name__)

LINGER_SECONDS = 0.05
"""From a change to the look: what follows of the same ADD or the same policy goes with it."""

PAUSE_SECONDS = 0.25
"""After a look; a burst of pods costs the host a few percent of a core for it."""

SHARE = 4
"""Pause after a look, too, as a multiple of what it took."""

RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Change:
    """What has come into the kernel: states before and after, and the parts that differ; None if that is not known."""

    old: State
    new: State
    owners: frozenset[Owner] | None


@dataclass
class _Work:
    """What one look is for."""

    changes: list[Change] = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)


class Cutter:
    """Cuts connections after changes of the program."""

    def __init__(self, namespace: str | os.PathLike[str] | None = None) -> None:
        """Of that network namespace; None for this process' own."""
        self._namespace = namespace
        self._thread = ThreadPoolExecutor(1, "conntrack")
        self._sockets: tuple[Conntrack, Connection] | None = None
        self._work, self._underway = _Work(), _Work()
        self._underway.done.set()
        self._leaving: dict[bytes, _Work] = {}  # addresses that are free, and what is to find their connections
        self._wake = asyncio.Event()
        self._due = math.inf  # by the loop's clock
        self._rested = 0.0  # before that no look is made unless somebody waits
        self._state = State()  # what is in the kernel
        self._left = Scope()  # what a look that failed has left undone
        self._refused = False

    def add(self, change: Change) -> None:
        """Take a change that is in the kernel."""
        self._work.changes.append(change)
        for address in departed(change.old, change.new, change.owners):
            self._leaving[address] = self._work
        self._look_at(max(asyncio.get_running_loop().time() + LINGER_SECONDS, self._rested))

    async def severed(self, addresses: Iterable[bytes]) -> None:
        """Wait until none of these addresses, packed, has connections of who had it before; usually not at all."""
        for work in {id(work): work for each in addresses if (work := self._leaving.get(each))}.values():
            await self._done(work)

    async def settled(self) -> None:
        """Wait until all changes so far have been looked after."""
        await self._done(self._work if self._work.changes else self._underway)

    async def _done(self, work: _Work) -> None:
        if work is self._work:
            self._look_at(0.0)
        await work.done.wait()

    def _look_at(self, when: float) -> None:
        self._due = min(self._due, when)
        self._wake.set()

    async def run(self) -> None:
        """Cut as changes come. Runs for ever."""
        loop = asyncio.get_running_loop()
        while True:
            while (left := self._due - loop.time()) > 0:
                self._wake.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(None if math.isinf(left) else left):
                        await self._wake.wait()
            self._due = math.inf
            work, self._work = self._work, _Work()
            self._underway = work
            began = loop.time()
            try:
                complete = await loop.run_in_executor(self._thread, self._cut, work.changes)
            finally:
                work.done.set()
                self._leaving = {address: later for address, later in self._leaving.items() if later is not work}
            self._rested = loop.time() + max(PAUSE_SECONDS, SHARE * (loop.time() - began))
            if not complete:
                self._look_at(loop.time() + RETRY_SECONDS)
            elif self._due:  # what came meanwhile, and nobody waits for
                self._due = max(self._due, self._rested)

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
        """Give up, and end the thread. To be called when run has ended."""
        self._work.done.set()
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)
        self._close()
