"""What is to be enforced: the program, who is wired here, and the parts of the table that follow from both.

Pure: an event gives a new state and names the parts that changed. Only attachments wired on this node are rendered,
and each interface belongs to the one that claimed it last: a record that outlives its container rules nobody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from muslin.errors import NotFound
from services.node.attachment import Attachment
from services.node.enforce.parts import (
    Owner,
    Part,
    Piece,
    Stage,
    endpoint_part,
    endpoint_stages,
    group_part,
    policy_part,
    stage_part,
)
from services.node.enforce.program import Endpoint, Program, Update

__all__ = ["Event", "Claim", "Release", "State", "applied"]


@dataclass(frozen=True, slots=True)
class Claim:
    """An attachment is wired here with this host interface."""

    attachment: Attachment
    interface: str


@dataclass(frozen=True, slots=True)
class Release:
    """An attachment is no longer wired here."""

    attachment: Attachment


Event = Update | Claim | Release


@dataclass(frozen=True, slots=True)
class State:
    """A node's desired enforcement."""

    program: Program = field(default_factory=Program)
    claims: Mapping[Attachment, str] = field(default_factory=dict)
    parts: Mapping[Owner, Part] = field(default_factory=dict)
    stages: Mapping[Attachment, tuple[Stage, ...]] = field(default_factory=dict)
    """What each rendered endpoint needs."""
    users: Mapping[Stage, int] = field(default_factory=dict)
    """How many endpoints need each stage."""

    def endpoint(self, attachment: Attachment) -> Endpoint | None:
        """The endpoint, if it is rendered: it is in the program, and wired here under the program's interface."""
        endpoint = self.program.endpoints.get(attachment)
        if endpoint is None or self.claims.get(attachment) != endpoint.interface:
            return None
        return endpoint

    def of_workload(self, workload: str) -> list[Endpoint]:
        """The endpoints of a pod, `namespace/name`, that are rendered."""
        found = (self.endpoint(attachment) for attachment in self.stages)
        return [endpoint for endpoint in found if endpoint is not None and endpoint.workload == workload]

    def required(self, workload: str) -> list[Endpoint]:
        """The same of a pod that must be here.

        Raises:
            NotFound: no pod of that name is enforced here.
        """
        if found := self.of_workload(workload):
            return found
        raise NotFound(f"pod {workload!r} is not enforced on this node; it is named NAMESPACE/NAME")


def applied(state: State, event: Event) -> tuple[State, frozenset[Owner]]:
    """The state after an event, and the owners of the parts that changed.

    Raises:
        OutOfSync: an update that does not fit; the state is as before.
    """
    if isinstance(event, Update):
        program = state.program.updated(event)
        return _derived(state, program, state.claims, *_touched(state.program, program, event))
    claims = dict(state.claims)
    touched = {event.attachment}
    if isinstance(event, Claim):
        touched |= {other for other, interface in claims.items() if interface == event.interface}
        for other in touched:
            claims.pop(other, None)
        claims[event.attachment] = event.interface
    else:
        claims.pop(event.attachment, None)
    return _derived(state, state.program, claims, set(), set(), touched)


def _touched(old: Program, new: Program, update: Update) -> tuple[set[str], set[str], set[Attachment]]:
    if update.snapshot:
        return ({*old.groups, *new.groups}, {*old.policies, *new.policies}, {*old.endpoints, *new.endpoints})
    return ({g.id for g in update.groups} | {name for name, _, _ in update.members} | set(update.removed_groups),
            {p.id for p in update.policies} | set(update.removed_policies),
            {e.attachment for e in update.endpoints} | set(update.removed_endpoints))


def _derived(old: State, program: Program, claims: Mapping[Attachment, str], groups: set[str], policies: set[str],
             attachments: set[Attachment]) -> tuple[State, frozenset[Owner]]:
    """The state for a program and claims, of which only the named pieces may have changed."""
    fresh: dict[Owner, Part | None] = {}
    for name in groups:
        group = program.groups.get(name)
        fresh[Piece.GROUP, name] = group_part(group) if group else None
    # Rules look up a group's IPv6 set only if there is one.
    flipped = {name for name in groups if _sets(old.parts.get((Piece.GROUP, name))) != _sets(fresh[Piece.GROUP, name])}
    if flipped:
        policies = policies | {p.id for p in program.policies.values() if not flipped.isdisjoint(p.groups)}
    for name in policies:
        policy = program.policies.get(name)
        fresh[Piece.POLICY, name] = policy_part(policy, program.groups) if policy else None
    if policies:  # those with Pass rules decide which stages can be reached
        attachments = attachments | {a for a, needed in old.stages.items() if _asks(needed, policies)}
    stages, users = dict(old.stages), Counter(old.users)
    state = State(program, claims)
    for attachment in attachments:
        users.subtract(stages.pop(attachment, ()))
        endpoint = state.endpoint(attachment)
        fresh[Piece.ENDPOINT, attachment] = endpoint_part(endpoint) if endpoint else None
        if endpoint:
            stages[attachment] = tuple(endpoint_stages(endpoint, program.policies))
            users.update(stages[attachment])
    users = +users  # only those that are needed
    for stage in old.users.keys() - users.keys():
        fresh[Piece.STAGE, stage] = None
    for stage in users:
        if stage not in old.users or not policies.isdisjoint(stage.policies):
            fresh[Piece.STAGE, stage] = stage_part(stage, program.policies, program.groups)
    changed = frozenset(owner for owner, part in fresh.items() if part != old.parts.get(owner))
    parts = dict(old.parts)
    for owner in changed:
        part = fresh[owner]
        if part is None:
            del parts[owner]
        else:
            parts[owner] = part
    return State(program, claims, parts, stages, users), changed


def _asks(stages: Iterable[Stage], policies: set[str]) -> bool:
    return any(not policies.isdisjoint(stage.policies) for stage in stages)


def _sets(part: Part | None) -> frozenset[str]:
    return frozenset(part.sets) if part else frozenset()
