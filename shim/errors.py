"""What can go wrong, and the one table from gRPC status to CNI error code."""

from __future__ import annotations

__all__ = [
    "CONNECTIVITY_LIMITED", "DECODING_FAILURE", "INCOMPATIBLE_VERSION", "INVALID_CONFIGURATION", "INVALID_ENVIRONMENT",
    "IO_FAILURE", "PLUGIN_NOT_AVAILABLE", "TRY_AGAIN_LATER", "UNEXPECTED",
    "ALREADY_EXISTS", "CANCELLED", "DEADLINE_EXCEEDED", "DENIED", "FAILED_PRECONDITION", "INTERNAL", "NOT_FOUND",
    "RESOURCE_EXHAUSTED", "UNAUTHENTICATED", "UNAVAILABLE", "UNIMPLEMENTED", "UNKNOWN",
    "CNI_CODE", "STATUS_NAME",
    "CniError", "RpcError",
]

# CNI error codes (specification 1.1, "Error"; 100 and up are the plugin's own).
INCOMPATIBLE_VERSION = 1
INVALID_ENVIRONMENT = 4
IO_FAILURE = 5
DECODING_FAILURE = 6
INVALID_CONFIGURATION = 7
TRY_AGAIN_LATER = 11
PLUGIN_NOT_AVAILABLE = 50
CONNECTIVITY_LIMITED = 51
UNEXPECTED = 100

# The gRPC statuses that the shim itself gives (gRPC, "Status codes and their use in gRPC").
CANCELLED = 1
UNKNOWN = 2
DEADLINE_EXCEEDED = 4
NOT_FOUND = 5
ALREADY_EXISTS = 6
DENIED = 7
RESOURCE_EXHAUSTED = 8
FAILED_PRECONDITION = 9
UNIMPLEMENTED = 12
INTERNAL = 13
UNAVAILABLE = 14
UNAUTHENTICATED = 16

STATUS_NAME = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)
"""Names by number."""

CNI_CODE = {
    1: 11, 2: 100, 3: 7, 4: 11, 5: 3, 6: 101, 7: 102, 8: 103, 9: 104, 10: 11, 11: 11, 12: 2, 13: 5, 14: 11, 15: 6,
    16: 102,
}
"""gRPC status to CNI error code: a copy of muslin.errors.CNI_CODE, which the shim can not import."""


class CniError(Exception):
    """What the runtime is told.

    Attributes:
        code: CNI error code.
        message: One line for people, naming the field and the fix.
        details: More of it: where, under which request id, and what was undone.
        unfinished: Something is left to delete, and doing that later may succeed.
    """

    def __init__(self, code: int, message: str, details: str = "", unfinished: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details
        self.unfinished = unfinished


class RpcError(Exception):
    """A call that did not succeed.

    Attributes:
        status: gRPC status number, never 0.
        message: As the service sent it, or what happened on the way.
        answered: The service itself said so; otherwise whether the call was carried out is unknown, unless
        unasked: The call did not reach the service, for sure.
    """

    def __init__(self, status: int, message: str, answered: bool = False, unasked: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.answered = answered
        self.unasked = unasked

    @property
    def passing(self) -> bool:
        """Whether the same call may succeed later."""
        return self.status == RESOURCE_EXHAUSTED or CNI_CODE.get(self.status) == TRY_AGAIN_LATER
