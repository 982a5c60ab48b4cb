"""What a pod is connected to: the kernel's connections, put together by peer and port, and what allows them.

The kernel counts packets of connections where net.netfilter.nf_conntrack_acct is 1. That is the operator's choice: it
costs each packet a little, and is the whole host's.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable
from dataclasses import dataclass

from muslin.api.node.v1 import node_pb2
from services.node.counters import DIRECTIONS
from services.node.enforce.judge import Flow, decide
from services.node.enforce.names import Direction
from services.node.enforce.program import Endpoint
from services.node.enforce.state import State
from services.node.netlink.conntrack import Conntrack, Entry

__all__ = ["MOST", "connections", "flows_of"]

MOST = 1000
"""Flows in one answer."""


def connections(endpoints: Iterable[Endpoint], namespace: str | os.PathLike[str] | None = None) -> list[Entry]:
    """The connections of endpoints, in that network namespace; None for this process' own. Blocks.

    Raises:
        KernelError: the kernel has no ctnetlink.
        TimedOut: no answer.
    """
    conntrack = Conntrack(namespace)
    try:
        return conntrack.entries(frozenset(address.packed for endpoint in endpoints for address in endpoint.addresses))
    finally:
        conntrack.close()


@dataclass(slots=True)
class _Sums:
    """Of the connections of one flow; packets and bytes by the sender of the first packet, and by the other."""

    connections: int = 0
    sent: tuple[int, int] = (0, 0)
    answered: tuple[int, int] = (0, 0)


def flows_of(state: State, endpoints: Iterable[Endpoint], entries: Iterable[Entry],
             most: int = MOST) -> node_pb2.GetFlowsResponse:
    """The flows of endpoints: most bytes first, then most connections."""
    by_address = {address.packed: endpoint for endpoint in endpoints for address in endpoint.addresses}
    sums: dict[tuple[Direction, bytes, bytes, int, int], _Sums] = {}
    accounted = False
    for entry in entries:
        for direction, own, peer in ((Direction.EGRESS, entry.source, entry.destination),
                                     (Direction.INGRESS, entry.destination, entry.source)):
            if own not in by_address:
                continue
            of = sums.setdefault((direction, own, peer, entry.protocol, entry.port), _Sums())
            of.connections += 1
            if entry.counts is not None:
                accounted = True
                sent, answered = entry.counts
                of.sent = of.sent[0] + sent[0], of.sent[1] + sent[1]
                of.answered = of.answered[0] + answered[0], of.answered[1] + answered[1]
    found = []
    for (direction, own, peer, protocol, port), of in sums.items():
        source, destination = (own, peer) if direction is Direction.EGRESS else (peer, own)
        decision = decide(by_address[own], state.program, Flow(source, destination, protocol, port), direction)
        found.append(node_pb2.FlowCounts(
            direction=DIRECTIONS[direction], peer=str(ipaddress.ip_address(peer)), protocol=protocol,
            port=max(0, port), connections=of.connections, sent_packets=of.sent[0], sent_bytes=of.sent[1],
            answered_packets=of.answered[0], answered_bytes=of.answered[1],
            policy=decision.policy if decision.allowed else "", rule=decision.path if decision.allowed else ""))
    found.sort(key=lambda each: (-each.sent_bytes - each.answered_bytes, -each.connections, each.direction, each.peer,
                                 each.protocol, each.port))
    return node_pb2.GetFlowsResponse(flows=found[:most], accounted=accounted, left_out=max(0, len(found) - most))
