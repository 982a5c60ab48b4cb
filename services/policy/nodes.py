"""The programs of the nodes, changed where they are touched.

What may be different is noted as events are taken in: an endpoint of a node, a policy, a group; for the last two it is
known which nodes use them. `settle` then looks at just that, and makes a program out of the one before: parts that
nothing touched are the same objects in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from services.policy.compile import Compiled
from services.policy.groups import Groups
from services.policy.model import Attachment
from services.policy.program import (
    EMPTY,
    CompiledEndpoint,
    CompiledPolicy,
    Group,
    GroupChange,
    Program,
    Update,
    group_change,
)

Link = Callable[[str, Attachment], CompiledEndpoint | None]
"""What applies to an endpoint of a node now; None if it is not there."""


@dataclass(slots=True)
class _Node:
    program: Program = EMPTY
    linked: dict[str, Compiled] = field(default_factory=dict)
    """What the program's policies and profiles were compiled as."""
    policy_users: dict[str, int] = field(default_factory=dict)
    """How many endpoints name a policy or profile, be it there or not."""
    group_users: dict[str, int] = field(default_factory=dict)
    """How many of `linked` refer to a group."""


@dataclass(slots=True)
class _Touched:
    endpoints: set[Attachment] = field(default_factory=set)
    policies: set[str] = field(default_factory=set)
    groups: set[str] = field(default_factory=set)


class Nodes:
    """Nodes by name. `compiled` and `groups` are live: what there is to link."""

    def __init__(self, compiled: Mapping[str, Compiled], groups: Groups) -> None:
        self.programs: dict[str, Program] = {}
        """Of the nodes that have endpoints."""
        self._compiled, self._groups = compiled, groups
        self._nodes: dict[str, _Node] = {}
        self._with_policy: dict[str, set[str]] = {}  # id -> nodes whose endpoints name it
        self._with_group: dict[str, set[str]] = {}
        self._touched: dict[str, _Touched] = {}
        self._changes: dict[str, tuple[Group, Group, GroupChange | None]] = {}

    def touch_endpoint(self, node: str, attachment: Attachment) -> None:
        """Note that an endpoint came to a node, left it, or that something else applies to it."""
        self._touch(node).endpoints.add(attachment)

    def touch_policy(self, key: str) -> None:
        """Note that a policy or profile is compiled differently, or not at all."""
        for node in self._with_policy.get(key, ()):
            self._touch(node).policies.add(key)

    def touch_group(self, group_id: str) -> None:
        """Note that a group has other members."""
        for node in self._with_group.get(group_id, ()):
            self._touch(node).groups.add(group_id)

    def _touch(self, node: str) -> _Touched:
        touched = self._touched.get(node)
        if touched is None:
            touched = self._touched[node] = _Touched()
        return touched

    def settle(self, link: Link) -> dict[str, Update]:
        """Make the programs of all nodes that were touched. Returns what changes on which."""
        touched, self._touched = self._touched, {}
        updates: dict[str, Update] = {}
        for name in sorted(touched):
            if update := self._settle(name, touched[name], link):
                updates[name] = update
        self._changes.clear()
        return updates

    def _settle(self, name: str, touched: _Touched, link: Link) -> Update:
        node = self._nodes.setdefault(name, _Node())
        old = node.program
        endpoints, endpoint_puts, endpoints_gone = self._endpoints(name, node, touched, link)
        policies, policy_puts, policies_gone = self._policies(name, node, touched)
        groups, new_groups, changes, groups_gone = self._settle_groups(name, node, touched.groups)
        if (endpoints, policies, groups) != (None, None, None):
            node.program = self.programs[name] = Program(
                old.groups if groups is None else groups,
                old.policies if policies is None else policies,
                old.endpoints if endpoints is None else endpoints)
        if not node.program.endpoints:
            del self._nodes[name]
            self.programs.pop(name, None)
        return Update(tuple(new_groups), tuple(changes), tuple(policy_puts), tuple(endpoint_puts), tuple(groups_gone),
                      tuple(policies_gone), tuple(endpoints_gone))

    def _endpoints(self, name: str, node: _Node, touched: _Touched, link: Link,
                   ) -> tuple[dict[Attachment, CompiledEndpoint] | None, list[CompiledEndpoint], list[Attachment]]:
        """The node's endpoints, None if they are as they were; those to send; those that are gone."""
        made: dict[Attachment, CompiledEndpoint] | None = None
        puts, gone = [], []
        for attachment in sorted(touched.endpoints):
            was, now = node.program.endpoints.get(attachment), link(name, attachment)
            if was == now and (was is None or now is None or was.revision == now.revision):
                continue
            if made is None:
                made = dict(node.program.endpoints)
            if now is None:
                del made[attachment]
                gone.append(attachment)
            else:
                made[attachment] = now
                if was != now:
                    puts.append(now)
            before, after = _named(was), _named(now)
            for key in after - before:
                if _count(node.policy_users, key, 1):
                    self._with_policy.setdefault(key, set()).add(name)
                    touched.policies.add(key)
            for key in before - after:
                if _count(node.policy_users, key, -1):
                    _discard(self._with_policy, key, name)
                    touched.policies.add(key)
        return made, puts, gone

    def _policies(self, name: str, node: _Node, touched: _Touched,
                  ) -> tuple[dict[str, CompiledPolicy] | None, list[CompiledPolicy], list[str]]:
        """The node's policies and profiles, None if they are as they were; those to send; those that are gone."""
        made: dict[str, CompiledPolicy] | None = None
        puts, gone = [], []
        for key in sorted(touched.policies):
            was, now = node.linked.get(key), self._compiled.get(key) if key in node.policy_users else None
            if was is now:
                continue
            if made is None:
                made = dict(node.program.policies)
            if now is None:
                del node.linked[key], made[key]
                gone.append(key)
            else:
                node.linked[key], made[key] = now, now.policy
                if was is None or was.policy != now.policy:
                    puts.append(now.policy)
            before, after = was.groups.keys() if was else set(), now.groups.keys() if now else set()
            for group_id in after - before:
                if _count(node.group_users, group_id, 1):
                    self._with_group.setdefault(group_id, set()).add(name)
                    touched.groups.add(group_id)
            for group_id in before - after:
                if _count(node.group_users, group_id, -1):
                    _discard(self._with_group, group_id, name)
                    touched.groups.add(group_id)
        return made, puts, gone

    def _settle_groups(self, name: str, node: _Node, touched: Iterable[str],
                       ) -> tuple[dict[str, Group] | None, list[Group], list[GroupChange], list[str]]:
        """The node's groups, None if they are as they were; new ones, changes of the others, those that are gone."""
        made: dict[str, Group] | None = None
        new, changes, gone = [], [], []
        for group_id in sorted(touched):
            was = node.program.groups.get(group_id)
            now = self._groups[group_id] if group_id in node.group_users else None
            if was is now:
                continue
            if made is None:
                made = dict(node.program.groups)
            if now is None:
                del made[group_id]
                gone.append(group_id)
                continue
            made[group_id] = now
            if was is None:
                new.append(now)
            elif change := self._change(was, now):
                changes.append(change)
        return made, new, changes, gone

    def _change(self, was: Group, now: Group) -> GroupChange | None:
        """The difference, worked out once for all nodes."""
        known = self._changes.get(now.id)
        if known is None or known[0] is not was or known[1] is not now:
            known = self._changes[now.id] = was, now, group_change(was, now)
        return known[2]


def _named(endpoint: CompiledEndpoint | None) -> set[str]:
    """The policies and profiles that apply to an endpoint."""
    if endpoint is None:
        return set()
    return {*endpoint.profiles, *(key for tier in (*endpoint.ingress, *endpoint.egress) for key in tier.policies)}


def _count(users: dict[str, int], key: str, by: int) -> bool:
    """Count one user more or less; whether it is the first or was the last."""
    number = users.get(key, 0) + by
    if number:
        users[key] = number
        return number == by
    del users[key]
    return True


def _discard(sets: dict[str, set[str]], key: str, value: str) -> None:
    sets[key].discard(value)
    if not sets[key]:
        del sets[key]
