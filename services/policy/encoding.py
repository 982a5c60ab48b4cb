"""Messages to nodes, of parts that are made once.

When a replica starts, all nodes want their programs at once, and most of what is in them is in many: a policy of an
application is on every node that runs it. So the bytes of policies and groups are kept, and a large message is put
together of them. (Protocol buffers allow it: bytes of two messages, one after the other, are those of one message with
the lists of both.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from muslin.api.policy.v1 import policy_pb2
from services.policy import wire
from services.policy.program import CompiledPolicy, Group, Update

__all__ = ["Encoder"]

KEPT = 100_000
"""Parts that are kept; then one begins anew."""
_SMALL = 8
"""Parts up to which a message is made directly."""

Part = TypeVar("Part", CompiledPolicy, Group)


class Encoder:
    """Makes messages of updates. A part is the same as long as it is the same object."""

    def __init__(self) -> None:
        self._policies: dict[str, tuple[CompiledPolicy, bytes]] = {}
        self._groups: dict[str, tuple[Group, bytes]] = {}

    def response(self, update: Update, revision: int, *, snapshot: bool, resume: str) -> policy_pb2.SubscribeResponse:
        """The message of an update."""
        if len(update.groups) + len(update.policies) <= _SMALL:
            return wire.subscribe_response(update, revision, snapshot=snapshot, resume=resume)
        rest = Update(group_changes=update.group_changes, endpoints=update.endpoints,
                      removed_groups=update.removed_groups, removed_policies=update.removed_policies,
                      removed_endpoints=update.removed_endpoints)
        parts = [wire.subscribe_response(rest, revision, snapshot=snapshot, resume=resume).SerializeToString()]
        parts += [_bytes(self._groups, group, _group) for group in update.groups]
        parts += [_bytes(self._policies, policy, _policy) for policy in update.policies]
        return policy_pb2.SubscribeResponse.FromString(b"".join(parts))


def _bytes(kept: dict[str, tuple[Part, bytes]], part: Part, alone: Callable[[Part], Update]) -> bytes:
    known = kept.get(part.id)
    if known is not None and known[0] is part:
        return known[1]
    if len(kept) >= KEPT:
        kept.clear()
    made = wire.subscribe_response(alone(part), 0, snapshot=False, resume="").SerializeToString()
    kept[part.id] = part, made
    return made


def _group(group: Group) -> Update:
    return Update(groups=(group,))


def _policy(policy: CompiledPolicy) -> Update:
    return Update(policies=(policy,))
