"""Token buckets: how fast a device sends (linux/pkt_sched.h, tc-tbf(8))."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from services.node.netlink.attributes import as_text, attribute, nested, parse, text, u32
from services.node.netlink.connection import NLM_F_CREATE, NLM_F_REPLACE, Connection, Request

__all__ = ["Bucket", "rate_of", "set_bucket"]

RTM_NEWQDISC, RTM_GETQDISC = 36, 38

_TCA_KIND, _TCA_OPTIONS = 1, 2
_TBF_PARAMETERS, _TBF_RATE64, _TBF_BURST = 1, 4, 6
_ROOT, _HANDLE = 0xFFFFFFFF, 0x10000
_ETHERNET = 1  # the kernel computes times itself and needs no table of them

_TCMSG = struct.Struct("BxxxiIII")
_RATE = struct.Struct("BBHhHI")
_SIZES = struct.Struct("III")
_U32_MAX = 0xFFFFFFFF

QUEUE_SECONDS = 0.025
"""How much may wait beyond the burst, in time at the rate: what waits longer is dropped."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Bytes a second, and bytes that may go at once."""

    rate: int
    burst: int


def set_bucket(index: int, bucket: Bucket) -> Request:
    """Let a device send no faster, in place of whatever orders its packets."""
    small = min(bucket.rate, _U32_MAX)
    limit = min(bucket.burst + int(bucket.rate * QUEUE_SECONDS), _U32_MAX)
    parameters = _RATE.pack(0, _ETHERNET, 0, 0, 0, small) + _RATE.pack(0, 0, 0, 0, 0, 0) + _SIZES.pack(limit, 0, 0)
    options = attribute(_TBF_PARAMETERS, parameters) + u32(_TBF_BURST, min(bucket.burst, _U32_MAX))
    if bucket.rate > _U32_MAX:
        options += attribute(_TBF_RATE64, struct.pack("Q", bucket.rate))
    body = _TCMSG.pack(0, index, _HANDLE, _ROOT, 0) + text(_TCA_KIND, "tbf") + nested(_TCA_OPTIONS, options)
    return Request(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, body, f"limit the rate of link {index}")


def rate_of(connection: Connection, index: int) -> int | None:
    """The rate, in bytes a second, that a device is held to; None if to none."""
    for reply in connection.dump(Request(RTM_GETQDISC, 0, _TCMSG.pack(0, index, 0, 0, 0), "list queueing disciplines")):
        _, device, _, parent, _ = _TCMSG.unpack_from(reply.body)
        found = parse(reply.body[_TCMSG.size:])
        if device != index or parent != _ROOT or as_text(found[_TCA_KIND]) != "tbf":
            continue
        options = parse(found[_TCA_OPTIONS])
        if _TBF_RATE64 in options:
            return int(struct.unpack("Q", options[_TBF_RATE64])[0])
        return int(_RATE.unpack_from(options[_TBF_PARAMETERS])[5])
    return None
