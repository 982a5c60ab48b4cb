"""Why a flow is decided as it is: the evaluation of compiled programs, the same values that nodes enforce.

Order of evaluation: tiers in order, in each the policies in order, in each the rules in order. Allow and Deny are
final, Pass goes on to the next tier, or to the profiles after the last; a tier whose policies do not decide drops.
Profiles come last, or first if no policy isolates the endpoint in that direction: the first that allows, allows;
Deny and Pass drop, and so does the end of the list, and a policy or profile that is named and missing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from services.policy.model import PROTOCOLS, Action, Attachment, Direction
from services.policy.program import EMPTY, CompiledEndpoint, CompiledPolicy, CompiledRule, Program


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a flow."""

    source: str
    """Address in canonical form."""
    destination: str
    """Address in canonical form."""
    protocol: int
    port: int
    """Destination port."""


@dataclass(frozen=True, slots=True)
class Step:
    """The decision at one endpoint in one direction."""

    endpoint: str
    direction: Direction
    allowed: bool
    reason: str
    """In a sentence."""
    tier: str = ""
    """Empty for a profile."""
    policy: str = ""
    """Name of the deciding policy or profile; where a tier ended, of its first; empty if there is none."""
    rule: str = ""
    """Path of the deciding rule; empty if none decided."""
    origin: str = ""
    """Where the deciding object came from."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Egress of the sender, then ingress of the receiver, as far as it went."""

    allowed: bool | None
    """None if neither side is an endpoint: then nothing here decides."""
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """An endpoint in its node's program."""

    endpoint: CompiledEndpoint
    program: Program


Site: TypeAlias = tuple[str, Attachment]
"""Where an endpoint is: what its program is called here, and its attachment."""


class View:
    """All programs, with their endpoints found by name and by address."""

    def __init__(self, programs: Iterable[Program] = ()) -> None:
        self._programs: dict[str, Program] = {}
        self._by_workload: dict[str, tuple[Site, ...]] = {}
        self._by_address: dict[str, tuple[Site, ...]] = {}
        self.follow({str(number): program for number, program in enumerate(programs)})

    def follow(self, programs: Mapping[str, Program]) -> None:
        """Look at these programs from now on. Endpoints that are the same objects as before cost nothing."""
        for key in [key for key in self._programs if key not in programs]:
            self._move(key, self._programs.pop(key).endpoints, {})
        for key, program in programs.items():
            old = self._programs.get(key, EMPTY)
            self._programs[key] = program
            if old.endpoints is not program.endpoints:
                self._move(key, old.endpoints, program.endpoints)

    def _move(self, key: str, old: Mapping[Attachment, CompiledEndpoint],
              new: Mapping[Attachment, CompiledEndpoint]) -> None:
        for attachment, endpoint in old.items():
            if new.get(attachment) is not endpoint:
                for where, name in self._names(endpoint):
                    where[name] = tuple(site for site in where[name] if site != (key, attachment))
                    if not where[name]:
                        del where[name]
        for attachment, endpoint in new.items():
            if old.get(attachment) is not endpoint:
                for where, name in self._names(endpoint):
                    where[name] = (*where.get(name, ()), (key, attachment))

    def _names(self, endpoint: CompiledEndpoint) -> list[tuple[dict[str, tuple[Site, ...]], str]]:
        """What an endpoint is found by, and in which index."""
        return [(self._by_workload, endpoint.workload),
                *((self._by_address, address) for address in dict.fromkeys(endpoint.addresses))]

    def _place(self, sites: Iterable[Site]) -> Place | None:
        """The youngest: a container's record can outlive it."""
        found = ((self._programs[key], attachment) for key, attachment in sites)
        places = (Place(program.endpoints[attachment], program) for program, attachment in found)
        return max(places, default=None, key=lambda place: (place.endpoint.revision, place.endpoint.attachment))

    def workload(self, name: str) -> Place | None:
        """The endpoint of a pod (`namespace/name`) or other workload."""
        return self._place(self._by_workload.get(name, ()))

    def address(self, address: str) -> Place | None:
        """The endpoint that has an address."""
        return self._place(self._by_address.get(address, ()))


def explain(packet: Packet, sender: Place | None, receiver: Place | None) -> Explanation:
    """What decides a flow between two sides, each an endpoint or an address elsewhere."""
    if sender is None and receiver is None:
        return Explanation(None)
    if sender is not None and receiver is not None and sender.endpoint.attachment == receiver.endpoint.attachment:
        return Explanation(True, (Step(sender.endpoint.workload, Direction.EGRESS, allowed=True,
                                       reason="traffic of a pod to itself does not leave it"),))
    steps: list[Step] = []
    for place, direction in ((sender, Direction.EGRESS), (receiver, Direction.INGRESS)):
        if place is not None:
            steps.append(decide(place, direction, packet))
            if not steps[-1].allowed:
                break
    return Explanation(steps[-1].allowed, tuple(steps))


def decide(place: Place, direction: Direction, packet: Packet) -> Step:
    """What decides at one endpoint in one direction."""
    return _Evaluation(place.endpoint, place.program, direction, packet).step()


@dataclass(frozen=True, slots=True)
class _Evaluation:
    endpoint: CompiledEndpoint
    program: Program
    direction: Direction
    packet: Packet

    @property
    def inward(self) -> bool:
        return self.direction is Direction.INGRESS

    @property
    def peer(self) -> str:
        return self.packet.source if self.inward else self.packet.destination

    @property
    def side(self) -> str:
        return f"{self.direction.value} of {self.endpoint.workload}"

    @property
    def described(self) -> str:
        way = "from" if self.inward else "to"
        return f"{protocol_name(self.packet.protocol)} port {self.packet.port} {way} {self.peer}"

    def step(self) -> Step:
        tiers = self.endpoint.ingress if self.inward else self.endpoint.egress
        for tier in tiers:
            rule, policies = None, []
            for key in tier.policies:
                policy = self.program.policies.get(key)
                if policy is None:
                    return self.drop(f"policy {key} is for {self.side} and missing, which drops", tier.tier, key)
                policies.append(policy)
                if rule := self.first_match(policy):
                    break
            if rule is None:
                listed = ", ".join(policy.name for policy in policies)
                return self.drop(f"{listed} isolate{'s' if len(policies) == 1 else ''} {self.side}, and no rule "
                                 f"matches {self.described}", tier.tier, policies[0].name, policies[0].origin)
            if rule.action is not Action.PASS:
                return self.by_rule(policies[-1], rule, tier.tier)
        return self.by_profiles("policies pass on" if tiers else "no policy isolates")

    def by_profiles(self, why: str) -> Step:
        names = [key.removeprefix("profile/") for key in self.endpoint.profiles]
        for key, name in zip(self.endpoint.profiles, names, strict=True):
            profile = self.program.policies.get(key)
            if profile is None:
                return self.drop(f"{why} {self.side}, and its profile {name} is missing, which drops", policy=name)
            if rule := self.first_match(profile):
                return self.by_rule(profile, rule, "")
        held = f"no rule of its profiles ({', '.join(names)}) matches" if names else "it has no profile"
        return self.drop(f"{why} {self.side}, and {held}")

    def drop(self, reason: str, tier: str = "", policy: str = "", origin: str = "") -> Step:
        return Step(self.endpoint.workload, self.direction, allowed=False, reason=reason, tier=tier, policy=policy,
                    origin=origin)

    def by_rule(self, policy: CompiledPolicy, rule: CompiledRule, tier: str) -> Step:
        allowed = rule.action is Action.ALLOW
        reason = (f"{rule.path} of {'policy' if tier else 'profile'} {policy.name} {'allows' if allowed else 'denies'} "
                  f"{self.described}: it matches {self.terms(rule)}")
        return Step(self.endpoint.workload, self.direction, allowed=allowed, reason=reason, tier=tier,
                    policy=policy.name, rule=rule.path, origin=policy.origin)

    def first_match(self, policy: CompiledPolicy) -> CompiledRule | None:
        """The first rule that matches and is not Log, which never decides."""
        rules = policy.ingress if self.inward else policy.egress
        return next((rule for rule in rules if rule.action is not Action.LOG and self.matches(rule)), None)

    def matches(self, rule: CompiledRule) -> bool:
        packet, groups = self.packet, self.program.groups
        named = f"{packet.destination},{packet.protocol},{packet.port}"
        return ((not rule.protocol or rule.protocol == packet.protocol)
                and (not rule.ports or any(first <= packet.port <= last for first, last in rule.ports))
                and (not rule.peer_group or self.peer in groups[rule.peer_group].members)
                and (not rule.port_group or named in groups[rule.port_group].members)
                and (not rule.nets or any(_holds(net, self.peer) for net in rule.nets))
                and not any(_holds(net, self.peer) for net in rule.not_nets))

    def terms(self, rule: CompiledRule) -> str:
        """What a rule asks for, in words."""
        terms = []
        if rule.peer_group:
            terms.append(f"peers with {self.program.groups[rule.peer_group].selector}")
        if rule.nets:
            terms.append("addresses in " + ", ".join(rule.nets))
        if rule.not_nets:
            terms.append("except " + ", ".join(rule.not_nets))
        if rule.port_group:
            terms.append(self.program.groups[rule.port_group].selector)
        if rule.ports:
            ranges = (str(first) if first == last else f"{first}-{last}" for first, last in rule.ports)
            terms.append(f"{protocol_name(rule.protocol)} ports {', '.join(ranges)}")
        elif rule.protocol and not rule.port_group:
            terms.append(f"all {protocol_name(rule.protocol)} ports")
        return "; ".join(terms) if terms else f"all {'sources' if self.inward else 'destinations'}"


_network = lru_cache(4096)(ipaddress.ip_network)
_address = lru_cache(4096)(ipaddress.ip_address)


def _holds(net: str, address: str) -> bool:
    return _address(address) in _network(net)


def protocol_name(number: int) -> str:
    """The name of a protocol's number."""
    return next((name for name, known in PROTOCOLS.items() if known == number), str(number))
