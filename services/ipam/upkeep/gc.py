"""The GC verb: the runtime lists the attachments of a network that are alive on a node, the rest is freed. No I/O."""

from __future__ import annotations

from muslin.cni.collect import KEYS, valid
from services.ipam.handles import Handle

__all__ = ["KEYS", "stale", "valid"]


def stale(handle: Handle, node: str, alive: frozenset[tuple[str, str]]) -> bool:
    """Whether a handle is of an attachment of the node that the runtime does not list.

    One that is kept for the return of its pod is of no attachment any more; its time is the collector's business.
    """
    return (handle.node == node and not handle.kept_until_ms
            and (handle.container_id, handle.ifname) not in alive)
