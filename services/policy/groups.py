"""The groups in use and their live members.

Of a group that is in use only the difference is worked out when endpoints change: what each endpoint took out and
brought in. A member can be there twice, where the record of a container that is gone still has an address that another
has got; so members are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from services.policy.compile import GroupSpec
from services.policy.members import Members
from services.policy.model import Endpoint
from services.policy.program import Group


class _Live:
    """A group, how often it is used, and which members it has more than once."""

    __slots__ = ("group", "more", "pending", "spec", "users")

    def __init__(self, spec: GroupSpec, endpoints: Iterable[Endpoint]) -> None:
        self.spec, self.users = spec, 0
        counts = Counter(member for endpoint in endpoints for member in spec.members(endpoint))
        self.group = Group(spec.id, spec.kind, Members(counts), spec.described)
        self.more = {member: count - 1 for member, count in counts.items() if count > 1}
        self.pending: Counter[str] = Counter()

    def settle(self) -> bool:
        """Take in what is pending; whether that changed anything."""
        added, removed = [], []
        for member, by in self.pending.items():
            before = (member in self.group.members) + self.more.pop(member, 0)
            after = before + by
            if after > 1:
                self.more[member] = after - 1
            if before == 0 < after:
                added.append(member)
            elif after == 0 < before:
                removed.append(member)
        self.pending.clear()
        if added or removed:
            self.group = replace(self.group, members=self.group.members.changed(added, removed))
        return bool(added or removed)


class Groups:
    """Groups by id."""

    def __init__(self) -> None:
        self._live: dict[str, _Live] = {}
        self._of: dict[str, dict[str, _Live]] = {}  # selector text -> id -> group
        self._pending: set[str] = set()

    def __len__(self) -> int:
        return len(self._live)

    def __getitem__(self, group_id: str) -> Group:
        return self._live[group_id].group

    def use(self, spec: GroupSpec, selected: Iterable[Endpoint]) -> None:
        """Begin to use a group, or count one more user. `selected` is read for a new one only."""
        live = self._live.get(spec.id)
        if live is None:
            live = self._live[spec.id] = self._of.setdefault(spec.text, {})[spec.id] = _Live(spec, selected)
        live.users += 1

    def drop(self, spec: GroupSpec) -> None:
        """Count one user less; without any, forget the group."""
        live = self._live[spec.id]
        live.users -= 1
        if not live.users:
            del self._live[spec.id], self._of[spec.text][spec.id]
            if not self._of[spec.text]:
                del self._of[spec.text]

    def move(self, text: str, old: Endpoint | None, new: Endpoint | None) -> None:
        """Note that a selector selected an endpoint as it was, and selects it as it is; None where it does not."""
        for group_id, live in self._of.get(text, {}).items():
            before = live.spec.members(old) if old else set()
            after = live.spec.members(new) if new else set()
            if before != after:
                live.pending.update(after - before)
                live.pending.subtract(before - after)
                self._pending.add(group_id)

    def settle(self) -> list[str]:
        """Take in what was noted. Returns the groups that have changed."""
        pending, self._pending = self._pending, set()
        return [group_id for group_id in pending if self._live[group_id].settle()]
