"""Enforcement as the rest of the daemon sees it: events are submitted, and their being in the kernel is awaited.

Events that arrive while a transaction is under way go into the next one together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from muslin.rpc import Part
from services.node.attachment import Attachment
from services.node.cutter import Cutter
from services.node.enforce import names
from services.node.enforce.state import Claim, Event, State
from services.node.netlink.network import IPAddress
from services.node.nft.connection import Nftables
from services.node.writer import Writer

__all__ = ["Enforcer"]

RETRY_SECONDS = 1.0
"""Pause after a refused replacement."""

AUDIT_SECONDS = 2.0
"""How often to ask, while idle, whether anybody changed the ruleset; one short message if nobody did."""

T = TypeVar("T")


@dataclass
class _Pending:
    event: Event
    done: asyncio.Future[None]


@dataclass
class _Waiter:
    satisfied: Callable[[State], bool]
    done: asyncio.Future[None]


class Enforcer:
    """Events for the table, and waiting for them."""

    def __init__(self, nft: Nftables, prefixes: Sequence[str]) -> None:
        """`prefixes` begin the names of interfaces that are dropped while no policy for them is in."""
        self._nft = nft
        self._writer = Writer(nft, prefixes)
        self._thread = ThreadPoolExecutor(1, "nftables")
        self._cutter = Cutter(nft.namespace)
        self._synchronised = asyncio.Event()
        self._pending: list[_Pending] = []
        self._taken: list[_Pending] = []  # by the writer, and not in the kernel yet
        self._waiters: list[_Waiter] = []
        self._wake = asyncio.Event()
        self._part: Part | None = None

    @property
    def state(self) -> State:
        """What is in the kernel, as far as is known."""
        return self._writer.kernel

    async def drops(self) -> dict[bytes, tuple[int, int]]:
        """Packets and bytes dropped, by the key of the set of drops. Raises KernelError."""
        return await asyncio.to_thread(self._nft.tallies, names.TABLE, names.DROPS)

    async def watch(self, interfaces: Sequence[str], milliseconds: int) -> None:
        """Report drops at these interfaces for that long, and at no other. Raises KernelError."""
        await self._off_loop(lambda: self._writer.watch(interfaces, milliseconds))

    @property
    def revision(self) -> int:
        """Revision of the program in the kernel; 0 before the first."""
        return self._writer.kernel.program.revision

    @property
    def enforcing(self) -> bool:
        """Whether a program of this run has come into force."""
        return self._synchronised.is_set()

    async def start(self, claims: Iterable[Claim], part: Part) -> None:
        """Adopt what is wired already. Where there is no table, make one that drops all of it until policy is in.

        `part` is told from now on whether the kernel takes what it is given.

        Raises:
            KernelError: nf_tables can not be used.
        """
        await self._off_loop(lambda: self._writer.start(claims))
        self._part = part
        part.set(True)

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

    async def severed(self, addresses: Sequence[IPAddress]) -> None:
        """Wait until nobody can go on with connections that earlier owners of these addresses had."""
        await self._cutter.severed(address.packed for address in addresses)

    async def settled(self) -> None:
        """Wait until the connections are cut that the program, as it is in the kernel, forbids."""
        await self._cutter.settled()

    async def enforced(self, attachment: Attachment, interface: str, addresses: Sequence[IPAddress]) -> None:
        """Wait until the kernel has the program of exactly this attachment: this interface, these addresses."""
        def satisfied(state: State) -> bool:
            return _holds(state, attachment, interface, addresses)

        if self.enforces(attachment, interface, addresses):
            return
        waiter = _Waiter(satisfied, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        try:
            await waiter.done
        finally:
            self._waiters.remove(waiter)

    def enforces(self, attachment: Attachment, interface: str, addresses: Sequence[IPAddress]) -> bool:
        """Whether the kernel has it now, as far as is known."""
        return self._writer.known and _holds(self._writer.kernel, attachment, interface, addresses)

    def missing(self, attachment: Attachment) -> str:
        """Why an attachment is not enforced, for people."""
        if not self._writer.synchronised:
            return "no program has come from the policy service yet"
        if not self._writer.known:
            return "the kernel refuses the program; see this service's log"
        endpoint = self._writer.desired.program.endpoints.get(attachment)
        if endpoint is None:
            return "the policy service has sent no program for it"
        return (f"the program is for {endpoint.interface} with {', '.join(map(str, endpoint.addresses)) or '-'}, "
                "which is not what ADD was asked for")

    async def run(self) -> None:
        """Commit events as they come, and look now and then whether others changed the table. Runs for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._cutter.run(), name="cutter")
            await self._follow()

    async def _follow(self) -> None:
        while True:
            try:
                async with asyncio.timeout(RETRY_SECONDS if self._out_of_order else AUDIT_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                if self._writer.known:
                    await self._off_loop(self._writer.audit)
            self._wake.clear()
            batch, self._pending = self._pending, []
            if batch or self._out_of_order:
                await self._turn(batch)

    @property
    def _out_of_order(self) -> bool:
        """Whether the table is not what it should be and is to be written again."""
        return self._writer.synchronised and not self._writer.known

    async def _turn(self, batch: list[_Pending]) -> None:
        failures = await self._off_loop(lambda: self._writer.take([pending.event for pending in batch]))
        for pending, failure in zip(batch, failures, strict=True):
            if failure is None:
                self._taken.append(pending)
            elif not pending.done.done():
                pending.done.set_exception(failure)
        if self._part is not None:
            self._part.set(not self._writer.refusal, self._writer.refusal)
        if self._out_of_order:
            return
        taken, self._taken = self._taken, []
        change = self._writer.change
        if change is not None:
            self._cutter.add(change)
        for pending in taken:
            if not pending.done.done():
                pending.done.set_result(None)
        if self._writer.known:
            self._synchronised.set()
            for waiter in self._waiters:
                if not waiter.done.done() and waiter.satisfied(self._writer.kernel):
                    waiter.done.set_result(None)

    async def _off_loop(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def aclose(self) -> None:
        """Give up what waits, and the thread. The table stays."""
        for pending in self._pending + self._taken:
            pending.done.cancel()
        for waiter in self._waiters:
            waiter.done.cancel()
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)
        await self._cutter.aclose()


def _holds(state: State, attachment: Attachment, interface: str, addresses: Sequence[IPAddress]) -> bool:
    endpoint = state.endpoint(attachment)
    return endpoint is not None and endpoint.interface == interface and set(endpoint.addresses) == set(addresses)
