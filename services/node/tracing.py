"""Drops of one pod as they happen, for those who watch, and only while they do.

Watched are the interfaces that the kernel's set `watched` names, each for a few seconds, which this daemon renews. So
nothing is left of a watcher that has gone, nor of a daemon that was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from muslin.errors import MuslinError
from services.node.enforce.causes import Cause, causes
from services.node.enforce.drops import REPORT_GROUP
from services.node.enforce.judge import Flow, decide
from services.node.enforce.names import Direction
from services.node.enforce.program import Endpoint
from services.node.enforce.state import State
from services.node.enforcer import Enforcer
from services.node.nft.reports import Headers, Report, Reports, headers

__all__ = ["Drop", "Tracer", "Watch"]

log = logging.getLogger(__name__)

RENEW_SECONDS = 2.0
LIFE_SECONDS = 6.0
"""Time to live of a watched interface."""

KEPT = 1000
"""Drops kept for a watcher who is slow; of more the oldest are lost, and counted."""


@dataclass(frozen=True, slots=True)
class Drop:
    """A packet that was dropped; see muslin.node.v1.TraceResponse."""

    unix_nanos: int
    cause: Cause
    rule: str
    packet: Headers

    @property
    def addresses(self) -> tuple[str, str]:
        """Sender's and receiver's."""
        return str(ipaddress.ip_address(self.packet.source)), str(ipaddress.ip_address(self.packet.destination))


@dataclass(eq=False)
class Watch:
    """One who watches a pod, `namespace/name`."""

    workload: str
    _drops: deque[Drop] = field(default_factory=deque)
    _there: asyncio.Event = field(default_factory=asyncio.Event)
    _missed: int = 0

    def put(self, drop: Drop) -> None:
        """Keep a drop until it is asked for."""
        if len(self._drops) == KEPT:
            self._drops.popleft()
            self._missed += 1
        self._drops.append(drop)
        self._there.set()

    async def next(self) -> tuple[Drop, int]:
        """Wait for a drop; and how many before it were lost."""
        while not self._drops:
            self._there.clear()
            await self._there.wait()
        missed, self._missed = self._missed, 0
        return self._drops.popleft(), missed


class Tracer:
    """Who watches what, and the one listener for all of them."""

    def __init__(self, enforcer: Enforcer, namespace: str | None = None) -> None:
        """Of that network namespace; None for this process' own."""
        self._enforcer = enforcer
        self._namespace = namespace
        self._watches: set[Watch] = set()
        self._renewing: asyncio.Task[None] | None = None
        self._reports: Reports | None = None
        self._changing = asyncio.Lock()
        self._causes: tuple[State, dict[bytes, Cause]] | None = None

    def _endpoints(self, workload: str) -> list[Endpoint]:
        return self._enforcer.state.of_workload(workload)

    @contextlib.asynccontextmanager
    async def watching(self, workload: str) -> AsyncIterator[Watch]:
        """Watch a pod; inside, its drops are reported. A new container of the same pod is watched too.

        Raises:
            NotFound: no pod of that name is enforced here.
            KernelError: the kernel can not report.
        """
        self._enforcer.state.required(workload)
        watch = Watch(workload)
        self._watches.add(watch)
        try:
            await self._start()
            yield watch
        finally:
            self._watches.discard(watch)
            # Not to be cut short by the caller's going, which is how most end.
            await asyncio.shield(asyncio.ensure_future(self._stop()))

    async def _start(self) -> None:
        async with self._changing:
            if self._reports is None:
                self._reports = await asyncio.to_thread(Reports, REPORT_GROUP, self._namespace)
                asyncio.get_running_loop().add_reader(self._reports.fileno(), self._read)
            await self._renew()
            if self._renewing is None:
                self._renewing = asyncio.create_task(self._keep(), name="tracing")

    async def _stop(self) -> None:
        async with self._changing:
            if not self._watches:
                if self._renewing is not None:
                    self._renewing.cancel()
                    await asyncio.wait([self._renewing])
                    self._renewing = None
                if self._reports is not None:
                    asyncio.get_running_loop().remove_reader(self._reports.fileno())
                    self._reports.close()
                    self._reports = None
            try:
                await self._renew()
            except (MuslinError, RuntimeError) as error:  # RuntimeError: the daemon stops, and has no thread any more
                log.debug("the watch ends by itself in %.0f s: %s", LIFE_SECONDS, error)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                await self._renew()
            except MuslinError as error:  # such as while the table is replaced
                log.warning("drops can not be watched now: %s", error)

    async def _renew(self) -> None:
        interfaces = {endpoint.interface for watch in self._watches for endpoint in self._endpoints(watch.workload)}
        await self._enforcer.watch(sorted(interfaces), int(LIFE_SECONDS * 1000))

    def _read(self) -> None:
        assert self._reports is not None
        for report in self._reports.pending():
            self._told(report)

    def _told(self, report: Report) -> None:
        state = self._enforcer.state
        if self._causes is None or self._causes[0] is not state:
            self._causes = state, causes(state)
        packet = headers(report.payload)
        try:
            cause = self._causes[1].get(bytes.fromhex(report.prefix))
        except ValueError:
            return  # somebody else's rule, of the same group
        if packet is None or cause is None:
            return
        interface = report.incoming if cause.direction is Direction.EGRESS else report.outgoing
        for watch in self._watches:
            for endpoint in self._endpoints(watch.workload):
                if endpoint.interface == interface:
                    watch.put(Drop(time.time_ns(), cause, _rule(state, endpoint, cause, packet), packet))


def _rule(state: State, endpoint: Endpoint, cause: Cause, packet: Headers) -> str:
    """Path of the rule of the policy that denied: the program says to the packet what the kernel has said."""
    if not cause.policy:
        return ""
    flow = Flow(packet.source, packet.destination, packet.protocol, packet.port)
    decision = decide(endpoint, state.program, flow, cause.direction)
    return decision.path if decision.policy == cause.policy else ""
