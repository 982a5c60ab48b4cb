"""Between our values and etcd's messages: no I/O.

etcd's API is described in its documentation, "API reference" (etcdserverpb, mvccpb).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from muslin.errors import InvalidArgument
from muslin.etcd.stubs import kv_pb2
from muslin.etcd.stubs import rpc_pb2 as pb
from muslin.etcd.values import Compare, Delete, Event, Get, KeyValue, Kind, Op, Put, TxnResult

__all__ = ["encode", "decode", "prefix_range", "range_request", "put_request", "txn_request", "txn_result",
           "key_value", "event"]


def encode(key: str) -> bytes:
    """The bytes of a key. Raises InvalidArgument for an empty one, which etcd takes for something else."""
    if not key:
        raise InvalidArgument("an etcd key must not be empty")
    return key.encode("utf-8", "surrogateescape")


def decode(key: bytes) -> str:
    """The key that the bytes are."""
    return key.decode("utf-8", "surrogateescape")


def prefix_range(prefix: str) -> tuple[bytes, bytes]:
    """The half-open range [first, end) of keys that begin with a prefix; an empty prefix means all keys.

    The end is the prefix with its last byte that can grow made one larger. Bytes 0xff can not grow and are dropped; if
    nothing is left the range is open at the end, which etcd writes as a zero byte.
    """
    raw = prefix.encode("utf-8", "surrogateescape")
    stem = raw.rstrip(b"\xff")
    return raw or b"\0", stem[:-1] + bytes([stem[-1] + 1]) if stem else b"\0"


def range_request(first: bytes, end: bytes = b"", *, limit: int = 0, revision: int = 0) -> pb.RangeRequest:
    """A read of [first, end), or of one key; linearizable, as all reads here are."""
    return pb.RangeRequest(key=first, range_end=end, limit=limit, revision=revision)


def put_request(put: Put) -> pb.PutRequest:
    """A write."""
    return pb.PutRequest(key=encode(put.key), value=put.value, lease=put.lease)


def _compare(compare: Compare) -> pb.Compare:
    return pb.Compare(key=encode(compare.key), target=pb.Compare.MOD, result=pb.Compare.EQUAL,
                      mod_revision=compare.mod_revision)


def _operation(op: Op) -> pb.RequestOp:
    match op:
        case Put():
            return pb.RequestOp(request_put=put_request(op))
        case Delete(key):
            return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=encode(key)))
        case Get(key):
            return pb.RequestOp(request_range=range_request(encode(key)))


def txn_request(compare: Iterable[Compare], success: Iterable[Op], failure: Iterable[Op]) -> pb.TxnRequest:
    """A transaction."""
    return pb.TxnRequest(compare=[_compare(c) for c in compare], success=[_operation(op) for op in success],
                         failure=[_operation(op) for op in failure])


def txn_result(response: pb.TxnResponse) -> TxnResult:
    """What became of it."""
    return TxnResult(response.succeeded, response.header.revision, tuple(_read(r) for r in response.responses))


def _read(response: pb.ResponseOp) -> KeyValue | None:
    kvs: Sequence[kv_pb2.KeyValue] = response.response_range.kvs
    return key_value(kvs[0]) if kvs else None


def key_value(kv: kv_pb2.KeyValue) -> KeyValue:
    """A record."""
    return KeyValue(decode(kv.key), kv.value, kv.create_revision, kv.mod_revision, kv.lease)


def event(raw: kv_pb2.Event) -> Event:
    """A change."""
    kind = Kind.DELETE if raw.type == kv_pb2.Event.DELETE else Kind.PUT
    return Event(kind, decode(raw.kv.key), raw.kv.value, raw.kv.mod_revision, raw.kv.create_revision, raw.kv.lease)
