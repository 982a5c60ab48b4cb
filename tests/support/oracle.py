"""NetworkPolicy as its documentation says it, to judge everything else by.

It reads manifests as their users wrote them and asks, for one flow, each policy, each rule, each peer and each port in
turn. It shares no code with what it judges, keeps nothing between two questions, and is not meant to be quick.

Sentences in quotes are from https://kubernetes.io/docs/concepts/services-networking/network-policies/ and from the API
reference of networking.k8s.io/v1.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class Port:
    """A port that a container declares."""

    name: str
    protocol: str
    number: int


@dataclass(frozen=True)
class Pod:
    """A pod with one address."""

    namespace: str
    name: str
    address: str
    labels: Mapping[str, str] = field(default_factory=dict)
    ports: Sequence[Port] = ()

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, order=True)
class Flow:
    """A question. Each side is a pod's `namespace/name`, or an address."""

    source: str
    destination: str
    protocol: str
    port: int

    def __str__(self) -> str:
        return f"{self.source} -> {self.destination} {self.protocol}/{self.port}"


class Oracle:
    """Pods, Namespaces and NetworkPolicies of a cluster; all namespaces must be there."""

    def __init__(self, pods: Iterable[Pod], namespaces: Iterable[Manifest], policies: Iterable[Manifest]) -> None:
        self.pods = list(pods)
        self.policies = list(policies)
        self.namespaces: dict[str, dict[str, str]] = {}
        for manifest in namespaces:
            name = manifest["metadata"]["name"]
            # "The Kubernetes control plane sets an immutable label kubernetes.io/metadata.name on all namespaces,
            # the value of the label is the namespace name."
            self.namespaces[name] = {**(manifest["metadata"].get("labels") or {}), "kubernetes.io/metadata.name": name}

    def pod(self, side: str) -> Pod | None:
        """The pod of one side of a flow; None where no pod has that address."""
        for pod in self.pods:
            if side in (pod.key, pod.address):
                return pod
        assert "/" not in side, side
        return None

    def address(self, side: str) -> str:
        """The address of one side of a flow."""
        pod = self.pod(side)
        return pod.address if pod is not None else side

    def allowed(self, flow: Flow) -> bool:
        """Whether the flow passes.

        "For a connection from a source pod to a destination pod to be allowed, both the egress policy on the source
        pod and the ingress policy on the destination pod need to allow the connection."
        """
        source, destination = self.pod(flow.source), self.pod(flow.destination)
        if source is not None and source is destination:
            return True  # "A pod cannot block access to itself."
        return self.egress(flow) and self.ingress(flow)

    def egress(self, flow: Flow) -> bool:
        """What the source's policies say; an address that is no pod's has none."""
        pod = self.pod(flow.source)
        return pod is None or self._direction(pod, "Egress", flow)

    def ingress(self, flow: Flow) -> bool:
        """What the destination's policies say; an address that is no pod's has none."""
        pod = self.pod(flow.destination)
        return pod is None or self._direction(pod, "Ingress", flow)

    def _direction(self, pod: Pod, direction: str, flow: Flow) -> bool:
        """One pod in one direction.

        "By default, a pod is non-isolated for egress; all outbound connections are allowed. A pod is isolated for
        egress if there is any NetworkPolicy that both selects the pod and has 'Egress' in its policyTypes ... the only
        allowed connections from the pod are those allowed by the egress list of some NetworkPolicy that applies to the
        pod for egress." The same of ingress. "Network policies do not conflict; they are additive."
        """
        isolated = False
        for policy in self.policies:
            if policy["metadata"]["namespace"] != pod.namespace:
                continue
            spec = policy.get("spec") or {}
            if direction not in self.types(spec):
                continue
            # "An empty podSelector selects all pods in the namespace."
            if not matches(spec.get("podSelector") or {}, pod.labels):
                continue
            isolated = True
            for rule in spec.get(direction.lower()) or []:
                if self._rule(rule, direction, pod.namespace, flow):
                    return True
        return not isolated

    @staticmethod
    def types(spec: Manifest) -> list[str]:
        """Directions that a policy is about.

        "If no policyTypes are specified on a NetworkPolicy then by default Ingress will always be set and Egress will
        be set if the NetworkPolicy has any egress rules."
        """
        if spec.get("policyTypes"):
            return list(spec["policyTypes"])
        if spec.get("egress"):
            return ["Ingress", "Egress"]
        return ["Ingress"]

    def _rule(self, rule: Manifest, direction: str, namespace: str, flow: Flow) -> bool:
        """One rule: "Each rule allows traffic which matches both the from and ports sections." Of egress: to."""
        peers = rule.get("from" if direction == "Ingress" else "to")
        ports = rule.get("ports")
        peer_matches = port_matches = False
        if not peers:
            # "If this field is empty or missing, this rule matches all sources (traffic not restricted by source)."
            peer_matches = True
        for peer in peers or []:
            if self._peer(peer, namespace, flow.source if direction == "Ingress" else flow.destination):
                peer_matches = True
        if not ports:
            # "If this field is empty or missing, this rule matches all ports (traffic not restricted by port)."
            port_matches = True
        for port in ports or []:
            if self._port(port, flow):
                port_matches = True
        return peer_matches and port_matches

    def _peer(self, peer: Manifest, namespace: str, side: str) -> bool:
        if peer.get("ipBlock") is not None:
            return in_block(peer["ipBlock"], self.address(side))
        pod = self.pod(side)
        if pod is None:
            return False
        pods, spaces = peer.get("podSelector"), peer.get("namespaceSelector")
        if spaces is None:
            # "podSelector: This selects particular Pods in the same namespace as the NetworkPolicy"
            return pod.namespace == namespace and matches(pods, pod.labels)
        if pods is None:
            # "namespaceSelector: This selects particular namespaces for which all Pods should be allowed"
            return matches(spaces, self.namespaces[pod.namespace])
        # "namespaceSelector and podSelector: ... selects particular Pods within particular namespaces."
        return matches(spaces, self.namespaces[pod.namespace]) and matches(pods, pod.labels)

    def _port(self, port: Manifest, flow: Flow) -> bool:
        # "protocol represents the protocol (TCP, UDP, or SCTP) which traffic must match. If not specified, this field
        # defaults to TCP."
        if (port.get("protocol") or "TCP") != flow.protocol:
            return False
        wanted = port.get("port")
        if wanted is None:
            return True  # "If this field is not provided, this matches all port names and numbers."
        if isinstance(wanted, str):
            # "a numerical or named port on a pod": the pod that is connected to
            pod = self.pod(flow.destination)
            for declared in pod.ports if pod is not None else ():
                if (declared.name, declared.protocol, declared.number) == (wanted, flow.protocol, flow.port):
                    return True
            return False
        if port.get("endPort") is not None:
            # "endPort indicates that the range of ports from port to endPort if set, inclusive, should be allowed"
            return bool(wanted <= flow.port <= port["endPort"])
        return bool(wanted == flow.port)


def in_block(block: Manifest, address: str) -> bool:
    """Whether an address is meant: "except is a slice of CIDRs that should not be included within an ipBlock"."""
    one = ipaddress.ip_address(address)
    if one not in ipaddress.ip_network(block["cidr"], strict=False):
        return False
    return all(one not in ipaddress.ip_network(hole, strict=False) for hole in block.get("except") or [])


def matches(selector: Manifest | None, labels: Mapping[str, str]) -> bool:
    """Whether a LabelSelector selects.

    "The result of matchLabels and matchExpressions are ANDed. An empty label selector matches all objects. A null
    label selector matches no objects."
    """
    if selector is None:
        return False
    for key, value in (selector.get("matchLabels") or {}).items():
        if key not in labels or labels[key] != value:
            return False
    for expression in selector.get("matchExpressions") or []:
        key, values = expression["key"], expression.get("values") or []
        match expression["operator"]:
            case "In":
                holds = key in labels and labels[key] in values
            case "NotIn":  # "... as well as those with no label with that key"
                holds = key not in labels or labels[key] not in values
            case "Exists":
                holds = key in labels
            case "DoesNotExist":
                holds = key not in labels
            case other:
                raise AssertionError(other)
        if not holds:
            return False
    return True
