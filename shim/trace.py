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


def traceparent(inherited: str) -> str:
    """The runtime's own if it is valid, else a new one."""
    return inherited if valid(inherited) else f"00-{urandom(16).hex()}-{urandom(8).hex()}-01"


def request_id(parent: str) -> str:
    """The part of a traceparent that every service of the call logs."""
    return parent[3:35]
