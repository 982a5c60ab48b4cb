"""Which connections a change of the program may forbid: by the addresses that take part in them. Pure.

It errs on the side of naming an address too many: each connection is judged before it is cut.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from services.node.attachment import Attachment
from services.node.enforce.parts import Owner, Part, Piece, Stage
from services.node.enforce.program import Action
from services.node.enforce.state import State

__all__ = ["Scope", "departed", "everything", "narrowed"]


@dataclass(frozen=True, slots=True)
class Scope:
    """Addresses, packed.

    Attributes:
        judged: connections of these may have become forbidden.
        gone: these have no owner here any more, or another: none of their connections stays.
    """

    judged: frozenset[bytes] = frozenset()
    gone: frozenset[bytes] = frozenset()

    def __or__(self, other: Scope) -> Scope:
        return Scope(self.judged | other.judged, self.gone | other.gone)

    def __bool__(self) -> bool:
        return bool(self.judged or self.gone)


def everything(old: State, new: State) -> Scope:
    """All endpoints: where nobody knows what was enforced between the two."""
    had, has = (frozenset(address for attachment in state.stages for address in _addresses(state, attachment))
                for state in (old, new))
    return Scope(has, had - has)


def narrowed(old: State, new: State, changed: Iterable[Owner]) -> Scope:
    """What a change concerns."""
    judged: set[bytes] = set()
    gone: set[bytes] = set()
    policies: set[str] = set()
    for piece, identity in changed:
        before, after = old.parts.get((piece, identity)), new.parts.get((piece, identity))
        if isinstance(identity, Attachment):
            # Of one that is new too: entries of an earlier owner, of whom this daemon knows nothing.
            gone |= _addresses(old, identity) - _addresses(new, identity)
            judged |= _addresses(new, identity)
        elif before is None:
            continue  # what is new is asked by what changed with it
        elif isinstance(identity, Stage):
            policies |= set(identity.policies) if after is not None else set()
        elif piece is Piece.POLICY:
            policies.add(identity)
        elif after is not None:
            had, has = _keys(before), _keys(after)
            judged |= {_address(key) for key in had - has}
            if (more := has - had) and _denies(new, identity):
                judged |= {_address(key) for key in more}
    if policies:
        judged |= {address for attachment, stages in new.stages.items()
                   if any(not policies.isdisjoint(stage.policies) for stage in stages)
                   for address in _addresses(new, attachment)}
    return Scope(frozenset(judged), frozenset(gone))


def departed(old: State, new: State, changed: Iterable[Owner] | None) -> frozenset[bytes]:
    """The addresses that somebody had before a change, and has not after it; `changed` is None if that is unknown."""
    attachments = (old.stages if changed is None
                   else [identity for _, identity in changed if isinstance(identity, Attachment)])
    return frozenset().union(*(_addresses(old, each) - _addresses(new, each) for each in attachments))


def _addresses(state: State, attachment: Attachment) -> frozenset[bytes]:
    endpoint = state.endpoint(attachment)
    return frozenset(address.packed for address in endpoint.addresses) if endpoint else frozenset()


def _keys(part: Part) -> frozenset[bytes]:
    return frozenset(key for each in part.sets.values() for key in each.keys)


def _address(key: bytes) -> bytes:
    """Of a member of either kind; see program.member."""
    return key if len(key) in (4, 16) else key[:-8]


def _denies(state: State, group: str) -> bool:
    """Whether members more can mean connections less."""
    return any(rule.action in (Action.DENY, Action.PASS) and group in (rule.peer_group, rule.port_group)
               for policy in state.program.policies.values() for rule in policy.ingress + policy.egress)
