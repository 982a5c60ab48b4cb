"""Rounds of collection: look, and free what is due after everything was read anew.

Any number of processes may do this at once. What is freed is freed by compare-and-swap on the very record that was
judged; whoever is second finds it changed, and leaves it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from muslin.errors import Corrupt, FailedPrecondition, MuslinError
from muslin.etcd import Delete, Etcd, KeyValue, keys, unchanged
from muslin.etcd.mirror import Mirror
from services.ipam import ranges, store
from services.ipam.allocator import Allocator
from services.ipam.blocks import Block
from services.ipam.clock import Clock
from services.ipam.handles import Handle
from services.ipam.upkeep import claims, metrics, surgery
from services.ipam.upkeep.claims import Claim, Source
from services.ipam.upkeep.collector import (
    Collector,
    Empty,
    Finding,
    Now,
    Rules,
    Suspect,
    claims_against,
    spare,
    users,
)
from services.ipam.view import View

log = logging.getLogger(__name__)

_AT_ONCE = 16
"""Handles that are read anew and freed side by side."""
_TURN = 2000
"""Records that are looked at before others get a turn."""
_CALL = 5.0
"""Seconds for one read or write."""
_SNAPSHOT = 60.0
"""Seconds for reading all claims."""


class Nodes(Protocol):
    """Who knows which nodes there are."""

    @property
    def synced(self) -> bool:
        """Whether it knows of all of them."""

    @property
    def told_of_nodes(self) -> bool:
        """Whether there is any: else nobody may have told of them."""

    def node(self, name: str) -> object | None:
        """The node of a name, None if there is none."""


class Stored(Protocol):
    """The address manager's store, as the application has it."""

    @property
    def etcd(self) -> Etcd:
        """The client; raises Unavailable before the store has been read."""

    @property
    def mirror(self) -> Mirror:
        """The copy of the records."""

    @property
    def view(self) -> View:
        """The records decoded."""

    @property
    def allocator(self) -> Allocator:
        """Who frees blocks."""


@dataclass(frozen=True)
class Outcome:
    """A finding and what became of it."""

    finding: Finding
    freed: bool
    """Whether it was freed; in a dry run, whether it would have been."""


class Rounds:
    """Makes rounds on one store with some sources."""

    def __init__(self, stored: Stored, sources: Sequence[Source], nodes: Nodes | None, rules: Rules,
                 clock: Clock) -> None:
        self._stored, self._sources, self._nodes, self._clock = stored, sources, nodes, clock
        self._collector = Collector(rules)
        for source in sources:
            source.subscribe(self._collector.claimed)

    async def run(self, interval: float) -> None:
        """Make a round after each interval, until cancelled."""
        while True:
            await asyncio.sleep(interval)
            try:
                await self.round(dry_run=False)
            except FailedPrecondition as problem:
                log.info("nothing is collected: %s", problem.message)
            except MuslinError as problem:
                metrics.SKIPPED.labels("failed").inc()
                log.warning("a round of collection was not completed: %s", problem.message)

    async def round(self, *, dry_run: bool) -> list[Outcome]:
        """Look once, and free what is due.

        Raises:
            FailedPrecondition: a source of claims or the store is not in sync.
            Unavailable, TimedOut: one was lost on the way; some may have been freed.
        """
        self._in_sync()
        mirror, now = self._stored.mirror, Now(self._clock.wall_ms(), self._clock.passed())
        known: Mapping[str, Claim] = claims.combined(source.known for source in self._sources)
        for source in self._sources:
            metrics.CLAIMS.labels(source.name).set(len(source.known))
        doubtful = await suspects(mirror.items, known)
        gone, unlisted = self._gone(doubtful), self._unlisted(now)
        empty = list(empties(self._stored.view, gone | unlisted | self._stored.view.draining))
        findings = self._collector.look(doubtful, empty, gone, now)
        outcomes = await self._settle(findings, dry_run)
        if not dry_run:
            await self._forget((gone | unlisted) - {suspect.node for suspect in doubtful})
        metrics.ROUNDS.inc()
        for kind, which in (("handle", Suspect), ("block", Empty)):
            metrics.FINDINGS.labels(kind).set(sum(isinstance(f.subject, which) for f in findings))
        return outcomes

    def _in_sync(self) -> None:
        if reason := claims.trouble(self._sources):
            metrics.SKIPPED.labels("claims").inc()
            raise FailedPrecondition(f"who uses which address is not known: {reason}")
        if reason := self._stored.mirror.trouble:
            metrics.SKIPPED.labels("store").inc()
            raise FailedPrecondition(f"the store is not followed: {reason}")

    def _gone(self, doubtful: Iterable[Suspect]) -> frozenset[str]:
        if self._nodes is None or not self._nodes.synced:
            return frozenset()
        view = self._stored.view
        wanted = {suspect.node for suspect in doubtful} | view.index.owners | view.draining
        return self._collector.deleted(wanted, {node for node in wanted if node and self._nodes.node(node)})

    def _unlisted(self, now: Now) -> frozenset[str]:
        """Nodes with blocks that have not been in the inventory for the grace period, though others are.

        They may have been there before this process was: what `_gone` does not know. They may also work under another
        name than the cluster's: so only what is of no use is taken from them, and they lose nothing by it.
        """
        view, nodes = self._stored.view, self._nodes
        if nodes is None or not nodes.synced or not nodes.told_of_nodes:
            missing: set[str] = set()
        else:
            missing = {node for node in view.index.owners | view.draining if nodes.node(node) is None}
        return self._collector.missing(missing, now)

    async def _forget(self, nodes: Iterable[str]) -> None:
        """Forget that nodes without blocks were drained: one that comes back by such a name is another."""
        view = self._stored.view
        for node in view.draining & set(nodes) - view.index.owners:
            key = keys.ipam_node(node)
            if (record := await self._stored.etcd.get(key, timeout=_CALL)) is not None:
                await self._stored.etcd.txn([unchanged(key, record.mod_revision)], [Delete(key)])
                log.info("node=%s is gone, and was drained: that is forgotten", node)

    async def _settle(self, findings: Sequence[Finding], dry_run: bool) -> list[Outcome]:
        """Read everything anew for what is due, and free what is still so."""
        if not any(finding.due for finding in findings):
            return [Outcome(finding, False) for finding in findings]
        present = await claims.everything(self._sources, _SNAPSHOT)
        used = users(present.values())
        gate = asyncio.Semaphore(_AT_ONCE)

        async def settle(finding: Finding) -> Outcome:
            async with gate:
                subject = finding.subject
                if not finding.due:
                    return Outcome(finding, False)
                try:
                    freed = (await self._handle(subject, present, used, dry_run) if isinstance(subject, Suspect)
                             else await self._block(subject, dry_run))
                except MuslinError as problem:
                    log.warning("not collected subject=%s problem=%s", subject, problem.message)
                    freed = False
                return Outcome(finding, freed)

        return list(await asyncio.gather(*map(settle, findings)))

    async def _handle(self, suspect: Suspect, present: Mapping[str, Claim], used: Mapping[str, set[str]],
                      dry_run: bool) -> bool:
        if reason := claims_against(suspect, present, used):
            log.info("not collected handle=%s: %s", suspect.identity, reason)
            return False
        # The record first, then the claims: whoever gets these addresses after the first read changes the record.
        record = await self._stored.etcd.get(store.handle_key(suspect.identity), timeout=_CALL)
        if record is None or record.mod_revision != suspect.revision:
            return False
        for source in self._sources:
            if await source.read(suspect.identity, _CALL) is not None:
                return False
        if dry_run:
            return True
        freed = await surgery.remove_handle(self._stored.etcd, record, self._clock.wall_ms())
        if freed is None:
            return False
        metrics.FREED.labels("handle").inc()
        log.info("collected handle=%s node=%s addresses=%s", suspect.identity, suspect.node, ",".join(freed) or "none")
        return True

    async def _block(self, block: Empty, dry_run: bool) -> bool:
        if dry_run:
            return True
        if not await self._stored.allocator.release_block(block.cidr, block.revision, _CALL):
            return False
        metrics.FREED.labels("block").inc()
        log.info("collected block=%s node=%s", block.cidr, block.node)
        return True


async def suspects(records: Mapping[str, KeyValue], claimed: Mapping[str, Claim]) -> list[Suspect]:
    """The handles that are not claimed; damaged ones are left to the checker."""
    found = []
    for number, key in enumerate(list(records)):
        if number % _TURN == 0:
            await asyncio.sleep(0)  # there may be very many
        if not key.startswith(keys.IPAM_HANDLES) or key.removeprefix(keys.IPAM_HANDLES) in claimed:
            continue
        if (record := records.get(key)) is None:
            continue
        try:
            handle = store.decode(Handle, key, record.value)
        except Corrupt:
            continue
        found.append(Suspect(handle.identity, record.mod_revision, handle.node, handle.addresses, handle.created_ms,
                             handle.kept_until_ms, handle.sticky))
    return found


def empties(view: View, gone: frozenset[str]) -> Iterator[Empty]:
    """The blocks that may be given back."""
    def seen(block: Block) -> Empty | None:
        if block.held:
            return None
        pool = view.pool(block.pool).value
        cool_down = pool.cool_down if pool and block.cooling else 0
        return Empty(block.cidr, view.block(block.cidr).revision, block.node, cool_down)

    return spare(((seen(block), block.node, ranges.span(block.cidr).family) for block in view.blocks()), gone)
