"""What was dropped, with names: for the API and for Prometheus. The kernel counts; nobody reads unless asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from muslin.api.node.v1 import node_pb2
from muslin.api.policy.v1 import policy_pb2
from muslin.errors import MuslinError
from services.node.enforce import names
from services.node.enforce.causes import Cause, causes
from services.node.enforce.drops import INTERFACE_BYTES
from services.node.enforce.names import Direction
from services.node.enforce.state import State
from services.node.nft.connection import Nftables

__all__ = ["DIRECTIONS", "DropsCollector", "cause_message", "drops_of"]

DIRECTIONS = {Direction.INGRESS: policy_pb2.DIRECTION_INGRESS, Direction.EGRESS: policy_pb2.DIRECTION_EGRESS}
"""As the API has them."""
_WORDS: dict[int, str] = {int(number): direction.value for direction, number in DIRECTIONS.items()}
_UNKNOWN = "a policy that is not in force any more"


def cause_message(cause: Cause) -> node_pb2.Cause:
    """A cause as the API has it."""
    return node_pb2.Cause(direction=DIRECTIONS[cause.direction], policy=cause.policy, asked=cause.asked,
                          reason=cause.reason)


def drops_of(state: State, tallies: Mapping[bytes, tuple[int, int]]) -> list[node_pb2.Drops]:
    """What the kernel has counted, with names; sorted by workload, interface, direction, policy and reason."""
    known = causes(state)
    workloads = {endpoint.interface: endpoint.workload for attachment in state.stages
                 if (endpoint := state.endpoint(attachment)) is not None}
    found: Iterable[node_pb2.Drops] = (
        node_pb2.Drops(workload=workloads.get(interface, ""), interface=interface, packets=packets, bytes=length,
                       cause=cause_message(known[key[INTERFACE_BYTES:]]) if key[INTERFACE_BYTES:] in known
                       else node_pb2.Cause(reason=_UNKNOWN))
        for key, (packets, length) in tallies.items()
        for interface in (key[:INTERFACE_BYTES].rstrip(b"\0").decode(errors="replace"),))
    return sorted(found, key=lambda d: (d.workload, d.interface, d.cause.direction, d.cause.policy, d.cause.reason))


class DropsCollector(Collector):
    """Metrics of what was dropped, read when they are asked for."""

    def __init__(self, nft: Nftables, state: Callable[[], State]) -> None:
        """`state` says what is in the kernel."""
        self._nft = nft
        self._state = state

    def describe(self) -> list[CounterMetricFamily]:
        """The metrics without values, so that registering them reads nothing."""
        labels = ["workload", "direction", "policy", "reason"]
        return [CounterMetricFamily("muslin_node_dropped_packets",
                                    "Packets dropped, by pod and by what decided; of a connection, the first ones.",
                                    labels=labels),
                CounterMetricFamily("muslin_node_dropped_bytes", "Their bytes.", labels=labels)]

    def collect(self) -> list[CounterMetricFamily]:
        """The metrics; without values where the table can not be read."""
        packets, lengths = self.describe()
        try:
            counted = drops_of(self._state(), self._nft.tallies(names.TABLE, names.DROPS))
        except (MuslinError, OSError):
            return [packets, lengths]
        sums: dict[tuple[str, ...], list[int]] = {}
        for each in counted:
            # A pod without a name is one of no program yet: they are told apart by their interfaces.
            of = (each.workload or each.interface, _WORDS.get(each.cause.direction, ""), each.cause.policy,
                  each.cause.reason)
            entry = sums.setdefault(of, [0, 0])
            entry[0] += each.packets
            entry[1] += each.bytes
        for labels, (count, length) in sums.items():
            packets.add_metric(list(labels), count)
            lengths.add_metric(list(labels), length)
        return [packets, lengths]
