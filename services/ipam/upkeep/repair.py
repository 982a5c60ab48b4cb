"""Carrying out what a check or a rebuild decided, on the store."""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from collections.abc import Awaitable, Mapping, Sequence

from muslin.errors import Conflict, FailedPrecondition, MuslinError
from muslin.etcd import Delete, Etcd, Op, Put, absent, keys, unchanged
from services.ipam import ranges, store
from services.ipam.blocks import Held
from services.ipam.clock import Clock
from services.ipam.handles import Handle
from services.ipam.upkeep import checker, claims, collector, rebuild, surgery
from services.ipam.upkeep.checker import Compared, Kind, Problem
from services.ipam.upkeep.claims import Claim, Source
from services.ipam.upkeep.collector import ADD_LIMIT, Suspect
from services.ipam.upkeep.inspection import Inspection, inspect
from services.ipam.upkeep.rebuild import Step

log = logging.getLogger(__name__)

REPORT_LIFE = 900.0
"""Seconds for which a report can be acted on."""

_PASSES = 6
"""Times that a rebuild looks again, because others changed records meanwhile."""
_AGAIN = 0.5
"""Seconds after which a check looks again, so that a change that is under way is not taken for a problem."""
_SNAPSHOT = 60.0
_CALL = 5.0


class Repair:
    """Checks and repairs one store, held against some sources of claims."""

    def __init__(self, etcd: Etcd, sources: Sequence[Source], clock: Clock, grace: float) -> None:
        self._etcd, self._sources, self._clock, self._grace = etcd, sources, clock, grace

    async def cluster(self) -> str:
        """The name of this store, made if it has none."""
        while (record := await self._etcd.get(keys.IPAM_CLUSTER)) is None:
            await self._etcd.txn([absent(keys.IPAM_CLUSTER)], [Put(keys.IPAM_CLUSTER, uuid.uuid4().hex.encode())])
        return record.value.decode(errors="replace")

    async def check(self) -> tuple[Compared, int]:
        """What is wrong, and the revision at which that was.

        Raises:
            FailedPrecondition: who uses which address can not be read.
        """
        first, revision = await self._compare()
        if not first.problems:
            return first, revision
        await asyncio.sleep(_AGAIN)
        second, revision = await self._compare()
        return checker.common(first, second), revision

    async def _compare(self) -> tuple[Compared, int]:
        found, used = await self._read()
        return await asyncio.to_thread(checker.check, found, used, self._clock.wall_ms()), found.revision

    async def _read(self) -> tuple[Inspection, Mapping[str, Claim]]:
        # The records first: what changes after that, changes their revisions, and nothing is written for it.
        snapshot = await self._etcd.range(keys.IPAM)
        used = await self._claims()
        return await asyncio.to_thread(inspect, snapshot.items, snapshot.revision), used

    async def _claims(self) -> Mapping[str, Claim]:
        if not self._sources:
            raise FailedPrecondition(claims.trouble(self._sources))
        try:
            return await claims.everything(self._sources, _SNAPSHOT)
        except MuslinError as problem:
            raise FailedPrecondition(f"who uses which address is not known: {problem.message}") from None

    # Releasing what a report says

    async def release(self, problems: Sequence[Problem], created_ms: int, revision: int, cluster: str,
                      ) -> tuple[list[str], list[Problem]]:
        """Free what a report says is nobody's: the addresses freed, and the lines that no longer hold.

        Raises:
            FailedPrecondition: the report is stale, or who uses which address can not be read.
        """
        await self._refuse_stale(created_ms, revision, cluster)
        present = await self._claims()
        used = collector.users(present.values())
        freed: list[str] = []
        skipped: list[Problem] = []
        by_handle: dict[str, list[Problem]] = {}
        for problem in problems:
            if problem.kind in (Kind.KIND_NOT_IN_USE, Kind.KIND_HANDLE_WITHOUT_ADDRESS) and problem.handle:
                by_handle.setdefault(problem.handle, []).append(problem)
                continue
            done = None
            if problem.kind == Kind.KIND_ADDRESS_WITHOUT_HANDLE:
                done = await _tried(self._release_slot(problem, present, used))
            freed += done or ()
            skipped += [problem] if done is None else []
        for identity, lines in by_handle.items():
            done = await _tried(self._release_handle(identity, lines, revision, present, used))
            freed += done or ()
            skipped += lines if done is None else []
        return sorted(freed), sorted(skipped)

    async def _refuse_stale(self, created_ms: int, revision: int, cluster: str) -> None:
        if cluster != (ours := await self.cluster()):
            raise FailedPrecondition(f"the report is about another cluster ({cluster or 'unnamed'}, this is {ours})")
        age = (self._clock.wall_ms() - created_ms) / 1000
        if age > REPORT_LIFE:
            raise FailedPrecondition(f"the report is {age:.0f} s old; make a new one, it is good for "
                                     f"{REPORT_LIFE:.0f} s")
        present = (await self._etcd.range(keys.IPAM_CLUSTER)).revision
        if not 0 < revision <= present:
            raise FailedPrecondition(f"the report is about revision {revision}, which is not in the past of this "
                                     f"store (at {present}); make a new one")

    async def _release_handle(self, identity: str, lines: Sequence[Problem], revision: int,
                              present: Mapping[str, Claim], used: Mapping[str, set[str]]) -> tuple[str, ...] | None:
        """Delete a handle with all it holds, if the lines say so of all of it and still hold; None if they do not."""
        record = await self._etcd.get(store.handle_key(identity))
        if record is None or record.mod_revision > revision:
            return None
        handle = store.decode(Handle, record.key, record.value)
        if handle.kept_until_ms or self._clock.wall_ms() - handle.created_ms < min(self._grace, ADD_LIMIT) * 1000:
            return None
        suspect = Suspect(identity, record.mod_revision, handle.node, handle.addresses, handle.created_ms)
        if collector.claims_against(suspect, present, used) or await self._claimed(identity):
            return None
        if {(held.address, held.sequence) for held in handle.addresses} != \
                {(line.subject, line.sequence) for line in lines if line.subject != identity}:
            return None
        freed = await surgery.remove_handle(self._etcd, record, self._clock.wall_ms())
        if freed is not None:
            log.info("released as reported handle=%s addresses=%s", identity, ",".join(freed) or "none")
        return freed

    async def _release_slot(self, line: Problem, present: Mapping[str, Claim], used: Mapping[str, set[str]],
                            ) -> tuple[str, ...] | None:
        """Free a slot that no handle speaks for, if it still is exactly so; None if it is not."""
        if line.handle in present or used.get(line.subject) or await self._claimed(line.handle):
            return None
        held = Held(line.handle, line.sequence)
        for record in (await self._etcd.range(keys.IPAM_BLOCKS)).items:
            cidr = keys.parse_block(record.key)
            if ranges.within(cidr, line.subject) and await surgery.free_slot(
                    self._etcd, cidr, line.subject, held, self._clock.wall_ms()):
                log.info("released as reported address=%s of=%s", line.subject, line.handle)
                return (line.subject,)
        return None

    async def _claimed(self, identity: str) -> bool:
        """Whether any source claims an attachment now. Raises if one can not be asked."""
        for source in self._sources:
            if await source.read(identity, _CALL) is not None:
                return True
        return False

    # Rebuilding

    async def rebuild(self, *, dry_run: bool) -> list[str]:
        """Make the records agree, and say what was done (would be), a sentence each.

        Raises:
            FailedPrecondition: who uses which address can not be read.
            Conflict: others changed the same records again and again; what was done stays done.
        """
        done: list[str] = []
        for _ in range(_PASSES):
            found, used = await self._read()
            made = await asyncio.to_thread(rebuild.plan, found, used, self._clock.wall_ms())
            if dry_run:
                return made.actions
            if not made.steps:
                return done + made.notes
            for step in made.steps:
                if await self._apply(step, found):
                    done += step.actions
                    for action in step.actions:
                        log.warning("rebuild: %s", action)
            await asyncio.sleep(random.uniform(0, 0.1))  # noqa: S311  no secret
        raise Conflict(f"others changed the same records while {_PASSES} attempts were made; {len(done)} actions were "
                       "done; rebuild again")

    async def _apply(self, step: Step, found: Inspection) -> bool:
        """Write a step, and what it replaces to quarantine; False if something had changed."""
        compares = [unchanged(write.key, write.revision) for write in step.writes]
        compares += [unchanged(key, revision) for key, revision in step.guards.items()]
        operations: list[Op] = []
        for write in step.writes:
            if old := found.records.get(write.key):
                operations.append(Put(keys.quarantined(write.key, old.mod_revision), old.value))
            operations.append(Delete(write.key) if write.value is None else Put(write.key, write.value))
        return (await self._etcd.txn(compares, operations)).succeeded


async def _tried(work: Awaitable[tuple[str, ...] | None]) -> tuple[str, ...] | None:
    """What could not be done is left, and must not keep the rest from being done."""
    try:
        return await work
    except (MuslinError, ValueError, TypeError) as problem:  # a report is a file: it may say anything
        log.warning("a line of the report was left alone: %s", problem)
        return None
