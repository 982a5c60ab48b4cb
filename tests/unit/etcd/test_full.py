"""What a full store has made of a transaction is read from the records, and not guessed."""

from __future__ import annotations

import pytest

from muslin.etcd import Delete, Get, KeyValue, Op, Put, absent, unchanged
from muslin.etcd.full import carried_out, written

COMPARE = [unchanged("block", 5), absent("handle"), unchanged("pool", 3)]
SUCCESS: list[Op] = [Put("block", b"new"), Put("handle", b"h"), Delete("old")]


def record(key: str, value: bytes, revision: int) -> KeyValue:
    return KeyValue(key, value, 1, revision)


@pytest.mark.parametrize(("block", "handle", "old", "verdict"), [
    (record("block", b"new", 9), record("handle", b"h", 9), None, 9),
    (record("block", b"was", 5), None, record("old", b"", 2), 0),
    (record("block", b"was", 5), None, None, 0),
    (record("block", b"another's", 8), record("handle", b"h", 7), None, None),
    (record("block", b"new", 8), record("handle", b"h", 9), None, None),
    (record("block", b"new", 9), record("handle", b"h", 9), record("old", b"", 2), None),
    (record("block", b"another's", 8), None, None, 0),
], ids=["as written", "as before", "as before but for a deletion", "changed since", "not in one transaction",
        "not deleted", "another was first"])
def test_the_records_tell(block: KeyValue | None, handle: KeyValue | None, old: KeyValue | None,
                          verdict: int | None) -> None:
    assert carried_out(COMPARE, SUCCESS, {"block": block, "handle": handle, "old": old}) == verdict


def test_the_same_value_as_before_is_told_by_its_revision() -> None:
    """A record that is rewritten unchanged, as a fence, looks as if it had been written before it was."""
    for revision, verdict in ((3, 0), (9, 9)):
        assert carried_out([unchanged("pool", 3)], [Put("pool", b"p")],
                           {"pool": record("pool", b"p", revision)}) == verdict


def test_only_what_is_written_is_read() -> None:
    assert written([*SUCCESS, Get("other")]) == ["block", "handle", "old"]
