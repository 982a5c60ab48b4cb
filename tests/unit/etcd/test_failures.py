"""What etcd, gRPC and python-etcd3 raise arrives as an error of the project's tree."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest

from muslin.errors import (
    BY_STATUS,
    Compacted,
    FailedPrecondition,
    InvalidArgument,
    MuslinError,
    TimedOut,
    Unavailable,
    Unknown,
)
from muslin.etcd.compat import etcd3
from muslin.etcd.failures import refused, translate


def rpc_error(code: grpc.StatusCode, details: str = "said so") -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


def translated(error: BaseException, *, idempotent: bool = True) -> MuslinError:
    return translate(error, "txn /k", "etcd1:2379", timeout=1.5, idempotent=idempotent)


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_every_status_is_mapped_and_names_call_and_member(code: grpc.StatusCode) -> None:
    error = translated(rpc_error(code))
    assert type(error) is BY_STATUS[code]
    assert "txn /k" in error.message
    assert "etcd1:2379" in error.message


@pytest.mark.parametrize(("code", "details", "expected"), [
    (grpc.StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted", Compacted),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", FailedPrecondition),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "grpc: received message larger than max (3 vs. 2)", InvalidArgument),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests", Unavailable),
])
def test_where_one_status_means_several_things_the_text_decides(code: grpc.StatusCode, details: str,
                                                                expected: type[MuslinError]) -> None:
    assert type(translated(rpc_error(code, details))) is expected


@pytest.mark.parametrize(("code", "kind"), [(grpc.StatusCode.UNAVAILABLE, Unavailable),
                                            (grpc.StatusCode.DEADLINE_EXCEEDED, TimedOut)])
def test_an_unknown_outcome_is_called_unknown(code: grpc.StatusCode, kind: type[MuslinError]) -> None:
    write, read = translated(rpc_error(code), idempotent=False), translated(rpc_error(code), idempotent=True)
    assert (type(write), type(read)) == (kind, kind)
    assert "whether it was done is unknown" in write.message
    assert "unknown" not in read.message


def test_a_refusal_is_known_not_to_have_been_done() -> None:
    error = rpc_error(grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader")
    assert refused(error)
    assert "unknown" not in translated(error, idempotent=False).message
    assert not refused(rpc_error(grpc.StatusCode.UNAVAILABLE, "etcdserver: request timed out"))
    assert not refused(ValueError("no leader"))


def test_the_status_behind_python_etcd3s_empty_exceptions_is_found() -> None:
    def call() -> None:
        try:
            raise rpc_error(grpc.StatusCode.UNAVAILABLE, "connection refused")
        except grpc.RpcError:
            raise etcd3.exceptions.ConnectionFailedError  # noqa: B904 -- as python-etcd3 raises it

    with pytest.raises(etcd3.Etcd3Exception) as caught:
        call()
    error = translated(caught.value)
    assert type(error) is Unavailable
    assert "connection refused" in error.message


def test_what_has_no_status_says_what_it_is() -> None:
    error = translated(ValueError("odd"))
    assert type(error) is Unknown
    assert "ValueError: odd" in error.message
