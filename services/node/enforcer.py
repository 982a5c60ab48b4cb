"""The one writer of the kernel's table: events in, transactions out, in order, on a thread of its own.

Events that arrive while a transaction is under way go into the next one together. Where the kernel refuses a change,
and at the start, the table is read and repaired; one that can not be is replaced whole, which depends on nothing. A
replacement that is refused is tried again, while the table stays as it was.

Before the first snapshot the table of an earlier run stays as it is: what it allows goes on, what it does not know
it drops.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from muslin.errors import MuslinError
from services.node import actual, metrics
from services.node.attachment import Attachment
from services.node.enforce import names, table
from services.node.enforce.parts import Owner
from services.node.enforce.program import Update
from services.node.enforce.state import Claim, Event, State, applied
from services.node.errors import KernelError
from services.node.netlink.network import IPAddress
from services.node.nft.connection import Nftables
from services.node.nft.messages import Message

__all__ = ["Enforcer"]

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
"""Pause after a refused replacement."""

AUDIT_SECONDS = 2.0
"""How often to ask, while idle, whether anybody changed the ruleset; one short message if nobody did."""


@dataclass
class _Pending:
    event: Event
    done: asyncio.Future[None]
    failure: MuslinError | None = None


@dataclass
class _Waiter:
    satisfied: Callable[[State], bool]
    done: asyncio.Future[None]


class Enforcer:
    """Keeps the kernel's table equal to what the events so far ask for."""

    def __init__(self, nft: Nftables, prefixes: Sequence[str]) -> None:
        """`prefixes` begin the names of interfaces that are dropped while no policy for them is in."""
        self._nft = nft
        self._prefixes = tuple(prefixes)
        self._thread = ThreadPoolExecutor(1, "nftables")
        self._desired = State()
        self._kernel = State()
        self._known = False  # whether the table is as `_kernel` says, so that a difference can be committed
        self._refused = False  # whether the last replacement was refused, and is to be tried again
        self._generation = 0  # of the ruleset, if nobody else changed any of it since our last transaction
        self._synchronised = asyncio.Event()
        self._pending: list[_Pending] = []
        self._committing: list[_Pending] = []
        self._waiters: list[_Waiter] = []
        self._wake = asyncio.Event()

    @property
    def revision(self) -> int:
        """Revision of the program in the kernel; 0 before the first."""
        return self._kernel.program.revision

    async def start(self, claims: Iterable[Claim]) -> None:
        """Adopt what is wired already. Where there is no table, make one that drops all of it until policy is in.

        Raises:
            KernelError: nf_tables can not be used.
        """
        for claim in claims:
            self._desired, _ = applied(self._desired, claim)
        if await self._off_loop(self._nft.table_comment, names.TABLE) is None:
            await self._off_loop(self._nft.commit, table.replacement((), self._prefixes))

    def submit(self, event: Event) -> asyncio.Future[None]:
        """Take an event. The result is there once the kernel has it, or at once if nothing is enforced yet.

        The future raises OutOfSync or Corrupt if the event was refused; then nothing has changed.
        """
        pending = _Pending(event, asyncio.get_running_loop().create_future())
        self._pending.append(pending)
        self._wake.set()
        return pending.done

    async def synchronised(self) -> None:
        """Wait until the first snapshot is in the kernel."""
        await self._synchronised.wait()

    async def enforced(self, attachment: Attachment, interface: str, addresses: Sequence[IPAddress]) -> None:
        """Wait until the kernel has the program of exactly this attachment: this interface, these addresses."""
        def satisfied(state: State) -> bool:
            endpoint = state.endpoint(attachment)
            return (endpoint is not None and endpoint.interface == interface
                    and set(endpoint.addresses) == set(addresses))

        if self._known and satisfied(self._kernel):
            return
        waiter = _Waiter(satisfied, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        try:
            await waiter.done
        finally:
            self._waiters.remove(waiter)

    def missing(self, attachment: Attachment) -> str:
        """Why an attachment is not enforced, for people."""
        if not self._synchronised.is_set():
            return "no program has come from the policy service yet"
        endpoint = self._desired.program.endpoints.get(attachment)
        if endpoint is None:
            return "the policy service has sent no program for it"
        if not self._known:
            return "the kernel refuses the program; see this service's log"
        return (f"the program is for {endpoint.interface} with {', '.join(map(str, endpoint.addresses)) or '-'}, "
                "which is not what ADD was asked for")

    async def run(self) -> None:
        """Commit events as they come, and look now and then whether others changed the table. Runs for ever."""
        while True:
            try:
                async with asyncio.timeout(RETRY_SECONDS if self._refused else AUDIT_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                if self._known:
                    await self._off_loop(self._audit)
            self._wake.clear()
            batch, self._pending = self._pending, []
            if batch or self._refused or (self._synchronised.is_set() and not self._known):
                await self._turn(batch)

    async def aclose(self) -> None:
        """Give up what waits, and the thread. The table stays."""
        for pending in self._pending + self._committing:
            pending.done.cancel()
        for waiter in self._waiters:
            waiter.done.cancel()
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)

    async def _off_loop(self, function: Callable[..., object], *arguments: object) -> object:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    async def _turn(self, batch: list[_Pending]) -> None:
        state, changed = await asyncio.get_running_loop().run_in_executor(self._thread, self._apply, batch)
        self._desired = state
        for pending in batch:
            if pending.failure is None:
                self._committing.append(pending)
            elif not pending.done.done():
                pending.done.set_exception(pending.failure)
        snapshot = any(isinstance(p.event, Update) and p.event.snapshot for p in self._committing)
        if snapshot or self._synchronised.is_set():
            try:
                await self._off_loop(self._commit, changed)
            except MuslinError as error:
                self._known, self._refused = False, True
                log.error("the kernel refuses the table, and keeps the one it has: %s", error)  # noqa: TRY400  it says it
                return
            self._known, self._refused = True, False
            self._kernel = state
            self._synchronised.set()
            metrics.REVISION.set(self.revision)
            metrics.ENDPOINTS.set(len(state.stages))
        self._resolve()

    def _apply(self, batch: list[_Pending]) -> tuple[State, frozenset[Owner]]:
        state = self._desired
        changed: set[Owner] = set()
        for pending in batch:
            try:
                state, owners = applied(state, pending.event)
            except MuslinError as failure:
                pending.failure = failure
            else:
                changed |= owners
        return state, frozenset(changed)

    def _commit(self, changed: frozenset[Owner]) -> None:
        """On the thread: bring the kernel from what it has to what is desired."""
        if self._known:
            old, new = self._kernel.parts, self._desired.parts
            transactions = table.transition((old[o] for o in changed if o in old),
                                            (new[o] for o in changed if o in new))
            if self._tried("change", transactions):
                return
        parts = self._desired.parts.values()
        self._generation = self._nft.generation()
        try:
            there = actual.read(self._nft)
        except KernelError as error:
            log.warning("the table can not be read: %s", error)
            there = None
        if there is None or not self._tried("repair", table.repair(there, parts, self._prefixes)):
            self._send("replacement", [table.replacement(parts, self._prefixes)])

    def _tried(self, kind: str, transactions: list[list[Message]]) -> bool:
        try:
            self._send(kind, transactions)
        except KernelError as error:
            log.warning("the kernel refused a %s of the table: %s", kind, error)
            return False
        return True

    def _send(self, kind: str, transactions: list[list[Message]]) -> None:
        began = time.perf_counter()
        try:
            for messages in transactions:
                self._nft.commit(messages)
                self._generation += bool(messages)
        except MuslinError:
            metrics.COMMITS.labels(kind, "refused").inc()
            raise
        if transactions:
            seconds = time.perf_counter() - began
            metrics.COMMITS.labels(kind, "ok").inc()
            metrics.COMMIT_SECONDS.labels(kind).observe(seconds)
            log.debug("committed kind=%s messages=%d ms=%.2f", kind, sum(map(len, transactions)), seconds * 1000)

    def _audit(self) -> None:
        """On the thread: see whether somebody else changed the table, if anybody changed anything."""
        try:
            generation = self._nft.generation()
            if generation == self._generation:
                return
            wanted = table.merged(self._kernel.parts.values())
            found = actual.difference(self._nft, wanted, self._prefixes)
        except MuslinError as error:
            found = str(error)
        if found:
            log.warning("somebody changed our table, putting it in order: %s", found)
            metrics.DRIFTS.inc()
            self._known = False
        else:
            self._generation = generation

    def _resolve(self) -> None:
        committed, self._committing = self._committing, []
        for pending in committed:
            if not pending.done.done():
                pending.done.set_result(None)
        if self._known:
            for waiter in self._waiters:
                if not waiter.done.done() and waiter.satisfied(self._kernel):
                    waiter.done.set_result(None)
