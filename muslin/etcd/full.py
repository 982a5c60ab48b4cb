"""What became of a transaction that a full store answered with "no space".

etcd looks at its quota twice. Before a request is proposed it is turned away; but where the quota is found exceeded
when the request is carried out, it is carried out, answered with the same error, and only then the alarm is raised
after which nothing is written any more (etcd, server/etcdserver/apply: quotaApplierV3). So the answer does not tell,
and the records do: what was answered is over, and arrives no later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from muslin.etcd.values import Compare, Delete, KeyValue, Op, Put

__all__ = ["written", "carried_out"]


def written(success: Sequence[Op]) -> list[str]:
    """The keys by which `carried_out` decides."""
    return [op.key for op in success if isinstance(op, Put | Delete)]


def carried_out(compare: Sequence[Compare], success: Sequence[Op],
                records: Mapping[str, KeyValue | None]) -> int | None:
    """The revision at which a transaction was carried out, 0 if it was not, None if that can not be told any more.

    `records` are those of the keys that it writes, as they are now. It was carried out if they are what it makes of
    them, all at one revision that is none it was to replace; it was not if one that it was to replace is unchanged
    (or was made by it and is gone again, which comes to the same).
    """
    before = {item.key: item.mod_revision for item in compare}
    revisions: set[int] = set()
    as_written = True
    for op in success:
        if not isinstance(op, Put | Delete):
            continue
        record = records[op.key]
        revision = record.mod_revision if record else 0
        if op.key in before and revision == before[op.key] and (revision or isinstance(op, Put)):
            return 0
        if isinstance(op, Put):
            revisions.add(revision)
            as_written = as_written and record is not None and record.value == op.value and revision not in (
                before.get(op.key), 0)
        else:
            as_written = as_written and record is None
    return revisions.pop() if as_written and len(revisions) == 1 else None
