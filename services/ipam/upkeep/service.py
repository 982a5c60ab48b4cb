"""Upkeep as a part of muslin-ipam: what it owns, and what it is asked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence

from muslin.errors import FailedPrecondition, MuslinError, from_status
from muslin.etcd import KeyValue, keys
from muslin.etcd.mirror import Mirror
from muslin.tasks import TaskSet
from services.ipam import store
from services.ipam.clock import Clock
from services.ipam.handles import Handle
from services.ipam.upkeep import gc, surgery
from services.ipam.upkeep.claims import EndpointClaims, Source, everything, trouble
from services.ipam.upkeep.collector import Rules
from services.ipam.upkeep.damage import Damage
from services.ipam.upkeep.repair import Repair
from services.ipam.upkeep.rounds import Nodes, Outcome, Rounds, Stored

log = logging.getLogger(__name__)

COLLECT_INTERVAL = 60.0
"""Seconds between two rounds of collection, if nobody says otherwise."""

_SNAPSHOT = 60.0
_GC_AT_ONCE = 16
_GC_CALL = 5.0
"""Seconds for freeing one attachment."""
_GC_NAMED = 5
"""Failures that the answer to GC names."""


class Upkeep:
    """Collects, checks and repairs.

    `interval` are seconds between rounds; 0: only when it is asked for. Without sources nothing is collected, because
    it is not known who uses what.
    """

    def __init__(self, stored: Stored, sources: Sequence[Source], nodes: Nodes | None, *, grace: float, interval: float,
                 clock: Clock) -> None:
        self._stored, self._sources, self._interval, self._grace = stored, tuple(sources), interval, grace
        self.clock = clock
        self._rounds = Rounds(stored, self._sources, nodes, Rules(grace, interval or COLLECT_INTERVAL), clock)

    def start(self, tasks: TaskSet, mirror: Mirror, ours: Callable[[], Collection[str]]) -> None:
        """Begin to follow the sources and the records, and to collect; `ours` as `Damage` has it."""
        damage = Damage(mirror.items, ours)
        mirror.subscribe(damage.changed)
        for source in self._sources:
            tasks.spawn(f"claims of {source.name}", source.run())
        tasks.spawn("damaged records", damage.run())
        if self._interval and self._sources:
            tasks.spawn("collector", self._rounds.run(self._interval))

    async def collect(self, *, dry_run: bool) -> list[Outcome]:
        """A round of collection. Raises FailedPrecondition while a source of claims or the store is not in sync."""
        return await self._rounds.round(dry_run=dry_run)

    @property
    def repair(self) -> Repair:
        """Checks and repairs. Raises Unavailable before the store has been read."""
        return Repair(self._stored.etcd, self._sources, self.clock, self._grace)

    async def require_unused(self, node: str) -> None:
        """Raise FailedPrecondition if somebody claims an attachment on a node, or that is not known."""
        if not self._sources:
            raise FailedPrecondition(f"whether node {node} is in use is not known: {trouble(self._sources)}")
        try:
            present = await everything(self._sources, _SNAPSHOT)
        except MuslinError as problem:
            raise FailedPrecondition(f"whether node {node} is in use is not known: {problem.message}") from None
        if there := sorted(claim.identity for claim in present.values() if claim.node == node):
            raise FailedPrecondition(f"node {node} is in use by {len(there)} endpoints, such as {there[0]}; delete "
                                     "them first")

    async def gc(self, network: str, node: str, config: bytes) -> None:
        """Free what the attachments of a network on a node hold that the configuration does not list as valid.

        Raises:
            Corrupt, InvalidArgument: the list can not be read; nothing was freed.
            MuslinError: of the kind of the first failure, naming the others; the rest was freed.
        """
        alive = gc.valid(config)
        if alive is None:
            return
        stale = await self._stale(network, node, alive)
        failures: list[tuple[str, MuslinError]] = []
        gate = asyncio.Semaphore(_GC_AT_ONCE)

        async def free(handle: Handle, record: KeyValue) -> None:
            async with gate:
                try:
                    if handle.sticky:  # its pod may come back for them
                        freed = await self._stored.allocator.release(handle.identity, _GC_CALL)
                    else:
                        freed = await surgery.remove_handle(self._stored.etcd, record, self.clock.wall_ms()) or ()
                except MuslinError as problem:
                    failures.append((handle.identity, problem))
                else:
                    log.info("GC attachment=%s node=%s addresses=%s", handle.identity, node, ",".join(freed) or "none")

        await asyncio.gather(*(free(handle, record) for handle, record in stale))
        if failures:
            named = "; ".join(f"{identity}: {problem.message}" for identity, problem in failures[:_GC_NAMED])
            more = f"; and {len(failures) - _GC_NAMED} more" if len(failures) > _GC_NAMED else ""
            raise from_status(failures[0][1].status, f"GC freed {len(stale) - len(failures)} of {len(stale)} "
                              f"attachments; not freed: {named}{more}")

    async def _stale(self, network: str, node: str, alive: frozenset[tuple[str, str]]) -> list[tuple[Handle, KeyValue]]:
        found = []
        for record in (await self._stored.etcd.range(keys.handles_of(network))).items:
            try:
                handle = store.decode(Handle, record.key, record.value)
            except MuslinError as problem:
                log.warning("GC leaves a record alone: %s", problem.message)
                continue
            if gc.stale(handle, node, alive):
                found.append((handle, record))
        return found


def endpoint_sources(target: str | None) -> tuple[Source, ...]:
    """The sources of claims of a service that reaches the endpoint service at a target."""
    return (EndpointClaims(target),) if target else ()
