"""The one tree of errors, and the one table from gRPC status to CNI error code.

::

    MuslinError                 gRPC status           CNI code
    |- InvalidArgument          INVALID_ARGUMENT        7  invalid network configuration
    |- Unsupported              UNIMPLEMENTED           2  unsupported field
    |- Corrupt                  DATA_LOSS               6  failed to decode
    |- NotFound                 NOT_FOUND               3  unknown container
    |- AlreadyExists            ALREADY_EXISTS        101
    |- Denied                   PERMISSION_DENIED     102
    |- Unauthenticated          UNAUTHENTICATED       102
    |- Exhausted                RESOURCE_EXHAUSTED    103
    |- FailedPrecondition       FAILED_PRECONDITION   104
    |- Compacted                OUT_OF_RANGE           11  try again later
    |- Conflict                 ABORTED                11  try again later
    |- Unavailable              UNAVAILABLE            11  try again later
    |- TimedOut                 DEADLINE_EXCEEDED      11  try again later
    |- Cancelled                CANCELLED              11  try again later
    |- IOFailure                INTERNAL                5  I/O failure
    `- Unknown                  UNKNOWN               100

CNI codes below 100 are the specification's (CNI 1.1, "Error"); 100 and up are ours. The shim, which may import
nothing, has a copy of the table; a test holds the two together.
"""

from __future__ import annotations

from typing import ClassVar

import grpc

__all__ = [
    "MuslinError",
    "InvalidArgument", "Unsupported", "Corrupt", "NotFound", "AlreadyExists", "Denied", "Unauthenticated",
    "Exhausted", "FailedPrecondition", "Compacted", "Conflict", "Unavailable", "TimedOut", "Cancelled", "IOFailure",
    "Unknown",
    "BY_STATUS", "CNI_CODE", "from_status",
]


class MuslinError(Exception):
    """Root of the tree: a message for people, and the gRPC status it travels as."""

    status: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN
    cni_code: ClassVar[int] = 100

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidArgument(MuslinError):
    """Input that can not be right, whatever the state. The message names the field and the fix."""

    status = grpc.StatusCode.INVALID_ARGUMENT
    cni_code = 7


class Unsupported(MuslinError):
    """A request or field that is understood and not supported."""

    status = grpc.StatusCode.UNIMPLEMENTED
    cni_code = 2


class Corrupt(MuslinError):
    """Bytes that do not decode: a configuration that is not JSON, a damaged record."""

    status = grpc.StatusCode.DATA_LOSS
    cni_code = 6


class NotFound(MuslinError):
    """What was named does not exist."""

    status = grpc.StatusCode.NOT_FOUND
    cni_code = 3


class AlreadyExists(MuslinError):
    """What was to be made exists already: the same thing from an earlier call, or another of its name."""

    status = grpc.StatusCode.ALREADY_EXISTS
    cni_code = 101


class Denied(MuslinError):
    """The caller may not do this."""

    status = grpc.StatusCode.PERMISSION_DENIED
    cni_code = 102


class Unauthenticated(MuslinError):
    """The caller did not prove who it is."""

    status = grpc.StatusCode.UNAUTHENTICATED
    cni_code = 102


class Exhausted(MuslinError):
    """No address is left, or a limit is reached."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    cni_code = 103


class FailedPrecondition(MuslinError):
    """The state forbids it: repeating does not help, changing the state does."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    cni_code = 104


class Compacted(MuslinError):
    """The revision asked for is no longer kept: list again."""

    status = grpc.StatusCode.OUT_OF_RANGE
    cni_code = 11


class Conflict(MuslinError):
    """Somebody else changed the same thing at the same time, more often than was retried."""

    status = grpc.StatusCode.ABORTED
    cni_code = 11


class Unavailable(MuslinError):
    """A service, etcd or the state needed to answer is not there yet. Try again."""

    status = grpc.StatusCode.UNAVAILABLE
    cni_code = 11


class TimedOut(MuslinError):
    """No answer before the deadline: whether it was done is unknown."""

    status = grpc.StatusCode.DEADLINE_EXCEEDED
    cni_code = 11


class Cancelled(MuslinError):
    """The caller went away."""

    status = grpc.StatusCode.CANCELLED
    cni_code = 11


class IOFailure(MuslinError):
    """The kernel, the disk or the program itself failed."""

    status = grpc.StatusCode.INTERNAL
    cni_code = 5


class Unknown(MuslinError):
    """A failure that says nothing about itself."""


BY_STATUS: dict[grpc.StatusCode, type[MuslinError]] = {
    kind.status: kind
    for kind in (InvalidArgument, Unsupported, Corrupt, NotFound, AlreadyExists, Denied, Unauthenticated, Exhausted,
                 FailedPrecondition, Compacted, Conflict, Unavailable, TimedOut, Cancelled, IOFailure, Unknown)
}
"""Every gRPC status but OK, and the error it means."""

CNI_CODE: dict[int, int] = {status.value[0]: kind.cni_code for status, kind in BY_STATUS.items()}
"""gRPC status number to CNI error code."""


def from_status(status: grpc.StatusCode, message: str) -> MuslinError:
    """The error that a gRPC status means."""
    return BY_STATUS.get(status, Unknown)(message)
