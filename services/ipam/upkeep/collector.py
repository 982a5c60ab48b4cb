"""Deciding what is garbage: what is seen goes in, what to free comes out. No I/O, no clock: time is a value.

A handle is garbage when no source claims its attachment. That alone proves little: an ADD under way has its address
before it has its endpoint record. So a handle must

- be older than the grace period, by its own time or by how long it has been watched, for clocks differ; or its node
  is gone;
- be seen unclaimed and unchanged twice, with more time between than an ADD can take, by this process' own clock;
- be unclaimed still when it is read anew, together with the claims, at the moment it is freed;
- hold only addresses that nobody else claims either: all of them are freed, or none.

Blocks without an address in use are garbage when seen so twice, but for a node's last; of a node that is gone, or
drained, or has not been in the inventory for the grace period, that too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from services.ipam.handles import Address
from services.ipam.upkeep.claims import Claim

ADD_LIMIT = 150.0
"""Seconds after which no ADD is under way any more: container runtimes give up after about 120."""
GRACE = 900.0
"""Seconds from a handle's creation during which it is left alone, if nobody says otherwise."""


@dataclass(frozen=True)
class Rules:
    """What is configured."""

    grace: float = GRACE
    """Seconds from a handle's creation during which it is left alone."""
    interval: float = 60.0
    """Seconds between two observations, at least."""


@dataclass(frozen=True)
class Now:
    """A moment."""

    wall_ms: int
    """Unix milliseconds: other processes' clocks may be far from this."""
    monotonic: float
    """Seconds of this process' own clock, which never jumps."""


@dataclass(frozen=True)
class Suspect:
    """A handle whose attachment no source claims."""

    identity: str
    revision: int
    """Of its record: any change of it makes it another suspect."""
    node: str
    held: tuple[Address, ...]
    created_ms: int
    kept_until_ms: int = 0
    """Not 0: its attachment is gone in good order, and the addresses are kept until then for the pod's return."""
    sticky: int = 0
    """Seconds for which they are kept."""


@dataclass(frozen=True)
class Empty:
    """A block in which no address is held."""

    cidr: str
    revision: int
    node: str
    """Whose affinity it has; empty if nobody's."""
    cool_down: float = 0.0
    """Seconds that addresses of it may have to wait before they are given again: the block keeps account of it."""


@dataclass(frozen=True)
class Finding:
    """Something that nobody claims."""

    subject: Suspect | Empty
    reason: str
    since_ms: int
    """Unix milliseconds at which it was first seen so."""
    due: bool
    """Whether it may be freed, if it is still so when it is read anew."""


@dataclass(frozen=True)
class _Seen:
    revision: int
    at: Now
    """When it was first seen as it is."""


class Collector:
    """Remembers what was seen, and for how long."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._seen: dict[str, _Seen] = {}
        self._nodes: set[str] = set()
        self._missing: dict[str, float] = {}

    def claimed(self, identity: str) -> None:
        """A source has told of an attachment: whatever was seen of its handle counts no more."""
        self._seen.pop(identity, None)

    def deleted(self, wanted: Iterable[str], existing: Collection[str]) -> frozenset[str]:
        """Which of some nodes are gone: they were in the inventory once, and are there no more.

        A node that never was in the inventory is not gone: nobody may have told about it.
        """
        gone = {node for node in wanted if node in self._nodes and node not in existing}
        self._nodes.update(existing)
        return frozenset(gone)

    def missing(self, nodes: Collection[str], now: Now) -> frozenset[str]:
        """Which of some nodes have been among them for the grace period."""
        self._missing = {node: self._missing.get(node, now.monotonic) for node in nodes}
        return frozenset(node for node, since in self._missing.items() if now.monotonic - since >= self.rules.grace)

    def look(self, suspects: Iterable[Suspect], empty: Iterable[Empty], gone: Collection[str], now: Now,
             ) -> list[Finding]:
        """What is to be found in a complete picture; what is not in it any more is forgotten."""
        before, self._seen = self._seen, {}
        findings = []
        subjects: tuple[Suspect | Empty, ...] = (*suspects, *empty)
        for subject in subjects:
            name = subject.identity if isinstance(subject, Suspect) else subject.cidr
            seen = before.get(name)
            if seen is None or seen.revision != subject.revision:
                seen = _Seen(subject.revision, now)
            self._seen[name] = seen
            finding = (self._handle(subject, subject.node in gone, seen, now) if isinstance(subject, Suspect)
                       else self._block(subject, subject.node in gone, seen, now))
            if finding:
                findings.append(finding)
        return findings

    def _handle(self, suspect: Suspect, gone: bool, seen: _Seen, now: Now) -> Finding | None:
        watched, wait = now.monotonic - seen.at.monotonic, min(self.rules.grace, ADD_LIMIT)
        if suspect.kept_until_ms:
            if now.wall_ms < suspect.kept_until_ms and watched < suspect.sticky:
                return None  # a clock that was wrong when it was written must not keep it forever
            reason, wait, ripe = "kept for the return of its pod, which did not come in time", 0.0, True
        elif gone:
            reason, ripe = f"no attachment claims it, and its node {suspect.node} is gone", True
        else:
            reason = "no attachment claims it"
            ripe = (now.wall_ms - suspect.created_ms) / 1000 >= self.rules.grace or watched >= self.rules.grace
        if not suspect.held:
            reason += "; it holds no address"
        if not ripe:
            reason += f"; younger than the grace period of {self.rules.grace:.0f} s"
        return Finding(suspect, reason, seen.at.wall_ms, ripe and watched >= max(self.rules.interval, wait))

    def _block(self, block: Empty, gone: bool, seen: _Seen, now: Now) -> Finding:
        reason = "no address of it is in use"
        if gone or not block.node:
            reason += f", and its node {block.node} is gone" if block.node else ", and it is nobody's"
        watched = now.monotonic - seen.at.monotonic
        return Finding(block, reason, seen.at.wall_ms, watched >= max(self.rules.interval, block.cool_down))


def claims_against(suspect: Suspect, claims: Mapping[str, Claim], users: Mapping[str, Collection[str]]) -> str:
    """Why a handle must not be freed: who claims it, or one of its addresses; empty if nobody does.

    `users` are the identities that claim an address.
    """
    if claim := claims.get(suspect.identity):
        return f"{claim.identity} is alive on node {claim.node}"
    for held in suspect.held:
        if others := users.get(held.address):
            return f"{held.address} is used by {', '.join(sorted(others))}"
    return ""


def users(claims: Iterable[Claim]) -> dict[str, set[str]]:
    """The identities that claim each address."""
    found: dict[str, set[str]] = {}
    for claim in claims:
        for address in claim.addresses:
            found.setdefault(address, set()).add(claim.identity)
    return found


def spare(blocks: Iterable[tuple[Empty | None, str, int]], gone: Collection[str]) -> Iterator[Empty]:
    """The empty blocks that may go: a node keeps one block of each family, unless it is `gone`, or to keep none.

    Each item is a block if it is empty, else None; its node; its family.
    """
    left: dict[tuple[str, int], int] = {}
    candidates: list[tuple[Empty, int]] = []
    for block, node, family in blocks:
        left[node, family] = left.get((node, family), 0) + 1
        if block:
            candidates.append((block, family))
    for block, family in sorted(candidates, key=lambda item: item[0].cidr, reverse=True):
        key = block.node, family
        if not block.node or block.node in gone or left[key] > 1:
            left[key] -= 1
            yield block
