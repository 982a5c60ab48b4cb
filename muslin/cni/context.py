"""What earlier services of the chain hand on to later ones. The shim carries it and never reads it."""

from __future__ import annotations

import msgspec

from muslin.errors import Corrupt


class Context(msgspec.Struct, frozen=True, omit_defaults=True):
    """Facts about the attachment in the making; each field has one writer."""

    profiles: tuple[str, ...] = ()
    """Profile names in order. Written by policy."""
    host_interface: str = ""
    """Name of the host end of the veth. Written by endpoint."""
    mac: str = ""
    """MAC address of the container end. Written by endpoint."""


def parse(raw: bytes) -> Context:
    """Read a context; empty bytes are the empty context.

    Raises:
        Corrupt: it is not one.
    """
    if not raw:
        return Context()
    try:
        return msgspec.json.decode(raw, type=Context)
    except msgspec.MsgspecError as problem:
        raise Corrupt(f"context of the chain does not decode: {problem}") from None


def render(context: Context) -> bytes:
    """Write a context."""
    return msgspec.json.encode(context)
