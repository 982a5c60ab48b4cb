"""Deciding: from a view and the requests that wait, what to write and what to answer. No I/O.

Requests are decided together and committed in one transaction: each gets its own answer, and the price of a commit is
shared. Each is decided by itself first, all of it or nothing (`step.Step`); what cannot be answered in this
transaction stays for the next one.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from muslin.errors import FailedPrecondition, MuslinError, Unknown
from muslin.etcd import keys
from services.ipam import releasing, store
from services.ipam.assigning import assign
from services.ipam.blocks import Block
from services.ipam.handles import Request
from services.ipam.outcomes import Freed, Granted, Outcome, Release, ReleaseExact, Short
from services.ipam.step import Step, Wait
from services.ipam.view import View

__all__ = ["Asked", "Plan", "plan"]

log = logging.getLogger(__name__)

Asked = Request | Release | ReleaseExact

_SLOTS = 6_000
"""Addresses held in the blocks of one transaction, at most: it must stay well below etcd's 1.5 MiB."""
_EXPIRED = 4
"""Kept handles that are freed for one request that finds no address."""


@dataclass(frozen=True)
class Plan:
    """One transaction and what it answers."""

    outcomes: list[Outcome | None] = field(default_factory=list)
    """One for each request, in order; None: not in this transaction. Granted and Freed hold once it is committed."""
    expect: dict[str, int] = field(default_factory=dict)
    """Keys that must still be at a revision (0: absent) for the decisions to hold."""
    writes: dict[str, bytes | None] = field(default_factory=dict)
    """New values; None deletes."""
    changed: dict[str, Block] = field(default_factory=dict)
    """The blocks it writes, by CIDR."""
    pools: dict[str, set[str]] = field(default_factory=dict)
    """By identity the names of the pools that it is assigned from."""

    @property
    def blocks(self) -> set[str]:
        """CIDRs of the blocks it writes."""
        return set(self.changed)


def plan(view: View, requests: Sequence[Asked], busy: Collection[str] = ()) -> Plan:
    """Decide what can be decided.

    Blocks in `busy` are being written by another transaction of this process: what needs one of them waits.
    """
    view.index.ripen()
    draft = _Draft(view, busy)
    for request in requests:
        draft.decide(request)
    return draft.finish()


class _Draft:
    def __init__(self, view: View, busy: Collection[str]) -> None:
        self._view, self._busy = view, busy
        self._plan = Plan()
        self._slots = 0
        self._decided: set[str] = set()
        self._looked = False
        self._of_nodes: dict[str, dict[str, None]] = {}
        """By node the CIDRs of its blocks that the transaction changes."""

    def decide(self, request: Asked) -> None:
        """Add a request, or leave it for later."""
        outcome = None
        # A second request of the same attachment is decided when the outcome of the first is known.
        if request.identity not in self._decided and self._slots <= _SLOTS:
            outcome = self._attempt(request)
            if isinstance(outcome, Short) and self._free_expired():
                outcome = self._attempt(request)
            self._decided.add(request.identity)
        self._plan.outcomes.append(outcome)

    def finish(self) -> Plan:
        """The plan of all that was decided."""
        for cidr, block in self._plan.changed.items():
            self._plan.writes[keys.block(cidr)] = store.encode(block)
        return self._plan

    def _attempt(self, request: Asked) -> Outcome | None:
        step = self._step()
        try:
            outcome: Outcome
            if isinstance(request, Request):
                outcome = assign(step, request)
            elif isinstance(request, Release):
                outcome = releasing.release(step, request)
            else:
                outcome = releasing.release_exact(step, request)
        except Wait:
            return None
        except MuslinError as problem:
            return Short(problem)
        except Exception:  # a defect in deciding one request is not its neighbours' failure
            log.exception("deciding %s failed", request.identity)
            return Short(Unknown(f"{request.identity}: an internal error, which is in the log"))
        if not isinstance(outcome, Granted | Freed):
            return outcome
        records = max(len(step.expect), len(step.writes) + len(step.changed))
        if records > store.TRANSACTION_LIMIT:  # it would wait for a place for ever
            return Short(FailedPrecondition(
                f"{request.identity}: {records} records would have to be written together, and etcd writes "
                f"{store.TRANSACTION_LIMIT} at most; its record is damaged, see muslin ipam rebuild"))
        return outcome if self._join(step, request.identity) else None

    def _step(self) -> Step:
        return Step(self._view, self._plan.changed, self._busy, self._of_nodes)

    def _join(self, step: Step, identity: str) -> bool:
        """Make a step part of the transaction, if it still fits."""
        plan = self._plan
        new = [block for cidr, block in step.changed.items() if cidr not in plan.changed]
        # Blocks are written when the plan is finished, so they are counted apart from the other writes.
        writes = len(plan.writes) + len(plan.changed) + len(step.writes) + len(new)
        # Most of what steps rest on they have in common.
        expect = len(plan.expect.keys() | step.expect.keys()) if (
            len(plan.expect) + len(step.expect) > store.TRANSACTION_LIMIT) else 0
        if expect > store.TRANSACTION_LIMIT or writes > store.TRANSACTION_LIMIT:
            return False
        for block in new:
            self._slots += len(block.held)
        for cidr, block in step.changed.items():
            if (before := plan.changed.get(cidr)) is None or before.node != block.node:
                if before:
                    del self._of_nodes[before.node][cidr]
                self._of_nodes.setdefault(block.node, {})[cidr] = None
        plan.expect.update(step.expect)
        plan.writes.update(step.writes)
        plan.changed.update(step.changed)
        if step.pools:
            plan.pools[identity] = step.pools
        return True

    def _free_expired(self) -> bool:
        """Free some addresses that were kept for pods that did not return; whether there were any."""
        if self._looked:
            return False
        self._looked = True
        freed = 0
        for identity in self._view.kept.expired():
            if identity in self._decided:
                continue
            step = self._step()
            try:
                releasing.free(step, identity)
            except Wait:
                continue
            if self._join(step, identity):
                self._decided.add(identity)
                freed += 1
            if freed == _EXPIRED:
                break
        return freed > 0
