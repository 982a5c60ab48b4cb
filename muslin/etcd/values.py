"""What goes into etcd and what comes out, as plain values.

Keys are `str`. etcd's are bytes: they are UTF-8 here, and a byte that is not (nothing of ours writes one) is kept as a
lone surrogate (PEP 383), so that every key of the store has exactly one `str` and goes back unchanged.

Revisions are etcd's: the store's revision grows by one with every transaction that changes something; a record carries
the revision at which it was made (`create_revision`) and last changed (`mod_revision`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = [
    "KeyValue", "Snapshot",
    "Put", "Delete", "Get", "Op", "Compare", "absent", "unchanged", "TxnResult",
    "Kind", "Event", "WatchBatch",
    "Status", "Member", "Alarm",
]


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A record as the store holds it."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All records under a prefix as they were at one revision, sorted by key (by its bytes)."""

    items: tuple[KeyValue, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class Put:
    """Write a value; `lease` ties the key to a lease's life, 0 to none."""

    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a key; it need not exist."""

    key: str


@dataclass(frozen=True, slots=True)
class Get:
    """Read a key; inside a transaction it sees the writes before it."""

    key: str


Op = Put | Delete | Get


@dataclass(frozen=True, slots=True)
class Compare:
    """Holds if the key was last changed at exactly `mod_revision`; 0 stands for a key that does not exist."""

    key: str
    mod_revision: int


def absent(key: str) -> Compare:
    """Holds if there is no such key."""
    return Compare(key, 0)


def unchanged(key: str, mod_revision: int) -> Compare:
    """Holds if the key is still as it was read: `mod_revision` of what `get` gave, or 0 if it gave None."""
    return Compare(key, mod_revision)


@dataclass(frozen=True, slots=True)
class TxnResult:
    """What became of a transaction.

    `succeeded` tells whether all comparisons held, hence which list of operations was done. `revision` is the store's
    after it: the one at which its writes, if any, took place. `responses` has one entry per operation done, in order:
    what a Get read (None if there was no such key), None for a Put or Delete.
    """

    succeeded: bool
    revision: int
    responses: tuple[KeyValue | None, ...]


class Kind(Enum):
    """What happened to a key."""

    PUT = "put"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Event:
    """One change of one key; a deletion has an empty value, and `mod_revision` is when it was deleted."""

    kind: Kind
    key: str
    value: bytes
    mod_revision: int
    create_revision: int = 0
    lease: int = 0


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """Changes in order of revision; those of one revision are never split between batches.

    Everything up to and with `revision` has been delivered once this batch has. No events means just that: time has
    passed, the store has reached `revision`, and nothing under the prefix changed.
    """

    revision: int
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """The member that answered: `db_size` in bytes, `leader` is the leader's name ("" if there is none)."""

    endpoint: str
    version: str
    db_size: int
    leader: str
    raft_term: int


@dataclass(frozen=True, slots=True)
class Member:
    """A member of the cluster; `name` is empty until it has started for the first time."""

    id: int
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm that a member has raised, such as NOSPACE: the cluster takes no writes while it lasts."""

    kind: str
    member_id: int
