"""Random clusters of tens of pods, and questions about them. A seed gives the same cluster anywhere."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from services.policy.model import PROTOCOLS, NamedPort
from tests.support.oracle import Flow, Oracle, Pod, Port, in_block
from tests.unit.policy import cluster as compiled

KEYS, VALUES = ("app", "tier", "example.com/env"), ("a", "b", "c", "")
NAMESPACES = ("alpha", "beta", "gamma", "delta")
PORTS = (53, 80, 81, 443, 8080)
"""On all of which every pod listens, whatever it declares."""
OUTSIDE = ("203.0.113.9", "198.51.100.7")
"""Addresses that no pod has."""
OUTSIDE_6 = ("2001:db8::9", "2001:db8:ff::7")
LENGTHS = (0, 1, 8, 16, 24, 26, 27, 28, 29, 30, 31, 32)
"""Of blocks, as far as they are IPv4's; IPv6's are as far from the end."""


@dataclass(frozen=True)
class RandomCluster:
    """Pods, and the manifests of Namespaces and NetworkPolicies."""

    pods: tuple[Pod, ...]
    namespaces: tuple[dict[str, Any], ...]
    policies: tuple[dict[str, Any], ...]

    @property
    def outside(self) -> tuple[str, ...]:
        """Addresses that no pod has, of the pods' family."""
        return _outside(self.pods[0].address)

    def oracle(self) -> Oracle:
        return Oracle(self.pods, self.namespaces, self.policies)

    def compiled(self) -> compiled.Cluster:
        """Compiled from nothing, on three nodes."""
        pods = [compiled_pod(pod, f"n{i % 3}") for i, pod in enumerate(self.pods)]
        return compiled.Cluster(pods, [*self.namespaces, *self.policies])

    def flows(self, protocols: tuple[str, ...] = tuple(PROTOCOLS)) -> Iterator[Flow]:
        """From everybody to everybody else; not between two addresses that are no pod's."""
        sides = (*(pod.key for pod in self.pods), *self.outside)
        for source, destination in itertools.permutations(sides, 2):
            if source in self.outside and destination in self.outside:
                continue
            for protocol, port in itertools.product(protocols, PORTS):
                yield Flow(source, destination, protocol, port)


def _outside(address: str) -> tuple[str, ...]:
    return OUTSIDE_6 if ":" in address else OUTSIDE


def compiled_pod(pod: Pod, node: str) -> compiled.Pod:
    """The same pod as the compiler's tests have it."""
    return compiled.Pod(pod.namespace, pod.name, pod.address, pod.labels,
                        tuple(NamedPort(p.name, PROTOCOLS[p.protocol], p.number) for p in pod.ports), node)


def explained(cluster: compiled.Cluster, flow: Flow) -> bool:
    """What Explain says of a flow."""
    return cluster.allowed(flow.source, flow.destination, flow.port, flow.protocol)


def shrunk(cluster: RandomCluster, flow: Flow) -> RandomCluster:
    """As little of the cluster as still has the oracle and Explain disagree about the flow."""
    def differs(smaller: RandomCluster) -> bool:
        return smaller.oracle().allowed(flow) != explained(smaller.compiled(), flow)

    progress = True
    while progress:
        progress = False
        for smaller in _smaller(cluster, {flow.source, flow.destination}):
            if differs(smaller):
                cluster, progress = smaller, True
                break
    return cluster


def _smaller(cluster: RandomCluster, keep: set[str]) -> Iterator[RandomCluster]:
    for i, policy in enumerate(cluster.policies):
        before, after = cluster.policies[:i], cluster.policies[i + 1:]
        yield replace(cluster, policies=(*before, *after))
        for direction in ("ingress", "egress"):
            rules = policy["spec"].get(direction) or []
            for j in range(len(rules)):
                spec = {**policy["spec"], direction: rules[:j] + rules[j + 1:]}
                yield replace(cluster, policies=(*before, {**policy, "spec": spec}, *after))
    for i, pod in enumerate(cluster.pods):
        if pod.key not in keep:
            yield replace(cluster, pods=(*cluster.pods[:i], *cluster.pods[i + 1:]))


class Maker:
    """Draws clusters. Few labels, ports and addresses, so that things meet."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def cluster(self, addresses: tuple[str, ...], policies: int = 12) -> RandomCluster:
        """With a pod at each address, in all namespaces."""
        pods = tuple(Pod(self._one(NAMESPACES), f"p{i}", address, self._labels(), self._declared())
                     for i, address in enumerate(addresses))
        spaces = tuple(compiled.namespace(name, self._labels()) for name in NAMESPACES)
        return RandomCluster(pods, spaces, tuple(self._policy(f"np{i}", addresses)
                                                 for i in range(self._random.randint(0, policies))))

    def _one(self, choices: Any) -> Any:
        return self._random.choice(choices)

    def _chance(self, part: float) -> bool:
        return self._random.random() < part

    def _some(self, choices: Any, least: int, most: int) -> list[Any]:
        return self._random.sample(list(choices), self._random.randint(least, most))

    def _labels(self) -> dict[str, str]:
        return {key: self._one(VALUES) for key in self._some(KEYS, 0, len(KEYS))}

    def _declared(self) -> tuple[Port, ...]:
        """Named ports: the same name for another number or protocol in another pod, or for none."""
        ports = self._some(itertools.product(PROTOCOLS, PORTS), 0, 4)
        return tuple(Port(name, *port) for name, port in zip(self._some(("web", "dns", "api", "x-1"), 4, 4), ports,
                                                             strict=False))

    def _policy(self, name: str, addresses: tuple[str, ...]) -> dict[str, Any]:
        spec: dict[str, Any] = {"podSelector": {} if self._chance(0.2) else self._selector()}
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            if self._chance(0.7):
                spec[direction] = [self._rule(peers, addresses) for _ in range(self._one((0, 1, 1, 2, 3)))]
            elif self._chance(0.1):
                spec[direction] = None
        if self._chance(0.6):
            spec["policyTypes"] = self._some(("Ingress", "Egress"), 0, 2)
        return compiled.network_policy(self._one(NAMESPACES), name, spec)

    def _selector(self) -> dict[str, Any]:
        selector: dict[str, Any] = {}
        if self._chance(0.5):
            selector["matchLabels"] = {key: self._one(VALUES) for key in self._some(KEYS, 0, 1)}
        if self._chance(0.5):
            selector["matchExpressions"] = [self._expression() for _ in range(self._one((0, 1, 1, 2)))]
        return selector

    def _expression(self) -> dict[str, Any]:
        operator = self._one(("In", "NotIn", "Exists", "DoesNotExist"))
        expression: dict[str, Any] = {"key": self._one(KEYS), "operator": operator}
        if operator in ("In", "NotIn"):
            expression["values"] = self._some((*VALUES, "d"), 1, 3)
        elif self._chance(0.3):
            expression["values"] = []
        return expression

    def _spaces(self) -> dict[str, Any]:
        """A selector of namespaces: often by their name, as people do."""
        if self._chance(0.4):
            return {"matchLabels": {"kubernetes.io/metadata.name": self._one(NAMESPACES)}}
        return self._selector()

    def _rule(self, peers: str, addresses: tuple[str, ...]) -> dict[str, Any]:
        rule: dict[str, Any] = {}
        for key in (peers, "ports"):
            if self._chance(0.7):
                rule[key] = [self._port() if key == "ports" else self._peer(addresses)
                             for _ in range(self._one((0, 1, 1, 2, 3)))]
            elif self._chance(0.1):
                rule[key] = None
        return rule

    def _peer(self, addresses: tuple[str, ...]) -> dict[str, Any]:
        match self._random.randrange(8):
            case 0 | 1:
                return {"podSelector": self._selector()}
            case 2 | 3:
                return {"namespaceSelector": self._spaces()}
            case 4 | 5:
                return {"podSelector": self._selector(), "namespaceSelector": self._spaces()}
        return {"ipBlock": self._block(addresses)}

    def _block(self, addresses: tuple[str, ...]) -> dict[str, Any]:
        """Around some address, of some length, sometimes with bits set behind it; exceptions lie within."""
        if self._chance(0.1):
            return {"cidr": self._one(("0.0.0.0/0", "::/0", "::/1", "128.0.0.0/1"))}
        bits = 128 if ":" in addresses[0] else 32
        length = self._one(LENGTHS)
        if bits == 128 and length > 1:
            length += 96
        block: dict[str, Any] = {"cidr": f"{self._one((*addresses, *_outside(addresses[0])))}/{length}"}
        if length < bits and self._chance(0.5):
            block["except"] = [self._hole(block["cidr"], addresses) for _ in range(self._one((0, 1, 2, 3)))]
        return block

    def _hole(self, cidr: str, addresses: tuple[str, ...]) -> str:
        bits = 128 if ":" in cidr else 32
        length = max(int(cidr.partition("/")[2]) + 1, self._random.randint(bits - 32, bits))
        within = [each for each in (*addresses, *_outside(addresses[0])) if in_block({"cidr": cidr}, each)]
        return f"{self._one(within)}/{length}"

    def _port(self) -> dict[str, Any]:
        port: dict[str, Any] = {}
        if self._chance(0.7):
            port["protocol"] = self._one(tuple(PROTOCOLS))
        match self._random.randrange(5):
            case 0 | 1:
                port["port"] = self._one(PORTS)
            case 2:
                port["port"] = self._one(("web", "dns", "api", "x-1", "gone"))
            case 3:
                port["port"] = self._one((1, 53, 79, 80, 82, 443))
                port["endPort"] = max(port["port"], self._one((53, 80, 81, 442, 443, 8080, 65535)))
        return port
