"""What the program says to a connection, computed: where the kernel is not asked because the connection is there.

It says of each connection what the table says of its first packet; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from services.node.enforce.matches import WITH_PORTS
from services.node.enforce.names import Direction
from services.node.enforce.program import Action, Endpoint, IPNetwork, Policy, Program, Rule
from services.node.enforce.state import State

__all__ = ["Decision", "Flow", "Judge", "decide"]

_PORTS_OF_ANY = frozenset({6, 17, 132})


class Flow(NamedTuple):
    """The first packet of a connection, as the forward hook sees it: addresses packed, port -1 where there is none."""

    source: bytes
    destination: bytes
    protocol: int
    port: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What decided at one endpoint in one direction.

    Attributes:
        allowed: the verdict.
        policy: id of the policy or profile; empty where the end of a tier, or of the profiles, decided.
        path: of the rule in it.
    """

    allowed: bool
    policy: str = ""
    path: str = ""


def decide(endpoint: Endpoint, program: Program, flow: Flow, direction: Direction) -> Decision:
    """What an endpoint's policy says to a connection."""
    for tier in endpoint.ingress if direction is Direction.INGRESS else endpoint.egress:
        found = _first(tier, program, flow, direction)
        if found is None:
            return Decision(allowed=False)
        policy, rule = found
        if rule.action is not Action.PASS:
            return Decision(rule.action is Action.ALLOW, policy, rule.path)
    # One that is not there drops, whatever those behind it say.
    there = endpoint.profiles
    missing = next((number for number, name in enumerate(there) if name not in program.policies), len(there))
    found = _first(there[:missing], program, flow, direction)
    if found is None:
        return Decision(allowed=False)
    return Decision(found[1].action is Action.ALLOW, found[0], found[1].path)


def _first(policies: tuple[str, ...], program: Program, flow: Flow, direction: Direction) -> tuple[str, Rule] | None:
    """The first rule that matches and decides, with its policy."""
    for name in policies:
        policy: Policy = program.policies[name]
        for rule in policy.ingress if direction is Direction.INGRESS else policy.egress:
            if rule.action is not Action.LOG and _matches(rule, program, flow, direction):
                return name, rule
    return None


def _matches(rule: Rule, program: Program, flow: Flow, direction: Direction) -> bool:
    if rule.protocol and rule.protocol != flow.protocol:
        return False
    if rule.ports:
        able = WITH_PORTS if rule.protocol else _PORTS_OF_ANY
        if flow.protocol not in able or not any(first <= flow.port <= last for first, last in rule.ports):
            return False
    peer = flow.source if direction is Direction.INGRESS else flow.destination
    if rule.nets and not any(_inside(net, peer) for net in rule.nets):
        return False
    if any(_inside(net, peer) for net in rule.not_nets):
        return False
    for name, key in ((rule.peer_group, peer), (rule.port_group, _named(flow) if rule.port_group else b"")):
        if name:
            group = program.groups[name]
            if key not in (group.ipv4 if len(peer) == 4 else group.ipv6):
                return False
    return True


def _named(flow: Flow) -> bytes:
    """A member of a group of named ports."""
    return flow.destination + bytes((flow.protocol, 0, 0, 0)) + max(flow.port, 0).to_bytes(2, "big") + bytes(2)


@lru_cache(maxsize=1 << 16)
def _bounds(net: IPNetwork) -> tuple[int, int, int]:
    return net.max_prefixlen // 8, int(net.network_address), net.max_prefixlen - net.prefixlen


def _inside(net: IPNetwork, packed: bytes) -> bool:
    length, base, shift = _bounds(net)
    return len(packed) == length and int.from_bytes(packed, "big") >> shift == base >> shift


class Judge:
    """Connections of a node's endpoints, against the program in its kernel."""

    def __init__(self, state: State, local: frozenset[bytes]) -> None:
        """`local` are the host's own addresses: what it begins itself reaches its pods whatever their policy."""
        self._program = state.program
        self._local = local
        self._endpoints: Mapping[bytes, Endpoint] = {
            address.packed: endpoint for attachment in state.stages
            if (endpoint := state.endpoint(attachment)) is not None for address in endpoint.addresses}
        self._known: dict[Flow, bool] = {}

    def allows(self, flow: Flow) -> bool:
        """Whether both ends, where they are endpoints of this node, allow it."""
        known = self._known.get(flow)
        if known is None:
            known = self._known[flow] = self._ask(flow)
        return known

    def _ask(self, flow: Flow) -> bool:
        sender, receiver = self._endpoints.get(flow.source), self._endpoints.get(flow.destination)
        if sender is not None and not decide(sender, self._program, flow, Direction.EGRESS).allowed:
            return False
        if receiver is None or (sender is None and flow.source in self._local):
            return True
        return decide(receiver, self._program, flow, Direction.INGRESS).allowed
