"""What the object of a Node should say of its network, by what is heard of the node's daemon. No I/O.

A condition `NetworkUnavailable`, which Kubernetes' own controllers turn into a taint that keeps new pods away, and the
end of the taint with which nodes may be registered to keep pods off until there is a network.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Any

from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.kube.kinds import Node

__all__ = ["CONDITION", "DOWN_AFTER", "NOT_READY", "Standing", "Standings", "condition", "untainted"]

CONDITION = "NetworkUnavailable"
NOT_READY = "muslin.dev/not-ready"
"""Key of the taint, whatever its effect."""
DOWN_AFTER = 120.0
"""Seconds, if nobody says otherwise: longer than a daemon's upgrade, its image's way included."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What should be said of a node."""

    available: bool
    reason: str
    message: str


UP = Standing(True, "MuslinIsUp", "Muslin's daemon on this node is ready")


class Standings:
    """Remembers how long each node has been as it is."""

    def __init__(self, down_after: float = DOWN_AFTER) -> None:
        self._down_after = down_after
        self._since: dict[str, float] = {}
        """By node that does not serve, since when."""

    def forget(self) -> None:
        """Nothing is known of what has been: it begins now."""
        self._since.clear()

    @property
    def waiting(self) -> Set[str]:
        """Nodes that do not serve: of these time alone changes what should be said; live."""
        return self._since.keys()

    def drop(self, node: str) -> None:
        """Forget a node."""
        self._since.pop(node, None)

    def of(self, host: endpoint_pb2.Host, now: float) -> Standing | None:
        """What should be said of a node that has announced itself once; None if that is not decided yet.

        `now` is monotonic time, in seconds. What it is silent, or in trouble, for less than the time counts as nothing:
        a daemon that is replaced serves again soon, and its pods never notice.
        """
        if host.present and not host.trouble:
            self._since.pop(host.node, None)
            return UP
        if now - self._since.setdefault(host.node, now) < self._down_after:
            return None
        if host.present:
            return Standing(False, "MuslinIsNotReady", f"Muslin's daemon on this node can not serve: {host.trouble}")
        return Standing(False, "MuslinIsDown", "nothing is heard of Muslin's daemon on this node; pods that run keep "
                        "their network, new ones get none")


def condition(node: Node, standing: Standing, stamp: str) -> dict[str, Any] | None:
    """The change of a node's status that has it say so; None if it does. `stamp` is the time (RFC 3339).

    That the network is there others may say as well, in words of theirs.
    """
    status = "False" if standing.available else "True"
    said = node.condition(CONDITION)
    if said and said.status == status and (standing.available or said.reason == standing.reason):
        return None
    written = {"type": CONDITION, "status": status, "reason": standing.reason, "message": standing.message,
               "lastHeartbeatTime": stamp, "lastTransitionTime": stamp}
    return {"status": {"conditions": [written]}}


def untainted(node: Node) -> Iterator[dict[str, Any]]:
    """Steps that take the taint away, as long as it is where it was seen."""
    for number, taint in reversed(list(enumerate(node.taints))):
        if taint.key == NOT_READY:
            yield {"op": "test", "path": f"/spec/taints/{number}/key", "value": NOT_READY}
            yield {"op": "remove", "path": f"/spec/taints/{number}"}
