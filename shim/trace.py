"""The request id: a W3C `traceparent` that the runtime passed on, or a new one."""

from __future__ import annotations

from posix import urandom

_HEX = "0123456789abcdef"
_LENGTHS = (2, 32, 16, 2)  # version, trace id, parent id, flags


def valid(text: str) -> bool:
    """Whether this is a traceparent (W3C Trace Context, "traceparent Header Field Values").

    A version after 00 may carry more fields; they are let through up to 100 characters.
    """
    parts = text.split("-")
    if len(text) > 100 or len(parts) < 4 or parts[0] == "ff" or (parts[0] == "00" and len(parts) > 4):
        return False
    if any(character not in _HEX + "-" for character in text):
        return False
    return all(len(part) == length for part, length in zip(parts, _LENGTHS, strict=False)) and not (
        parts[1] == "0" * 32 or parts[2] == "0" * 16)


def traceparent(inherited: str, sampled: bool = True) -> str:
    """An id of our own in the runtime's trace if that is valid, else in a new one, which is recorded if `sampled`.

    The version is the one that we know (W3C Trace Context, "Versioning of traceparent").
    """
    if valid(inherited):
        return f"00-{inherited[3:35]}-{urandom(8).hex()}-{inherited[53:55]}"
    return f"00-{urandom(16).hex()}-{urandom(8).hex()}-{'01' if sampled else '00'}"


def invocation(command: str, began: int, inherited: str) -> str:
    """What the node daemon writes our span of: we began at a Unix time in ns, below the runtime's span if it has one.

    muslin.tracing reads it.
    """
    return f"{command} {began} {inherited[36:52]}" if valid(inherited) else f"{command} {began}"


def request_id(parent: str) -> str:
    """The part of a traceparent that every service of the call logs."""
    return parent[3:35]
