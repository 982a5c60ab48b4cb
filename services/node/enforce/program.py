"""A node's program as values: endpoints, the policies on them, the groups those refer to.

Messages of the policy service become these at the edge and are checked there; everything behind it can rely on them.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from muslin.api.policy.v1 import policy_pb2
from muslin.errors import Corrupt
from services.node.attachment import Attachment
from services.node.netlink.network import IPAddress

__all__ = ["Action", "Endpoint", "Group", "Kind", "OutOfSync", "Policy", "Program", "Rule", "Update"]

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class OutOfSync(Corrupt):
    """A message that does not fit what the node has: it needs a snapshot."""


class Action(Enum):
    """What a rule does on a match."""

    ALLOW = policy_pb2.ACTION_ALLOW
    DENY = policy_pb2.ACTION_DENY
    PASS = policy_pb2.ACTION_PASS
    LOG = policy_pb2.ACTION_LOG


class Kind(Enum):
    """What a group's members are."""

    ADDRESS = policy_pb2.Group.KIND_ADDRESS
    PORT = policy_pb2.Group.KIND_PORT


@dataclass(frozen=True, slots=True)
class Rule:
    """Matches when every part that is set matches; see muslin.policy.v1.Rule. Port ranges include both ends."""

    action: Action
    protocol: int = 0
    peer_group: str = ""
    nets: tuple[IPNetwork, ...] = ()
    not_nets: tuple[IPNetwork, ...] = ()
    ports: tuple[tuple[int, int], ...] = ()
    port_group: str = ""
    path: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """A live set. Members are keys as the kernel's sets hold them, one set for each address family."""

    id: str
    kind: Kind
    ipv4: frozenset[bytes] = frozenset()
    ipv6: frozenset[bytes] = frozenset()
    selector: str = ""

    def altered(self, added: frozenset[bytes], removed: frozenset[bytes]) -> Group:
        """The group with members added and removed.

        Raises:
            Corrupt: a named port for a group of addresses, or the reverse.
        """
        short, long = (4, 16) if self.kind is Kind.ADDRESS else (12, 24)
        if any(len(key) not in (short, long) for key in added):
            raise Corrupt(f"group {self.id} is given members that are not of kind {self.kind.name}")

        def of(members: frozenset[bytes], length: int) -> frozenset[bytes]:
            return members.union(k for k in added if len(k) == length).difference(removed)

        return Group(self.id, self.kind, of(self.ipv4, short), of(self.ipv6, long), self.selector)


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy or profile: ordered rules for each direction."""

    id: str
    name: str = ""
    ingress: tuple[Rule, ...] = ()
    egress: tuple[Rule, ...] = ()
    log_denied: bool = False
    """Whether what the end of its tier drops is logged under its name."""

    @property
    def groups(self) -> frozenset[str]:
        """Ids of the groups its rules refer to."""
        return frozenset(group for rule in self.ingress + self.egress for group in (rule.peer_group, rule.port_group)
                         if group)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What applies to one attachment. Tiers are the policy ids of each tier, in order."""

    attachment: Attachment
    interface: str
    addresses: tuple[IPAddress, ...]
    ingress: tuple[tuple[str, ...], ...] = ()
    egress: tuple[tuple[str, ...], ...] = ()
    profiles: tuple[str, ...] = ()
    workload: str = ""

    @property
    def policies(self) -> frozenset[str]:
        """Ids of the policies of its tiers; profiles, which may be missing, left out."""
        return frozenset(policy for tier in self.ingress + self.egress for policy in tier)


@dataclass(frozen=True, slots=True)
class Update:
    """One message of the stream: a snapshot of everything, or a delta."""

    revision: int
    snapshot: bool = False
    groups: tuple[Group, ...] = ()
    members: tuple[tuple[str, frozenset[bytes], frozenset[bytes]], ...] = ()
    """Group, members added, members removed."""
    policies: tuple[Policy, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    removed_groups: tuple[str, ...] = ()
    removed_policies: tuple[str, ...] = ()
    removed_endpoints: tuple[Attachment, ...] = ()


@dataclass(frozen=True, slots=True)
class Program:
    """All that the policy service wants this node to enforce, at a revision."""

    revision: int = 0
    groups: Mapping[str, Group] = field(default_factory=dict)
    policies: Mapping[str, Policy] = field(default_factory=dict)
    endpoints: Mapping[Attachment, Endpoint] = field(default_factory=dict)

    def updated(self, update: Update) -> Program:
        """The program after a message, which is taken whole or refused.

        Raises:
            OutOfSync: it changes a group that is not there, or leaves a reference to nothing.
        """
        base = Program() if update.snapshot else self
        groups, policies, endpoints = dict(base.groups), dict(base.policies), dict(base.endpoints)
        for group in update.groups:
            groups[group.id] = group
        for name, added, removed in update.members:
            if name not in groups:
                raise OutOfSync(f"revision {update.revision} changes group {name}, which this node does not have")
            groups[name] = groups[name].altered(added, removed)
        policies.update((policy.id, policy) for policy in update.policies)
        endpoints.update((endpoint.attachment, endpoint) for endpoint in update.endpoints)
        for name in update.removed_groups:
            groups.pop(name, None)
        for name in update.removed_policies:
            policies.pop(name, None)
        for attachment in update.removed_endpoints:
            endpoints.pop(attachment, None)
        program = Program(update.revision, groups, policies, endpoints)
        program._check(update)
        return program

    def _check(self, update: Update) -> None:
        """References that the message may have broken: all, after removals; else those of what it brought."""
        policies: Iterable[Policy] = update.policies
        endpoints: Iterable[Endpoint] = update.endpoints
        if update.removed_groups or update.removed_policies or update.snapshot:
            policies, endpoints = self.policies.values(), self.endpoints.values()
        for policy in policies:
            if missing := policy.groups - self.groups.keys():
                raise OutOfSync(f"policy {policy.id} of revision {update.revision} refers to groups that are not "
                                f"there: {', '.join(sorted(missing))}")
        for endpoint in endpoints:
            if missing := endpoint.policies - self.policies.keys():
                raise OutOfSync(f"endpoint {endpoint.attachment} of revision {update.revision} refers to policies "
                                f"that are not there: {', '.join(sorted(missing))}")


def from_message(message: policy_pb2.SubscribeResponse) -> Update:
    """An update from its message.

    Raises:
        Corrupt: a member, CIDR, port or action that is none.
    """
    return Update(
        revision=message.revision,
        snapshot=message.snapshot,
        groups=tuple(Group(g.id, _kind(g), selector=g.selector).altered(_members(g.members), frozenset())
                     for g in message.groups),
        members=tuple((c.id, _members(c.added), _members(c.removed)) for c in message.group_changes),
        policies=tuple(Policy(p.id, p.name, _rules(p.ingress), _rules(p.egress), p.log_denied)
                       for p in message.policies),
        endpoints=tuple(_endpoint(e) for e in message.endpoints),
        removed_groups=tuple(message.removed_groups),
        removed_policies=tuple(message.removed_policies),
        removed_endpoints=tuple(Attachment.from_message(a) for a in message.removed_endpoints),
    )


def _kind(group: policy_pb2.Group) -> Kind:
    try:
        return Kind(group.kind)
    except ValueError:
        raise Corrupt(f"group {group.id}: kind {group.kind} is unknown") from None


def _members(values: Iterable[str]) -> frozenset[bytes]:
    return frozenset(map(member, values))


def member(value: str) -> bytes:
    """The key of a member: `10.0.0.1`, or `10.0.0.1,6,8080` for a named port.

    Raises:
        Corrupt: it is neither.
    """
    address, *rest = value.split(",")
    try:
        packed = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
        if not rest:
            return packed
        protocol, port = map(int, rest)
        # Fields of a joined key are padded to four bytes each.
        return packed + protocol.to_bytes(1, "big") + bytes(3) + port.to_bytes(2, "big") + bytes(2)
    except (OSError, ValueError, OverflowError):
        raise Corrupt(f"group member {value!r} is neither an address nor address,protocol,port") from None


def _rules(rules: Iterable[policy_pb2.Rule]) -> tuple[Rule, ...]:
    return tuple(_rule(rule) for rule in rules)


def _rule(rule: policy_pb2.Rule) -> Rule:
    try:
        nets, not_nets = (tuple(map(ipaddress.ip_network, cidrs)) for cidrs in (rule.nets, rule.not_nets))
        action = Action(rule.action)
    except ValueError as error:
        raise Corrupt(f"rule {rule.path}: {error}") from None
    ports = tuple((p.first, p.last) for p in rule.ports)
    if rule.protocol > 255 or any(not first <= last <= 65535 for first, last in ports):
        raise Corrupt(f"rule {rule.path}: a protocol has 8 bits, a range of ports is in order and has 16")
    return Rule(action, rule.protocol, rule.peer_group, nets, not_nets, ports, rule.port_group, rule.path)


def _endpoint(endpoint: policy_pb2.Endpoint) -> Endpoint:
    attachment = Attachment.from_message(endpoint.attachment)
    try:
        addresses = tuple(map(ipaddress.ip_address, endpoint.addresses))
    except ValueError as error:
        raise Corrupt(f"endpoint {attachment}: {error}") from None
    if not 0 < len(endpoint.interface.encode()) < 16:
        raise Corrupt(f"endpoint {attachment}: interface {endpoint.interface!r} has not 1 to 15 bytes")
    return Endpoint(attachment, endpoint.interface, addresses,
                    _tiers(endpoint.ingress), _tiers(endpoint.egress), tuple(endpoint.profiles), endpoint.workload)


def _tiers(tiers: Iterable[policy_pb2.TierPolicies]) -> tuple[tuple[str, ...], ...]:
    # A tier that has no policy for the endpoint decides nothing; only one that has some drops at its end.
    return tuple(tuple(tier.policies) for tier in tiers if tier.policies)
