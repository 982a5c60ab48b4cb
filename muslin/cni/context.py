"""What earlier services of the chain hand on to later ones. The shim carries it and never reads it."""

from __future__ import annotations

import msgspec

from muslin.errors import Corrupt


class Bandwidth(msgspec.Struct, frozen=True, omit_defaults=True):
    """Limits of a pod's traffic as CNI has them: bits a second, and bits that may go at once.

    A rate of 0 is no limit, a burst of 0 is chosen to fit the rate.
    """

    ingress_rate: int = 0
    """To the pod."""
    ingress_burst: int = 0
    egress_rate: int = 0
    """From the pod."""
    egress_burst: int = 0


class Context(msgspec.Struct, frozen=True, omit_defaults=True):
    """Facts about the attachment in the making; each field has one writer."""

    profiles: tuple[str, ...] = ()
    """Profile names in order. Written by policy."""
    host_interface: str = ""
    """Name of the host end of the veth. Written by endpoint."""
    mac: str = ""
    """MAC address of the container end. Written by endpoint."""
    bandwidth: Bandwidth | None = None
    """Limits of its traffic. Written by endpoint."""
    joined: str = ""
    """The network whose interface this attachment shares; empty if it has one of its own. Written by endpoint."""


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
