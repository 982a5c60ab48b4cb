"""One policy or profile compiled: selectors become groups, names of ports become groups of (address, protocol, port).

Groups are shared: their id is derived from what they mean, so equal selectors of different policies, and of the same
policy on different nodes or replicas, are one group under one name.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from muslin.selectors import All, Selector, canonical
from services.policy.model import Endpoint, Policy, Profile, Rule
from services.policy.program import CompiledPolicy, CompiledRule, GroupKind


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """What a group stands for: addresses of selected endpoints, or a port that they name."""

    selector: Selector
    """Canonical."""
    text: str
    """The selector, written."""
    port_name: str = ""
    protocol: int = 0

    @property
    def kind(self) -> GroupKind:
        """By whether a port is named."""
        return GroupKind.PORT if self.port_name else GroupKind.ADDRESS

    @property
    def id(self) -> str:
        """`a` or `p` and 96 bits of a hash, in hex: 25 characters, short enough for a name of a set in nf_tables."""
        meaning = "\0".join((self.kind.value, self.text, self.port_name, str(self.protocol)))
        return self.kind.value[0] + hashlib.sha256(meaning.encode()).hexdigest()[:24]

    @property
    def described(self) -> str:
        """For people."""
        return f"port {self.port_name} of {self.text}" if self.port_name else self.text

    def members(self, endpoint: Endpoint) -> set[str]:
        """What an endpoint that the selector selects adds to the group."""
        if not self.port_name:
            return set(endpoint.addresses)
        return {f"{address},{self.protocol},{port.port}" for port in endpoint.ports
                if (port.name, port.protocol) == (self.port_name, self.protocol) for address in endpoint.addresses}


def group_spec(selector: Selector, port_name: str = "", protocol: int = 0) -> GroupSpec:
    """The group that a selector stands for, whichever way it is written."""
    plain = canonical(selector)
    return GroupSpec(plain, str(plain), port_name, protocol)


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled policy or profile."""

    policy: CompiledPolicy
    groups: dict[str, GroupSpec]
    """That its rules refer to, by id."""
    scope: GroupSpec | None
    """The endpoints that a policy is for; None for a profile."""


def compile_policy(resource: Policy | Profile) -> Compiled:
    """Compile a policy or a profile; its groups' members are for others to find."""
    scope = group_spec(resource.selector) if isinstance(resource, Policy) else None
    destination = scope.selector if scope else All()
    groups: dict[str, GroupSpec] = {}

    def use(spec: GroupSpec) -> str:
        return groups.setdefault(spec.id, spec).id

    def rules(source: tuple[Rule, ...], *, inward: bool) -> tuple[CompiledRule, ...]:
        result: list[CompiledRule] = []
        for rule in source:
            plain = CompiledRule(rule.action, rule.path, rule.protocol, nets=rule.nets, not_nets=rule.not_nets)
            if rule.ports or not rule.port_names:
                peer = use(group_spec(rule.peer)) if rule.peer is not None else ""
                result.append(replace(plain, peer_group=peer, ports=rule.ports))
            for name in rule.port_names:
                if inward:  # the destination is an endpoint that the policy applies to
                    peer = use(group_spec(rule.peer)) if rule.peer is not None else ""
                    ports = use(group_spec(destination, name, rule.protocol))
                else:  # the destination is the peer: being in the group of ports says that it is selected
                    peer = ""
                    ports = use(group_spec(rule.peer if rule.peer is not None else All(), name, rule.protocol))
                result.append(replace(plain, peer_group=peer, port_group=ports))
        return tuple(result)

    compiled = CompiledPolicy(resource.id, resource.name, rules(resource.ingress, inward=True),
                              rules(resource.egress, inward=False), resource.origin,
                              isinstance(resource, Policy) and resource.log_denied)
    return Compiled(compiled, groups, scope)
