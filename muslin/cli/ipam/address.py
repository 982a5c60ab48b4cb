"""All that is known of one address, for people."""

from __future__ import annotations

from muslin.api.ipam.v1 import ipam_pb2
from muslin.cli.ipam.views import AFFINITY, cool_down, identity, pod, when

__all__ = ["describe", "state"]


def state(found: ipam_pb2.LookupResponse) -> str:
    """What the address is at the moment, in a few words."""
    if found.HasField("handle"):
        return "kept for its pod's return" if found.handle.kept_until_ms else "in use"
    if found.HasField("slot"):
        return "cooling down" if found.slot.released_ms else "held without a handle: see `muslin ipam check`"
    if found.reservation:
        return "reserved"
    return "free" if found.pool else "outside all pools"


def describe(address: str, found: ipam_pb2.LookupResponse, pool: ipam_pb2.Pool | None) -> str:
    """Lines of what is known. `pool` is the record of the pool that the answer names, if it is there."""
    lines = [("address", address), ("state", state(found)), ("pool", found.pool), ("reservation", found.reservation)]
    if found.HasField("block"):
        block = found.block
        orphan = block.affinity == ipam_pb2.Block.AFFINITY_NONE or not block.node
        owner = "of no node" if orphan else f"of node {block.node}, {AFFINITY.get(block.affinity, 'unknown')}"
        lines.append(("block", f"{block.cidr} ({owner})"))
    if found.HasField("handle"):
        lines += _handle(found.handle)
    if found.HasField("slot"):
        slot = found.slot
        if slot.released_ms:
            lines += [("held last by", slot.handle), ("freed", when(slot.released_ms))]
            if pool is not None:
                lines.append(("cools until", when(slot.released_ms + 1000 * cool_down(pool))))
        elif not found.HasField("handle"):
            lines.append(("held by", slot.handle))
        lines.append(("sequence", str(slot.sequence)))
    width = max(len(name) for name, value in lines if value)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines if value)


def _handle(handle: ipam_pb2.Handle) -> list[tuple[str, str]]:
    lines = [("attachment", identity(handle)), ("node", handle.node), ("pod", pod(handle) if handle.pod else "")]
    if handle.created_ms:
        lines.append(("assigned", when(handle.created_ms)))
    if len(handle.addresses) > 1:
        lines.append(("all addresses", " ".join(handle.addresses)))
    if handle.kept_until_ms:
        lines.append(("kept until", when(handle.kept_until_ms)))
    return lines
