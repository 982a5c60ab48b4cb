"""Kubernetes' NetworkPolicy v1, Namespace and ServiceAccount, translated into policies and profiles.

What the API server would refuse is refused (`FieldError`, an InvalidArgument, names the path), and nothing of the
object counts. What it would take and we can not express is dropped with a `Condition`: a port, a peer, and where no
peer of a rule is left, the rule. The direction stays isolated, so that a drop can only close and never open.

A NetworkPolicy that an API server *has* taken is not refused for a rule: its users count on it, and a later version may
know what is not known here. Such a rule is dropped as a whole, with a condition; for types not known both stand.

Source of the rules: https://kubernetes.io/docs/concepts/services-networking/network-policies/ and the API reference
of networking.k8s.io/v1. Calico's own kinds are translated in `calico`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from muslin.selectors import Has, Selector, conjunction, equal
from services.policy import calico
from services.policy import labels as names
from services.policy.fields import Field, FieldError, Untranslatable
from services.policy.ipblocks import Network, merged, network
from services.policy.label_selectors import keys, terms
from services.policy.model import (
    NAMESPACE_PROFILE_PREFIX,
    PROTOCOLS,
    Action,
    Direction,
    Policy,
    PortRange,
    Profile,
    Rule,
    account_profile,
)
from services.policy.objects import Condition, Ref, Translation, check, header
from services.policy.port_ranges import merged_ranges

__all__ = ["Condition", "KUBERNETES_POLICY", "Ref", "Translation", "check", "translate"]

KUBERNETES_POLICY = "networking.k8s.io/v1"
"""Version of Kubernetes' NetworkPolicy."""

_VERSIONS = {"Namespace": "v1", "ServiceAccount": "v1", "NetworkPolicy": KUBERNETES_POLICY}
_TOP = ("apiVersion", "kind", "metadata", "spec", "status")
_SERVICE_ACCOUNT = ("apiVersion", "kind", "metadata", "secrets", "imagePullSecrets", "automountServiceAccountToken")
_PEER_LISTS = {Direction.INGRESS: "from", Direction.EGRESS: "to"}
_TYPES = {"Ingress": Direction.INGRESS, "Egress": Direction.EGRESS}


def translate(ref: Ref, manifest: object, origin: str = "", *, taken: bool = False) -> Translation:
    """Translate an object, given as decoded JSON. `taken`: an API server has it.

    Raises:
        FieldError: the API server would refuse it; of a NetworkPolicy that it has, what is beside the rules.
    """
    check(ref)
    if ref.kind in calico.KINDS:
        return calico.translate(ref, Field(manifest), origin)
    top = Field(manifest).fields(_SERVICE_ACCOUNT if ref.kind == "ServiceAccount" else _TOP)
    labels = header(ref, top, (_VERSIONS[ref.kind],), ref.kind)
    if ref.kind == "Namespace":
        return Translation(_namespace(ref.name, labels, origin))
    if ref.kind == "ServiceAccount":
        return Translation(_service_account(ref, labels, origin))
    kind = _Taken if taken else _NetworkPolicy
    return kind(ref, origin).translate(top.get("spec", Field({}, "spec")), top.get("metadata"))


def _service_account(ref: Ref, labels: dict[str, str], origin: str) -> Profile:
    """Its labels are those of its pods, under a prefix. It has no rules: no endpoint is in it."""
    derived = {names.ACCOUNT_PREFIX + key: value for key, value in {**labels, names.OBJECT_NAME: ref.name}.items()}
    return Profile(account_profile(ref.namespace, ref.name), derived, origin=origin)


def _namespace(name: str, labels: dict[str, str], origin: str) -> Profile:
    """Pods of a namespace: all is allowed that no policy forbids, and its labels are theirs under a prefix."""
    given = {**labels, names.METADATA_NAME: name, names.OBJECT_NAME: name}
    derived = {names.NAMESPACE_PREFIX + key: value for key, value in given.items()}
    return Profile(
        name=NAMESPACE_PROFILE_PREFIX + name,
        labels={**derived, names.NAMESPACE: name},
        ingress=(Rule(Action.ALLOW, path="ingress[0]"),),
        egress=(Rule(Action.ALLOW, path="egress[0]"),),
        origin=origin,
    )


@dataclass(frozen=True, slots=True)
class _Peer:
    selector: Selector | None = None
    nets: tuple[str, ...] = ()
    not_nets: tuple[str, ...] = ()


@dataclass(slots=True)
class _Ports:
    """The ports of one protocol in a rule; without ranges and names, all of them."""

    protocol: int = 0
    every: bool = False
    ranges: list[PortRange] = field(default_factory=list)
    names: set[str] = field(default_factory=set)

    def rule(self, path: str, peer: _Peer) -> Rule:
        ranges = () if self.every else merged_ranges(self.ranges)
        port_names = () if self.every else tuple(sorted(self.names))
        return Rule(Action.ALLOW, path, self.protocol, peer.selector, peer.nets, peer.not_nets, ranges, port_names)


class _NetworkPolicy:
    """Translation of one NetworkPolicy, gathering conditions."""

    def __init__(self, ref: Ref, origin: str) -> None:
        self.ref, self.origin = ref, origin
        self.conditions: list[Condition] = []

    def translate(self, spec: Field, metadata: Field | None) -> Translation:
        fields = spec.fields(("podSelector", "ingress", "egress", "policyTypes"))
        pods: list[Selector] = []
        if "podSelector" in fields:
            try:
                pods = self.pods(fields["podSelector"])
            except Untranslatable as problem:  # without it nobody knows whom the policy isolates
                raise FieldError(problem.path, problem.message) from None
        rules = {direction: self.rules(fields.get(direction.value), direction) for direction in Direction}
        directions = self.directions(fields.get("policyTypes"), has_egress=bool(rules[Direction.EGRESS]))
        for direction in set(Direction) - directions:
            if rules.pop(direction):
                self.conditions.append(Condition(fields[direction.value].path, "ignored, because spec.policyTypes does "
                                                 f"not name {direction.value.capitalize()}"))
        policy = Policy(
            name=f"knp.default.{self.ref.namespace}.{self.ref.name}",
            selector=conjunction([equal(names.NAMESPACE, self.ref.namespace), *pods]),
            directions=directions,
            ingress=self.flat(rules.get(Direction.INGRESS, ())),
            egress=self.flat(rules.get(Direction.EGRESS, ())),
            origin=self.origin,
            log_denied=self.logs(metadata),
        )
        return Translation(policy, tuple(self.conditions))

    def logs(self, metadata: Field | None) -> bool:
        """What the annotation says; anything that it does not know counts for nothing, and is told."""
        about = metadata.fields() if metadata else {}
        annotations = about["annotations"].value if "annotations" in about else None
        value = annotations.get(names.LOG_DENIED, "false") if isinstance(annotations, dict) else "false"
        if value not in ("true", "false"):
            self.conditions.append(Condition(f"metadata.annotations['{names.LOG_DENIED}']",
                                             'ignored, because it is neither "true" nor "false"'))
        return value == "true"

    def directions(self, types: Field | None, *, has_egress: bool) -> frozenset[Direction]:
        """The policy's types; unless given, Ingress, and Egress if it has rules for that."""
        items = types.items() if types else []
        if types and len(items) > len(_TYPES):
            raise types.error("must name Ingress and Egress at most")
        given = frozenset(_TYPES[item.one_of(tuple(_TYPES))] for item in items)
        return given or (frozenset(Direction) if has_egress else frozenset({Direction.INGRESS}))

    def rules(self, rules: Field | None, direction: Direction) -> list[tuple[Rule, ...]]:
        return [self.rule(rule, direction) for rule in (rules.items() if rules else ())]

    @staticmethod
    def flat(rules: Iterable[tuple[Rule, ...]]) -> tuple[Rule, ...]:
        return tuple(part for rule in rules for part in rule)

    def rule(self, rule: Field, direction: Direction) -> tuple[Rule, ...]:
        """A rule as one for each peer and protocol; none if no peer of it can be expressed."""
        fields = rule.fields((_PEER_LISTS[direction], "ports"))
        ports = self.ports(fields["ports"]) if "ports" in fields else []
        listed = fields[_PEER_LISTS[direction]].items() if _PEER_LISTS[direction] in fields else []
        peers = self.peers(listed) if listed else [_Peer()]
        if not peers:
            self.conditions.append(Condition(rule.path, "dropped, because none of its peers can be translated"))
        return tuple(part.rule(rule.path, peer) for peer in peers for part in ports or [_Ports()])

    def ports(self, ports: Field) -> list[_Ports]:
        """Ports by protocol. An empty list means any protocol."""
        found: dict[int, _Ports] = {}
        for item in ports.items():
            fields = item.fields(("protocol", "port", "endPort"))
            protocol = PROTOCOLS[fields["protocol"].one_of(tuple(PROTOCOLS)) if "protocol" in fields else "TCP"]
            part = found.setdefault(protocol, _Ports(protocol))
            port, end = fields.get("port"), fields.get("endPort")
            if end and (not port or isinstance(port.value, str)):
                raise end.error("needs `port` to be the number of the first port")
            if not port:
                part.every = True
            elif isinstance(port.value, str):
                part.names.add(port.port_name())
            else:
                part.ranges.append(_port_range(port, end))
        return [found[protocol] for protocol in sorted(found)]

    def peers(self, items: list[Field]) -> list[_Peer]:
        """Peers that can be expressed. Blocks without exceptions become one peer for each address family."""
        peers: list[_Peer] = []
        plain: list[Network] = []
        for item in items:
            try:
                peer = self.peer(item)
            except Untranslatable as problem:
                self.conditions.append(Condition(problem.path, f"{problem.message}; peer {item.path} was dropped"))
                continue
            if isinstance(peer, _Peer):
                peers.append(peer)
            else:
                plain.append(peer)
        return peers + [_Peer(nets=nets) for nets in merged(plain)]

    def peer(self, item: Field) -> _Peer | Network:
        fields = item.fields(("podSelector", "namespaceSelector", "ipBlock"))
        if not fields:
            raise item.error("must have podSelector, namespaceSelector or ipBlock")
        if "ipBlock" in fields:
            if len(fields) > 1:
                raise item.error("must not have ipBlock beside a selector; make two peers of it")
            return _block(fields["ipBlock"])
        if "namespaceSelector" in fields:
            # A namespace that nobody declared has no labels to judge by: it is never selected, not even by its lack.
            known = Has(names.NAMESPACE_PREFIX + names.METADATA_NAME)
            space: list[Selector] = [known, *terms(fields["namespaceSelector"], names.NAMESPACE_PREFIX)]
        else:
            space = [equal(names.NAMESPACE, self.ref.namespace)]
        pods = self.pods(fields["podSelector"]) if "podSelector" in fields else []
        return _Peer(selector=conjunction(space + pods))

    @staticmethod
    def pods(selector: Field) -> list[Selector]:
        """The terms of a selector of pods."""
        if bad := next(filter(names.reserved, sorted(keys(selector))), None):
            raise Untranslatable(selector.path, f"label {bad!r} is reserved: no pod can have it of its own")
        return terms(selector)


class _Taken(_NetworkPolicy):
    """Translation of a NetworkPolicy that an API server has taken."""

    def rule(self, rule: Field, direction: Direction) -> tuple[Rule, ...]:
        try:
            return super().rule(rule, direction)
        except FieldError as problem:
            self.conditions.append(_passed_over(problem, f"{rule.path} is dropped"))
            return ()

    def directions(self, types: Field | None, *, has_egress: bool) -> frozenset[Direction]:
        try:
            return super().directions(types, has_egress=has_egress)
        except FieldError as problem:
            self.conditions.append(_passed_over(problem, "both directions are isolated"))
            return frozenset(Direction)


def _passed_over(problem: FieldError, done: str) -> Condition:
    return Condition(problem.path, f"{problem.message.removeprefix(f'{problem.path}: ')}; {done}")


def _block(block: Field) -> _Peer | Network:
    fields = block.fields(("cidr", "except"))
    if "cidr" not in fields:
        raise FieldError(f"{block.path}.cidr", "is missing")
    items = fields["except"].items() if "except" in fields else []
    problem: Untranslatable | None = None
    networks: list[Network] = []
    for item in (fields["cidr"], *items):  # all are checked before the block is dropped: a refusal goes first
        try:
            networks.append(network(item))
        except Untranslatable as found:
            problem = problem or found
    if problem:
        raise problem
    whole, *holes = networks
    for hole, item in zip(holes, items, strict=True):
        if hole.version != whole.version or hole == whole or not hole.subnet_of(whole):  # type: ignore[arg-type]
            # (the versions were just found to be equal, which the type checker can not know)
            raise item.error(f"{hole} must lie within cidr {whole} and be smaller")
    return _Peer(nets=(str(whole),), not_nets=merged(holes)[0]) if holes else whole


def _port_range(port: Field, end: Field | None) -> PortRange:
    first = port.port()
    last = end.port() if end else first
    if end and last < first:
        raise end.error(f"{last} must not be below port {first}")
    return PortRange(first, last)
