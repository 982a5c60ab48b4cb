"""What is asked besides addresses, and what an answer may be."""

from __future__ import annotations

from dataclasses import dataclass

from muslin.errors import MuslinError
from services.ipam.handles import Address, Handle


@dataclass(frozen=True, slots=True)
class Release:
    """Free what the attachment holds, or keep it for its pod's return if it was asked for so."""

    identity: str
    fence: tuple[str, ...] = ()
    """Pools in which an assignment to this attachment was sent and never answered. Their records are rewritten, so
    that the lost transaction, should it still arrive, fails."""
    bound: str = ""
    """Only if the attachment is on this node; empty: wherever it is."""


@dataclass(frozen=True, slots=True)
class ReleaseExact:
    """Free these assignments if all of them are still the attachment's, whether they are kept or not."""

    identity: str
    held: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Granted:
    """The attachment holds this."""

    handle: Handle
    new: bool
    """Whether it is given now."""


@dataclass(frozen=True, slots=True)
class Freed:
    """The attachment held this, and nothing any more."""

    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Short:
    """As far as the view knows it is not possible."""

    problem: MuslinError

    @property
    def reason(self) -> str:
        """Why."""
        return self.problem.message


@dataclass(frozen=True, slots=True)
class Damaged:
    """The attachment's record does not decode; it can be released, not extended."""


Outcome = Granted | Freed | Short | Damaged
