"""Programs: what a node has to enforce, as values; and the difference of two.

The shapes are those of `muslin.policy.v1`; `wire` converts. Members of groups are texts: an address (`10.0.0.1`), or
address, protocol and port of a named port (`10.0.0.1,6,8080`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from operator import itemgetter
from typing import TypeVar

from services.policy.members import Members
from services.policy.model import Action, Attachment, PortRange


class GroupKind(Enum):
    """What a group's members are."""

    ADDRESS = "address"
    PORT = "port"


@dataclass(frozen=True, slots=True)
class Group:
    """A live set that rules refer to."""

    id: str
    kind: GroupKind
    members: Members
    selector: str
    """What it stands for, for people."""


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """Matches when every part that is set matches."""

    action: Action
    path: str = ""
    protocol: int = 0
    """IP protocol number; 0 for any."""
    peer_group: str = ""
    """Id of the group that the peer's address is in."""
    nets: tuple[str, ...] = ()
    """CIDRs of one family, one of which holds the peer's address."""
    not_nets: tuple[str, ...] = ()
    ports: tuple[PortRange, ...] = ()
    """One of which holds the destination port."""
    port_group: str = ""
    """Id of the group that destination address, protocol and port are in."""


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """A policy or profile, shared by all endpoints that it applies to."""

    id: str
    name: str
    ingress: tuple[CompiledRule, ...]
    egress: tuple[CompiledRule, ...]
    origin: str = ""
    log_denied: bool = False
    """Whether what the end of its tier drops is logged under its name."""


@dataclass(frozen=True, slots=True)
class TierPolicies:
    """Ids of the policies of a tier that apply in one direction, in order. If none decides: drop."""

    tier: str
    policies: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CompiledEndpoint:
    """What applies to an endpoint."""

    attachment: Attachment
    interface: str
    addresses: tuple[str, ...]
    ingress: tuple[TierPolicies, ...]
    """Empty if no policy isolates it in this direction: then the profiles decide."""
    egress: tuple[TierPolicies, ...]
    profiles: tuple[str, ...]
    """Ids in order; one that is not in the program drops."""
    workload: str
    revision: int = field(default=0, compare=False)
    """Of its last change; stays here, since nodes do not need it."""


@dataclass(frozen=True, slots=True)
class Program:
    """All that one node needs: its endpoints, their policies and profiles, the groups in those."""

    groups: Mapping[str, Group] = field(default_factory=dict)
    policies: Mapping[str, CompiledPolicy] = field(default_factory=dict)
    endpoints: Mapping[Attachment, CompiledEndpoint] = field(default_factory=dict)


EMPTY = Program()
"""The program of a node without endpoints."""


@dataclass(frozen=True, slots=True)
class GroupChange:
    """Members to add to and remove from a group; both sorted."""

    id: str
    added: tuple[str, ...]
    removed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Update:
    """What leads from one program to another; everything is sorted by id."""

    groups: tuple[Group, ...] = ()
    group_changes: tuple[GroupChange, ...] = ()
    policies: tuple[CompiledPolicy, ...] = ()
    endpoints: tuple[CompiledEndpoint, ...] = ()
    removed_groups: tuple[str, ...] = ()
    removed_policies: tuple[str, ...] = ()
    removed_endpoints: tuple[Attachment, ...] = ()

    def __bool__(self) -> bool:
        return self != _NOTHING


_NOTHING = Update()


def diff(old: Program, new: Program) -> Update:
    """What leads from `old` to `new`. Falsy if they are equal.

    Values that did not change are the same objects in both more often than not, which makes this quick.
    """
    groups = _differing(old.groups, new.groups)
    changes = (group_change(old.groups[key], group) for key, group in groups if key in old.groups)
    return Update(
        groups=tuple(group for key, group in groups if key not in old.groups),
        group_changes=tuple(change for change in changes if change is not None),
        policies=tuple(policy for _, policy in _differing(old.policies, new.policies)),
        endpoints=tuple(endpoint for _, endpoint in _differing(old.endpoints, new.endpoints)),
        removed_groups=tuple(sorted(old.groups.keys() - new.groups.keys())),
        removed_policies=tuple(sorted(old.policies.keys() - new.policies.keys())),
        removed_endpoints=tuple(sorted(old.endpoints.keys() - new.endpoints.keys())),
    )


def group_change(old: Group, new: Group) -> GroupChange | None:
    """What leads from one version of a group to another; None if they are equal."""
    if old is new:
        return None
    added, removed = new.members.without(old.members), old.members.without(new.members)
    return GroupChange(new.id, tuple(added), tuple(removed)) if added or removed else None


Key = TypeVar("Key", str, Attachment)
Value = TypeVar("Value", Group, CompiledPolicy, CompiledEndpoint)


def _differing(old: Mapping[Key, Value], new: Mapping[Key, Value]) -> list[tuple[Key, Value]]:
    """What is new or not as it was, sorted."""
    if not old:
        return sorted(new.items(), key=itemgetter(0))
    return sorted(((key, value) for key, value in new.items()
                   if (before := old.get(key)) is not value and (before is None or before != value)),
                  key=itemgetter(0))


def apply(program: Program, update: Update) -> Program:
    """The program after an update. Raises KeyError if the update is not for this program."""
    groups, policies, endpoints = dict(program.groups), dict(program.policies), dict(program.endpoints)
    groups.update((group.id, group) for group in update.groups)
    for change in update.group_changes:
        group = groups[change.id]
        groups[change.id] = replace(group, members=group.members.changed(change.added, change.removed))
    policies.update((policy.id, policy) for policy in update.policies)
    endpoints.update((endpoint.attachment, endpoint) for endpoint in update.endpoints)
    for group_id in update.removed_groups:
        del groups[group_id]
    for policy_id in update.removed_policies:
        del policies[policy_id]
    for attachment in update.removed_endpoints:
        del endpoints[attachment]
    return Program(groups, policies, endpoints)
