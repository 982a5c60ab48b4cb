"""The one writer of the kernel's table: takes events, commits what they change. Blocks; for one thread.

Where the kernel refuses a change, and at the start, the table is read and repaired; one that can not be is replaced
whole, which depends on nothing. A replacement that is refused is tried again when next asked, while the table stays
as it was.

Before the first snapshot the table of an earlier run stays as it is: what it allows goes on, what it does not know
it drops.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence

from muslin.errors import MuslinError
from services.node import actual, metrics
from services.node.cutter import Change
from services.node.enforce import names, table
from services.node.enforce.parts import Owner
from services.node.enforce.program import Update
from services.node.enforce.state import Claim, Event, Release, State, applied
from services.node.errors import KernelError
from services.node.nft import expressions as x
from services.node.nft import messages as m
from services.node.nft.connection import Nftables
from services.node.nft.messages import Message

__all__ = ["Writer"]

log = logging.getLogger(__name__)


class Writer:
    """Keeps the table equal to what the events so far ask for.

    Attributes:
        desired: what they ask for.
        kernel: what the kernel has, as far as `known`.
        synchronised: whether a snapshot has come; nothing is written before.
        known: whether the table is as `kernel` says, so that a difference can be committed.
        refusal: why the kernel refused the last write, for people; empty if it did not.
        change: what the last write has changed; None if nothing has come into the kernel.
    """

    def __init__(self, nft: Nftables, prefixes: Sequence[str]) -> None:
        """`prefixes` begin the names of interfaces that are dropped while no policy for them is in."""
        self._nft = nft
        self._prefixes = tuple(prefixes)
        self.desired = State()
        self.kernel = State()
        self.synchronised = False
        self.known = False
        self.refusal = ""
        self.change: Change | None = None
        self._untidy = True  # interfaces may have gone whose drops are counted still
        self._generation = 0  # of the ruleset, if nobody else changed any of it since our last transaction

    def start(self, claims: Iterable[Claim]) -> None:
        """Adopt what is wired already. Where there is no table, make one that drops all of it until policy is in.

        Raises:
            KernelError: nf_tables can not be used.
        """
        for claim in claims:
            self.desired, _ = applied(self.desired, claim)
        if self._nft.table_comment(names.TABLE) is None:
            self._nft.commit(table.replacement((), self._prefixes))

    def take(self, events: Iterable[Event]) -> list[MuslinError | None]:
        """Take events and bring the kernel to where they lead; of each, why it was refused, if it was.

        Afterwards `known` says whether the kernel has what is desired, unless nothing is written yet.
        """
        failures: list[MuslinError | None] = []
        changed: set[Owner] = set()
        self.change = None
        for event in events:
            try:
                self.desired, owners = applied(self.desired, event)
            except MuslinError as failure:
                failures.append(failure)
                continue
            failures.append(None)
            changed |= owners
            self._untidy = self._untidy or isinstance(event, Release)
            self.synchronised = self.synchronised or (isinstance(event, Update) and event.snapshot)
        if self.synchronised:
            self._write(changed)
        return failures

    def audit(self) -> None:
        """See whether somebody else changed the table, if anybody changed anything; then it is not `known` any more."""
        try:
            if self._untidy:
                self._tidy()
            generation = self._nft.generation()
            if generation == self._generation:
                return
            found = actual.difference(self._nft, table.merged(self.kernel.parts.values()), self._prefixes)
        except MuslinError as error:
            found = str(error)
        if found:
            log.warning("somebody changed our table, putting it in order: %s", found)
            metrics.DRIFTS.inc()
            self.known = False
        else:
            self._generation = generation

    def watch(self, interfaces: Sequence[str], milliseconds: int) -> None:
        """Report drops at these interfaces for that long, and at no other; 0 interfaces: at none.

        Raises:
            KernelError: there is no table.
        """
        there = self._nft.elements(names.TABLE, names.WATCHED)
        wanted = [name.encode().ljust(x.INTERFACE.length, b"\0") for name in interfaces]
        messages = [
            # One that is there keeps its time, and one that has run out since can not be deleted: so first add all.
            *m.add_expiring(names.TABLE, names.WATCHED, {*wanted, *there}, milliseconds),
            *m.delete_elements(names.TABLE, names.WATCHED, {*wanted, *there}),
            *m.add_expiring(names.TABLE, names.WATCHED, wanted, milliseconds)]
        self._nft.commit(messages)
        self._generation += bool(messages)

    def _tidy(self) -> None:
        """Forget what was dropped at interfaces that are nobody's any more."""
        wired = set(self.desired.claims.values())
        stale = [key for key in self._nft.tallies(names.TABLE, names.DROPS)
                 if _interface(key) not in wired]
        messages = list(m.delete_elements(names.TABLE, names.DROPS, stale))
        self._nft.commit(messages)
        self._generation += bool(messages)
        self._untidy = False

    def _write(self, changed: Iterable[Owner]) -> None:
        # Where the table was not as we knew it, anything may have been allowed.
        owners = frozenset(changed) if self.known else None
        try:
            if not (self.known and self._changed(changed)):
                self._anew()
        except MuslinError as error:
            self.known, self.refusal = False, f"the kernel refuses the table, and keeps the one it has: {error}"
            log.error("%s", self.refusal)  # noqa: TRY400  a traceback would say less
        else:
            self.known, self.refusal = True, ""
            self.change = Change(self.kernel, self.desired, owners)
            self.kernel = self.desired
            metrics.REVISION.set(self.kernel.program.revision)
            metrics.ENDPOINTS.set(len(self.kernel.stages))

    def _changed(self, owners: Iterable[Owner]) -> bool:
        """Commit the difference; False if the kernel refused it."""
        old, new = self.kernel.parts, self.desired.parts
        return self._tried("change", table.transition((old[o] for o in owners if o in old),
                                                      (new[o] for o in owners if o in new)))

    def _anew(self) -> None:
        """Repair the table, or replace it."""
        parts = self.desired.parts.values()
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


def _interface(key: bytes) -> str:
    """Of a key of the set of drops."""
    return key[:x.INTERFACE.length].rstrip(b"\0").decode(errors="replace")
