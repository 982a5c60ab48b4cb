"""One of many: a process that leads, as long as its lease lives, and what its writes must depend on.

A lease alone does not keep two from writing at once: who is stopped for a while wakes up and believes that it leads.
So a term has a condition (`Term.guard`) that belongs into each of its transactions: etcd itself refuses what a leader
of the past sends.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from muslin.errors import Compacted, Conflict, MuslinError, NotFound
from muslin.etcd.admin import Lease
from muslin.etcd.backoff import Backoff
from muslin.etcd.client import Etcd
from muslin.etcd.values import Compare, Kind, Put, absent, unchanged

__all__ = ["Deposed", "Election", "Term"]

log = logging.getLogger(__name__)

TTL = 6
"""Seconds after which a leader that has died is replaced."""


class Deposed(Conflict):
    """A transaction was refused because the term of its sender is over."""


_PATIENCE = 1.0
"""Seconds between cancellations of what does not end."""


@dataclass(frozen=True, slots=True)
class Term:
    """One time of leading."""

    key: str
    revision: int
    """At which it began; the key was last changed at it as long as the term lasts."""

    @property
    def guard(self) -> Compare:
        """Holds as long as the term lasts."""
        return unchanged(self.key, self.revision)


class Election:
    """Elections to the place at `key`, as `name` (for people)."""

    def __init__(self, etcd: Etcd, key: str, name: str, ttl: int = TTL) -> None:
        self._etcd, self._key, self._name, self._ttl = etcd, key, name, ttl
        self.leading = False

    async def run(self, lead: Callable[[Term], Awaitable[None]]) -> None:
        """Stand for election until cancelled; in each term `lead` runs, and is cancelled when the term is over.

        A term ends as well when `lead` returns or raises a MuslinError; what else it raises ends this.
        """
        backoff = Backoff(0.1, 2.0)
        while True:
            try:
                lease = await self._etcd.lease(self._ttl)
                try:
                    began = time.monotonic()
                    if term := await self._won(lease):
                        await self._term(term, lease, began, lead)
                        if time.monotonic() - began > self._ttl:
                            backoff.reset()
                finally:
                    await self._resign(lease)
                if not term:
                    await self._vacant()
                    continue
            except MuslinError as problem:
                log.warning("election key=%s problem=%s", self._key, problem.message)
            await asyncio.sleep(backoff.next())

    async def _won(self, lease: Lease) -> Term | None:
        """The term, if the place was free."""
        result = await self._etcd.txn([absent(self._key)], [Put(self._key, json.dumps(self._name).encode(), lease.id)])
        return Term(self._key, result.revision) if result.succeeded else None

    async def _resign(self, lease: Lease) -> None:
        """End the lease, and the term with it, that nobody need wait for its end."""
        try:
            await lease.revoke()
        except MuslinError as problem:
            log.debug("lease was not ended key=%s: %s", self._key, problem.message)

    async def _vacant(self) -> None:
        """Wait until the place may be free."""
        held = await self._etcd.get(self._key)
        if held is None:
            return
        try:
            async with self._etcd.watch(self._key, held.mod_revision + 1) as watch:
                async for batch in watch:
                    if any(event.key == self._key and event.kind is Kind.DELETE for event in batch.events):
                        return
        except Compacted:
            return  # much has happened since; look again

    async def _term(self, term: Term, lease: Lease, began: float, lead: Callable[[Term], Awaitable[None]]) -> None:
        log.info("elected key=%s name=%s revision=%d", self._key, self._name, term.revision)
        self.leading = True
        work = asyncio.ensure_future(lead(term))
        keeping = asyncio.ensure_future(self._keep(lease, began))
        try:
            await asyncio.wait((work, keeping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.leading = False
            pending = {work, keeping}
            while pending:
                for task in pending:  # again and again: what it awaits may swallow a cancellation
                    task.cancel()
                _, pending = await asyncio.wait(pending, timeout=_PATIENCE)
            log.info("no longer elected key=%s name=%s", self._key, self._name)
        for task in (work, keeping):
            if not task.cancelled():
                task.result()

    async def _keep(self, lease: Lease, began: float) -> None:
        """Refresh a lease until it can not be known to live any longer."""
        while True:
            await asyncio.sleep(lease.ttl / 3)
            asked = time.monotonic()
            try:
                await lease.refresh()
            except NotFound:
                return
            except MuslinError as problem:
                log.warning("lease is not refreshed key=%s: %s", self._key, problem.message)
                if asked - began > lease.ttl:
                    return
            else:
                began = asked
