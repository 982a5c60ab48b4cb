"""Names of what is in the kernel, one place for all.

Ids of policies and groups have any length and any character; the kernel's names have not. So a name is a kind and a
hash of the id, the same on every node and after every restart; the id itself stands in a comment beside it.
"""

from __future__ import annotations

import hashlib
from enum import Enum

TABLE = "muslin"
"""The one table, family inet."""

FORWARD_EGRESS, FORWARD_INGRESS, INPUT = "forward-egress", "forward-ingress", "input"
"""Chains that packets enter: routed ones twice, for the sender's policy and then the receiver's; and to the host."""

FROM_POD, TO_POD = "from_pod", "to_pod"
"""Maps from interface name to the chain that decides."""

SOURCES_4, SOURCES_6 = "sources4", "sources6"
"""(interface, address): what each endpoint may send from."""

WATCHED, DROPS = "watched", "drops"
"""Interfaces whose drops are reported; and what was dropped, by interface and cause."""

FROM_GUARD, TO_GUARD = "from-pod-guard", "to-pod-guard"
"""Chains that drop what no policy may let through."""


class Direction(Enum):
    """As seen from the endpoint."""

    INGRESS = "ingress"
    EGRESS = "egress"


class Reason(Enum):
    """Why a packet is dropped that no policy may let through."""

    PENDING = "no policy yet"
    INVALID = "of no connection, and no beginning of one"
    SOURCE = "not its own address"
    LOOPBACK = "the host's loopback"


def digest(*parts: object) -> str:
    """16 hex digits that stand for the parts."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def policy_chain(policy: str, direction: Direction) -> str:
    """Chain with a policy's rules of one direction."""
    return f"policy-{direction.value}-{digest(policy)}"


def drop_chain(policy: str, direction: Direction) -> str:
    """Chain that drops for a policy."""
    return f"drop-{direction.value}-{digest(policy)}"


def reason_chain(direction: Direction, reason: Reason) -> str:
    """Chain that drops what no policy may let through."""
    return f"drop-{direction.value}-{reason.name.lower()}"


def policy_cause(policy: str, direction: Direction) -> bytes:
    """Eight bytes that stand for a policy that drops."""
    return bytes.fromhex(digest("policy", policy, direction.value))


def stage_cause(stage: str) -> bytes:
    """The same for the end of a stage, named by its chain."""
    return bytes.fromhex(digest("stage", stage))


def reason_cause(direction: Direction, reason: Reason) -> bytes:
    """The same for a reason."""
    return bytes.fromhex(digest("reason", direction.value, reason.name))


def variant_chain(policy: str, stage: str) -> str:
    """The same for a policy with Pass rules, which lead on from one stage."""
    return f"passing-{digest(policy)}-{stage.rpartition('-')[2]}"


def stage_chain(direction: Direction, tiers: tuple[tuple[str, ...], ...], profiles: tuple[str, ...]) -> str:
    """Chain that evaluates a tier, or the profiles when no tier is left; shared by all endpoints it is the same for."""
    return f"{direction.value}-{digest(direction.value, tiers, profiles)}"


def group_set(group: str, kind: str, family: int) -> str:
    """Set with a group's members of one address family."""
    return f"{kind.lower()}{family}-{digest(group)}"
