"""Deletions that were put off are done: in order, each until it has succeeded everywhere."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter

from muslin.errors import Corrupt, IOFailure, MuslinError, Unavailable
from services.node import metrics
from services.node.upkeep.chain import Chain, passing
from services.node.upkeep.gate import Gate
from services.node.upkeep.journal import Entry, Journal, Waiting

__all__ = ["Replay"]

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
"""Between two looks for new entries; one listing of a directory that is mostly empty."""

LONGEST_PAUSE = 6.0
"""Between two attempts while a service is away: doubled each time, with jitter."""

TRIES = 10
"""Of an entry that a service fails at without saying that it may do better; then it is put aside."""


class Replay:
    """The one that does them.

    An entry goes when it is done, so one that was half done when the daemon was killed is done again, which changes
    nothing: DEL is idempotent, and by attachment.
    """

    def __init__(self, journal: Journal, chain: Chain, gate: Gate) -> None:
        self._journal = journal
        self._chain = chain
        self._gate = gate
        self._failures: Counter[str] = Counter()
        self._waiting = Waiting()

    @property
    def waiting(self) -> Waiting:
        """What waits, as of now."""
        try:
            self._waiting = self._journal.waiting()
        except OSError as error:
            log.warning("%s: %s", self._journal.directory, error.strerror)
        metrics.DELETIONS_WAITING.set(self._waiting.count)
        metrics.DELETIONS_OLDEST.set(self._waiting.oldest_seconds)
        return self._waiting

    async def run(self) -> None:
        """Do what comes. Runs for ever."""
        pause = LOOK_SECONDS
        while True:
            done = await self.once()
            pause = LOOK_SECONDS if done else min(2 * pause, LONGEST_PAUSE)
            await asyncio.sleep(pause if done else pause * random.uniform(0.5, 1.0))  # noqa: S311  jitter, no secret

    async def once(self) -> bool:
        """Try everything that waits; False if something may do better later."""
        try:
            entries = self._journal.entries()
        except OSError as error:
            log.warning("%s: %s", self._journal.directory, error.strerror)
            return False
        done = True
        for entry in entries:
            try:
                left = await self._one(entry)
            except OSError as error:
                log.warning("%s: %s", entry.path, error.strerror)
                done = False
                continue
            done = done and not left
            if any(isinstance(failure, Unavailable) for failure in left):
                break  # nobody there: the next would find the same
        if entries:
            _ = self.waiting  # brings the metrics up to date
        return done

    async def _one(self, entry: Entry) -> list[MuslinError]:
        """Do one; gives why it has to wait, if it has to. Raises OSError."""
        try:
            call = self._journal.read(entry)
        except Corrupt as error:
            self._give_up(entry, [error])
            return []
        if call is None:
            return []
        async with self._gate.closed((call.container_id, call.ifname)) as ours:
            if not ours:
                return [IOFailure("an ADD of the same interface is under way")]
            # The plugin does and removes it itself before it begins an ADD of the same attachment.
            if not entry.path.exists():
                return []
            failures = await self._chain.delete(call, entry.path.exists)
            return self._conclude(entry, failures)

    def _conclude(self, entry: Entry, failures: list[MuslinError]) -> list[MuslinError]:
        if not failures:
            self._journal.remove(entry)
            self._failures.pop(entry.name, None)
            metrics.DELETIONS.labels("ok").inc()
            log.info("did a deletion that was put off: %s", entry.name)
            return []
        if any(map(passing, failures)):
            log.debug("%s waits: %s", entry.name, _words(failures))
            return failures
        self._failures[entry.name] += 1
        if any(isinstance(failure, IOFailure) for failure in failures) and self._failures[entry.name] < TRIES:
            return failures
        self._give_up(entry, failures)
        return []

    def _give_up(self, entry: Entry, failures: list[MuslinError]) -> None:
        self._journal.give_up(entry)
        self._failures.pop(entry.name, None)
        metrics.DELETIONS.labels("failed").inc()
        log.error("a deletion that was put off can not be done, and is put aside: %s: %s", entry.name, _words(failures))


def _words(failures: list[MuslinError]) -> str:
    return "; ".join(failure.message for failure in failures)
