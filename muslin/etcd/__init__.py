"""The store: etcd behind one small asynchronous API.

Nothing outside this package imports python-etcd3 or etcd's stubs, and nothing outside `muslin.etcd.keys` writes a key.
"""

from __future__ import annotations

from muslin.etcd.admin import Lease
from muslin.etcd.client import Etcd
from muslin.etcd.members import Members
from muslin.etcd.values import (
    Alarm,
    Compare,
    Delete,
    Event,
    Get,
    KeyValue,
    Kind,
    Member,
    Op,
    Put,
    Snapshot,
    Status,
    TxnResult,
    WatchBatch,
    absent,
    unchanged,
)
from muslin.etcd.watch import Watch

__all__ = [
    "Etcd", "Lease", "Members", "Watch",
    "KeyValue", "Snapshot",
    "Put", "Delete", "Get", "Op", "Compare", "absent", "unchanged", "TxnResult",
    "Kind", "Event", "WatchBatch",
    "Status", "Member", "Alarm",
]
