"""Refusals of an ADD that are the pod's doing, or its user's to know: what they are called in Events."""

from __future__ import annotations

from muslin.errors import AlreadyExists, Exhausted, FailedPrecondition, InvalidArgument, MuslinError, Unsupported

__all__ = ["EXHAUSTED", "REFUSED", "reason"]

REFUSED = "NetworkRefused"
"""What the pod asks for can not be: an annotation is wrong, an address is another's."""
EXHAUSTED = "NoAddressLeft"
"""It asks for nothing special, and there is nothing to give."""


def reason(problem: MuslinError) -> str:
    """What a refusal is called; empty if it is nobody's to mend by the pod: services that are away, damage, races."""
    if isinstance(problem, Exhausted):
        return EXHAUSTED
    return REFUSED if isinstance(problem, InvalidArgument | Unsupported | AlreadyExists | FailedPrecondition) else ""
