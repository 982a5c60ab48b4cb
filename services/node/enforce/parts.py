"""What each piece of a program is in the kernel: its sets, its chains, its elements of the dispatch maps.

A piece's part follows from the piece alone, so a change of the program touches the parts of what it names and no
others; all parts together, with the frame, are the table.

How a packet is judged. A routed packet passes two chains at the forward hook: the first looks its incoming interface
up in `from_pod`, the second its outgoing one in `to_pod`; each leads to the endpoint's first stage. A stage is the
policies of one tier, or the profiles: it calls each policy's chain and drops at its end. Allow accepts, which ends
only the one of the two lookups: a packet between two pods of a node must be allowed by both. Pass goes to the next
stage; as a policy's chain is shared by endpoints whose next stages differ, a policy with Pass rules has one chain for
each stage that calls it. Endpoints with the same tiers and profiles share their stages, so a pod more is a few
elements more.

(One chain that goes on from each Allow of egress to `to_pod` would do as well; but the kernel walks all paths through
a table when it checks a change, and there would be as many as egress rules times pods.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from services.node.attachment import Attachment
from services.node.enforce import names
from services.node.enforce.drops import drop_rules, log_rule
from services.node.enforce.matches import render
from services.node.enforce.names import Direction
from services.node.enforce.program import Action, Endpoint, Group, Kind, Policy, Rule
from services.node.nft import expressions as x
from services.node.nft.expressions import KeyType
from services.node.nft.messages import Target

__all__ = ["Chain", "Element", "Owner", "Part", "Piece", "Set", "Stage", "endpoint_part", "endpoint_stages",
           "group_part", "policy_part", "stage_part"]

_PORT_KEYS = {4: x.joined(x.IPV4, x.PROTOCOL, x.PORT), 6: x.joined(x.IPV6, x.PROTOCOL, x.PORT)}
_ADDRESS_KEYS = {4: x.IPV4, 6: x.IPV6}


@dataclass(frozen=True, slots=True)
class Set:
    """A named set: key type, keys, and a comment."""

    key: KeyType
    keys: frozenset[bytes]
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain: its rules in order, and a comment."""

    rules: tuple[x.Rule, ...]
    comment: str = ""


class Element(NamedTuple):
    """A key of one of the frame's sets or maps."""

    set: str
    key: bytes


@dataclass(frozen=True, slots=True)
class Part:
    """What one piece of the program is in the kernel. Elements without a target are of sets, others of maps."""

    sets: Mapping[str, Set] = field(default_factory=dict)
    chains: Mapping[str, Chain] = field(default_factory=dict)
    elements: Mapping[Element, Target | None] = field(default_factory=dict)


class Stage(NamedTuple):
    """What remains to be asked of an endpoint in one direction: tiers, then profiles."""

    direction: Direction
    tiers: tuple[tuple[str, ...], ...]
    profiles: tuple[str, ...]

    @property
    def chain(self) -> str:
        """Name of its chain."""
        return names.stage_chain(*self)

    @property
    def next(self) -> Stage:
        """Where Pass leads: the next tier, or the profiles after the last."""
        return self._replace(tiers=self.tiers[1:])

    @property
    def policies(self) -> tuple[str, ...]:
        """Ids of the policies or profiles that it asks."""
        return self.tiers[0] if self.tiers else self.profiles


class Piece(Enum):
    """Kinds of pieces."""

    GROUP = "group"
    POLICY = "policy"
    STAGE = "stage"
    ENDPOINT = "endpoint"


Owner = tuple[Piece, str | Stage | Attachment]
"""A piece of the program: its kind and identity."""


def group_part(group: Group) -> Part:
    """A group's sets: one for IPv4, and one for IPv6 if it has such members."""
    keys = _ADDRESS_KEYS if group.kind is Kind.ADDRESS else _PORT_KEYS
    return Part(sets={
        names.group_set(group.id, group.kind.name, version): Set(keys[version], members, group.selector)
        for version, members in ((4, group.ipv4), (6, group.ipv6)) if version == 4 or members})


def _rules(policy: Policy, direction: Direction) -> tuple[Rule, ...]:
    return policy.ingress if direction is Direction.INGRESS else policy.egress


def _passes(rules: tuple[Rule, ...]) -> bool:
    return any(rule.action is Action.PASS for rule in rules)


def policy_part(policy: Policy, groups: Mapping[str, Group]) -> Part:
    """A policy's chains, shared by all stages. One with Pass rules is rendered with the stages that ask it.

    What it denies is dropped in a chain of its own, for all of them.
    """
    chains: dict[str, Chain] = {}
    for direction in Direction:
        rules = _rules(policy, direction)
        if any(rule.action in (Action.DENY, Action.PASS) for rule in rules):
            chains[names.drop_chain(policy.id, direction)] = Chain(
                drop_rules(direction, names.policy_cause(policy.id, direction), "denied"), policy.id)
        if rules and not _passes(rules):
            chains[names.policy_chain(policy.id, direction)] = Chain(
                render(rules, direction, groups, policy.name or policy.id, names.drop_chain(policy.id, direction)),
                policy.id)
    return Part(chains=chains)


def stage_part(stage: Stage, policies: Mapping[str, Policy], groups: Mapping[str, Group]) -> Part:
    """A stage's chain, and the chains of its policies that have Pass rules."""
    chains: dict[str, Chain] = {}
    guard = names.FROM_GUARD if stage.direction is Direction.EGRESS else names.TO_GUARD
    rules = [x.Rule((x.verdict(x.JUMP, guard),))]
    for name in stage.policies:
        policy = policies.get(name)
        if policy is None:
            break  # a profile that is not there drops, whatever the ones behind it say: as the end of the stage does
        wanted = _rules(policy, stage.direction)
        if not wanted:
            continue
        chain = names.policy_chain(name, stage.direction)
        if _passes(wanted):
            chain = names.variant_chain(name, stage.chain)
            # In a profile there is nothing to pass on to: it drops.
            passing = stage.next.chain if stage.tiers else ""
            dropping = names.drop_chain(name, stage.direction)
            chains[chain] = Chain(render(wanted, stage.direction, groups, policy.name or name, dropping, passing), name)
        rules.append(x.Rule((x.verdict(x.JUMP, chain),), name))
    if stage.tiers:
        rules += [log_rule(policies[name].name or name) for name in stage.policies if policies[name].log_denied]
    rules += drop_rules(stage.direction, names.stage_cause(stage.chain),
                        "no policy decided" if stage.tiers else "no profile decided")
    chains[stage.chain] = Chain(tuple(rules))
    return Part(chains=chains)


def endpoint_stages(endpoint: Endpoint, policies: Mapping[str, Policy]) -> Iterator[Stage]:
    """The stages that an endpoint's packets can reach: the first of each direction, and where Pass leads from it."""
    for direction, tiers in ((Direction.INGRESS, endpoint.ingress), (Direction.EGRESS, endpoint.egress)):
        stage = Stage(direction, tiers, endpoint.profiles)
        yield stage
        while stage.tiers and any(_passes(_rules(policies[name], direction)) for name in stage.policies):
            stage = stage.next
            yield stage


def endpoint_part(endpoint: Endpoint) -> Part:
    """An endpoint's elements: where its packets are judged, and what it may send from."""
    interface = endpoint.interface.encode().ljust(16, b"\0")
    elements: dict[Element, Target | None] = {}
    for name, direction, tiers in ((names.TO_POD, Direction.INGRESS, endpoint.ingress),
                                   (names.FROM_POD, Direction.EGRESS, endpoint.egress)):
        chain = names.stage_chain(direction, tiers, endpoint.profiles)
        elements[Element(name, interface)] = Target(chain, endpoint.workload)
    for address in endpoint.addresses:
        name = names.SOURCES_4 if address.version == 4 else names.SOURCES_6
        elements[Element(name, interface + address.packed)] = None
    return Part(elements=elements)
