"""A direct reading of the NetworkPolicy documentation, to judge the compiler by.

It works on manifests and pods, and shares no code with what it judges.
https://kubernetes.io/docs/concepts/services-networking/network-policies/
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.unit.policy.cluster import Pod

NUMBERS = {"TCP": 6, "UDP": 17, "SCTP": 132}


@dataclass(frozen=True)
class Side:
    """One end of a flow."""

    address: str
    pod: Pod | None


class Oracle:
    """Pods, Namespaces and NetworkPolicies as their users wrote them."""

    def __init__(self, pods: Iterable[Pod], namespaces: Iterable[Mapping[str, Any]],
                 policies: Iterable[Mapping[str, Any]]) -> None:
        self.pods = {pod.workload: pod for pod in pods}
        self.addresses = {pod.address: pod for pod in self.pods.values()}
        self.policies = list(policies)
        self.labels = {ns["metadata"]["name"]: {**ns["metadata"]["labels"],
                                                "kubernetes.io/metadata.name": ns["metadata"]["name"]}
                       for ns in namespaces}

    def side(self, name: str) -> Side:
        """`namespace/name`, or an address."""
        pod = self.pods[name] if "/" in name else self.addresses.get(name)
        return Side(pod.address if pod else name, pod)

    def allowed(self, source: str, destination: str, port: int, protocol: str) -> bool:
        """Both the source's egress and the destination's ingress must allow it."""
        sender, receiver = self.side(source), self.side(destination)
        if sender.pod is not None and sender.pod is receiver.pod:
            return True  # "a Pod cannot block access to itself"
        return (self.direction_allows(sender.pod, "egress", receiver, receiver, port, protocol)
                and self.direction_allows(receiver.pod, "ingress", sender, receiver, port, protocol))

    def direction_allows(self, pod: Pod | None, direction: str, peer: Side, receiver: Side, port: int,
                         protocol: str) -> bool:
        """Not isolated in this direction: all is allowed. Isolated: what a rule of some policy allows, and no more."""
        if pod is None:
            return True
        isolating = [policy for policy in self.policies
                     if policy["metadata"]["namespace"] == pod.namespace
                     and direction in self.types(policy["spec"])
                     and self.selects(policy["spec"].get("podSelector") or {}, pod.labels)]
        return not isolating or any(
            self.rule_allows(rule, "from" if direction == "ingress" else "to", pod.namespace, peer, receiver, port,
                             protocol)
            for policy in isolating for rule in policy["spec"].get(direction) or ())

    @staticmethod
    def types(spec: Mapping[str, Any]) -> set[str]:
        """Which directions a policy isolates."""
        if spec.get("policyTypes"):
            return {kind.lower() for kind in spec["policyTypes"]}
        return {"ingress", "egress"} if spec.get("egress") else {"ingress"}

    def rule_allows(self, rule: Mapping[str, Any], peers: str, space: str, peer: Side, receiver: Side, port: int,
                    protocol: str) -> bool:
        """Peers and ports must match; empty or missing matches all."""
        return ((not rule.get(peers) or any(self.is_peer(item, space, peer) for item in rule[peers]))
                and (not rule.get("ports") or any(self.is_port(item, receiver, port, protocol)
                                                  for item in rule["ports"])))

    def is_peer(self, item: Mapping[str, Any], space: str, peer: Side) -> bool:
        """A peer of a rule and one side of a flow."""
        if "ipBlock" in item:
            address = ipaddress.ip_address(peer.address)
            return (address in ipaddress.ip_network(item["ipBlock"]["cidr"], strict=False)
                    and not any(address in ipaddress.ip_network(hole) for hole in item["ipBlock"].get("except", ())))
        if peer.pod is None:
            return False
        if "namespaceSelector" in item:
            if not self.selects(item["namespaceSelector"], self.labels[peer.pod.namespace]):
                return False
        elif peer.pod.namespace != space:
            return False
        return "podSelector" not in item or self.selects(item["podSelector"], peer.pod.labels)

    @staticmethod
    def is_port(item: Mapping[str, Any], receiver: Side, port: int, protocol: str) -> bool:
        """A port of a rule and the destination of a flow."""
        if item.get("protocol", "TCP") != protocol:
            return False
        wanted = item.get("port")
        if wanted is None:
            return True
        if isinstance(wanted, str):
            return receiver.pod is not None and any(
                (p.name, p.protocol, p.port) == (wanted, NUMBERS[protocol], port) for p in receiver.pod.ports)
        return bool(wanted <= port <= item.get("endPort", wanted))

    @staticmethod
    def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
        """A label selector: all of its requirements hold."""
        if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
            return False
        for expression in selector.get("matchExpressions", ()):
            key, values = expression["key"], expression.get("values", ())
            holds = {"In": key in labels and labels[key] in values,
                     "NotIn": key not in labels or labels[key] not in values,
                     "Exists": key in labels, "DoesNotExist": key not in labels}[expression["operator"]]
            if not holds:
                return False
        return True
