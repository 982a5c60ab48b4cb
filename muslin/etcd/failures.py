"""From what gRPC and python-etcd3 raise to the project's errors, with a message that names the member and the fix.

etcd says most things by status code. Where one code means several things, its text decides (etcd,
api/v3rpc/rpctypes/error.go); the texts are part of its API, clients in other languages compare them too.
"""

from __future__ import annotations

import grpc
import grpc.aio

from muslin.errors import (
    BY_STATUS,
    FailedPrecondition,
    InvalidArgument,
    MuslinError,
    TimedOut,
    Unavailable,
    Unknown,
)

__all__ = ["translate", "refused", "full", "UNKNOWN"]

UNKNOWN = "; whether it was done is unknown"
"""Ends the message of a failed call that may have been carried out."""

_NO_LEADER = "etcdserver: no leader"
_NO_SPACE = "etcdserver: mvcc: database space exceeded"
_TOO_MANY = "etcdserver: too many requests"
_TOO_LARGE = "received message larger than max"  # gRPC's own words, before etcd gets to say its


def _status(error: BaseException) -> tuple[grpc.StatusCode, str] | None:
    # python-etcd3 raises its own exceptions, empty, while handling gRPC's: the status is in the context.
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, grpc.RpcError):
            code, details = seen.code(), seen.details()
            return code, details or ""
        seen = seen.__cause__ or seen.__context__
    return None


def refused(error: BaseException) -> bool:
    """Whether etcd certainly did nothing: a member without a leader turns a request away before reading it."""
    status = _status(error)
    return status is not None and status[1] == _NO_LEADER


def full(error: BaseException) -> bool:
    """Whether etcd says that it has no space left; it may have done what was asked all the same (muslin.etcd.full)."""
    status = _status(error)
    return status is not None and status[1] == _NO_SPACE


def translate(error: BaseException, what: str, endpoint: str, *, timeout: float, idempotent: bool) -> MuslinError:
    """The project's error for a failed call.

    `what` names the call ("txn /muslin/..."), `timeout` is in seconds. For a call that is not idempotent the message
    says that it may or may not have been done where that is so.
    """
    status = _status(error)
    if status is None:
        return Unknown(f"etcd at {endpoint}: {what}: {type(error).__name__}: {error}")
    code, details = status
    unknown = "" if idempotent or refused(error) else UNKNOWN
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return TimedOut(f"etcd at {endpoint} did not answer {what} within {timeout:.3g} s{unknown}")
    if code is grpc.StatusCode.UNAVAILABLE:
        return Unavailable(f"etcd at {endpoint}: {what}: {details}{unknown}")
    if details == _NO_SPACE:
        return FailedPrecondition(f"etcd at {endpoint} is full: {what}: {details}; compact and defragment it, "
                                  f"then disarm the alarm (etcdctl alarm disarm){unknown}")
    if details == _TOO_MANY:
        return Unavailable(f"etcd at {endpoint}: {what}: {details}")
    if _TOO_LARGE in details:
        return InvalidArgument(f"etcd at {endpoint}: {what}: the request is too large: {details}")
    return BY_STATUS.get(code, Unknown)(f"etcd at {endpoint}: {what}: {details or code.name}")
