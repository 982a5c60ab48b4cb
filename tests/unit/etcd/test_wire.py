"""Between our values and etcd's messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muslin.errors import InvalidArgument
from muslin.etcd import Delete, Event, Get, KeyValue, Kind, Put, TxnResult, absent, unchanged, wire
from muslin.etcd.stubs import kv_pb2
from muslin.etcd.stubs import rpc_pb2 as pb

RAW = st.binary(min_size=1, max_size=6) | st.lists(st.sampled_from([b"a", b"\xfe", b"\xff", b"\0"]), min_size=1,
                                                   max_size=4).map(b"".join)


@given(RAW)
def test_every_key_of_the_store_has_one_text_and_goes_back_unchanged(raw: bytes) -> None:
    assert wire.encode(wire.decode(raw)) == raw


@given(st.binary(max_size=4) | RAW, RAW)
def test_a_prefix_range_holds_exactly_the_keys_with_the_prefix(prefix: bytes, key: bytes) -> None:
    """Also where the prefix ends in 0xff, which has no next byte, and for prefixes near each other."""
    first, end = wire.prefix_range(wire.decode(prefix))
    for candidate in (key, prefix + key, prefix, first, end):
        if candidate:
            inside = candidate >= first and (end == b"\0" or candidate < end)
            assert inside == candidate.startswith(prefix), (candidate, first, end)


@pytest.mark.parametrize(("prefix", "expected"), [
    (b"/a/", (b"/a/", b"/a0")),
    (b"a\xff", (b"a\xff", b"b")),
    (b"a\xff\xff", (b"a\xff\xff", b"b")),
    (b"\xff\xff", (b"\xff\xff", b"\0")),
    (b"", (b"\0", b"\0")),
])
def test_prefix_ranges_by_example(prefix: bytes, expected: tuple[bytes, bytes]) -> None:
    assert wire.prefix_range(wire.decode(prefix)) == expected


def test_an_empty_key_is_refused() -> None:
    """The store would answer, but to a different question."""
    with pytest.raises(InvalidArgument):
        wire.encode("")


def test_a_transaction_in_etcds_words() -> None:
    request = wire.txn_request([absent("a"), unchanged("b", 7)], [Put("a", b"1", lease=3), Delete("b")], [Get("c")])
    expected = pb.TxnRequest(
        compare=[pb.Compare(key=b"a", target=pb.Compare.MOD, result=pb.Compare.EQUAL, mod_revision=0),
                 pb.Compare(key=b"b", target=pb.Compare.MOD, result=pb.Compare.EQUAL, mod_revision=7)],
        success=[pb.RequestOp(request_put=pb.PutRequest(key=b"a", value=b"1", lease=3)),
                 pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=b"b"))],
        failure=[pb.RequestOp(request_range=pb.RangeRequest(key=b"c"))])
    assert request == expected


def test_the_outcome_has_one_entry_for_each_operation() -> None:
    found = kv_pb2.KeyValue(key=b"c", value=b"v", create_revision=2, mod_revision=5, lease=9)
    response = pb.TxnResponse(header=pb.ResponseHeader(revision=8), succeeded=True, responses=[
        pb.ResponseOp(response_put=pb.PutResponse()),
        pb.ResponseOp(response_range=pb.RangeResponse(kvs=[found], count=1)),
        pb.ResponseOp(response_range=pb.RangeResponse()),
        pb.ResponseOp(response_delete_range=pb.DeleteRangeResponse(deleted=1))])
    assert wire.txn_result(response) == TxnResult(True, 8, (None, KeyValue("c", b"v", 2, 5, 9), None, None))


def test_events() -> None:
    put = kv_pb2.Event(type=kv_pb2.Event.PUT, kv=kv_pb2.KeyValue(key=b"a", value=b"v", create_revision=2,
                                                                 mod_revision=5, lease=9))
    delete = kv_pb2.Event(type=kv_pb2.Event.DELETE, kv=kv_pb2.KeyValue(key=b"a", mod_revision=6))
    assert wire.event(put) == Event(Kind.PUT, "a", b"v", 5, 2, 9)
    assert wire.event(delete) == Event(Kind.DELETE, "a", b"", 6)
