"""Messages to nodes as bytes, put together of parts that are made once.

When a replica starts, all nodes want their programs at once, and most of what is in them is in many: a policy of an
application is on every node that runs it. And a change that concerns all nodes is one change. So the bytes of policies,
groups and changes of groups are kept. (Protocol buffers allow it: bytes of two messages, one after the other, are those
of one message with the lists of both.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from muslin.api.policy.v1 import policy_pb2
from services.policy import wire
from services.policy.program import CompiledPolicy, Group, GroupChange, Update

__all__ = ["Encoder", "Outgoing"]

KEPT = 100_000
"""Parts that are kept; then one begins anew."""

Part = TypeVar("Part", CompiledPolicy, Group, GroupChange)
Kept = dict[str, tuple[Part, bytes]]


class Outgoing:
    """A message that is held only until it is sent.

    grpcio and what is around a handler keep the last message that it gave until it gives another: for a thousand nodes
    to which nothing happens that would be a gigabyte.
    """

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def take(self) -> bytes:
        """The message; once."""
        raw, self._raw = self._raw, b""
        return raw


class Encoder:
    """Makes messages of updates. A part is the same as long as it is the same object."""

    def __init__(self) -> None:
        self._policies: Kept[CompiledPolicy] = {}
        self._groups: Kept[Group] = {}
        self._changes: Kept[GroupChange] = {}

    def response(self, update: Update, revision: int, *, snapshot: bool, resume: str) -> bytes:
        """The SubscribeResponse of an update."""
        return b"".join([
            _rest(update, revision, snapshot=snapshot, resume=resume).SerializeToString(),
            *(_bytes(self._groups, group, _group) for group in update.groups),
            *(_bytes(self._changes, change, _change) for change in update.group_changes),
            *(_bytes(self._policies, policy, _policy) for policy in update.policies)])


def _rest(update: Update, revision: int, *, snapshot: bool, resume: str) -> policy_pb2.SubscribeResponse:
    """The message without what is shared."""
    if not (update.endpoints or update.removed_endpoints or update.removed_policies or update.removed_groups):
        return policy_pb2.SubscribeResponse(revision=revision, snapshot=snapshot, resume=resume)
    rest = replace(update, groups=(), group_changes=(), policies=())
    return wire.subscribe_response(rest, revision, snapshot=snapshot, resume=resume)


def _bytes(kept: Kept[Part], part: Part, alone: Callable[[Part], Update]) -> bytes:
    known = kept.get(part.id)
    if known is not None and known[0] is part:
        return known[1]
    if len(kept) >= KEPT:
        kept.clear()
    made = wire.subscribe_response(alone(part), 0, snapshot=False, resume="").SerializeToString()
    kept[part.id] = part, made
    return made


def _change(change: GroupChange) -> Update:
    return Update(group_changes=(change,))


def _group(group: Group) -> Update:
    return Update(groups=(group,))


def _policy(policy: CompiledPolicy) -> Update:
    return Update(policies=(policy,))
