"""What an API server refuses with, as errors of this project."""

from __future__ import annotations

import math

import msgspec

from muslin.errors import (
    Compacted,
    Conflict,
    Denied,
    InvalidArgument,
    MuslinError,
    NotFound,
    Unauthenticated,
    Unavailable,
    Unknown,
)

__all__ = ["Busy", "refusal", "status_of"]

_LONGEST = 300
"""Characters of what the server says."""
_BY_CODE: dict[int, type[MuslinError]] = {
    400: InvalidArgument, 401: Unauthenticated, 403: Denied, 404: NotFound, 409: Conflict, 410: Compacted,
    422: InvalidArgument,
}


class Busy(Unavailable):
    """The server can not answer now; `seconds` is how long it asks to be left alone."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class _Status(msgspec.Struct):
    """The object Status, as far as it is read."""

    message: str | None = None
    code: int | None = None


def status_of(body: bytes | msgspec.Raw) -> tuple[int, str]:
    """Code and message of an object Status, or 0 and the beginning of what it is instead."""
    try:
        status = msgspec.json.decode(body, type=_Status)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return 0, " ".join(bytes(body)[:_LONGEST].decode(errors="replace").split())
    return status.code or 0, " ".join((status.message or "").split())[:_LONGEST]


def refusal(code: int, body: bytes | msgspec.Raw, retry_after: str | None, what: str, source: str) -> MuslinError:
    """The error for an answer with an HTTP status other than 200. `source` is where the credentials come from."""
    said = status_of(body)[1]
    message = f"{what}: HTTP {code}{f': {said}' if said else ''}"
    if code == 401:
        return Unauthenticated(f"{message}; the credentials of {source} have expired or are not this server's: renew "
                               "them, they are read anew by themselves")
    if code == 403:
        return Denied(f"{message}; a role must allow it to the user of {source}")
    if code == 429 or code >= 500:
        return Busy(message, _seconds(retry_after))
    return _BY_CODE.get(code, Unknown)(message)


def _seconds(retry_after: str | None) -> float:
    """Of the header Retry-After; a date is not sent by API servers."""
    try:
        seconds = float(retry_after or 0)
    except ValueError:
        return 0.0
    return min(max(seconds, 0.0), 60.0) if math.isfinite(seconds) else 0.0
