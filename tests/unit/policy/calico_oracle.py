"""What Calico's manifests say of a packet, read directly: no groups, no compilation, no index.

It is slow and plain on purpose. Selectors are evaluated by the parser's own values, which have tests of their own; what
is judged here is which labels they see, in which order policies come, and what their actions lead to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_network
from math import inf
from typing import Any

from muslin.selectors import parse
from services.policy.explain import Packet
from tests.unit.policy.cluster import Pod

_NUMBERS = {"TCP": 6, "UDP": 17}


def _own(labels: Mapping[str, str], prefix: str) -> dict[str, str]:
    """The labels under a prefix, without it: as the selector of namespaces or of service accounts sees them."""
    return {key[len(prefix):]: value for key, value in labels.items() if key.startswith(prefix)}


def _selects(text: str, labels: Mapping[str, str], prefix: str, name: str) -> bool:
    """Whether a selector of namespaces or accounts selects what a pod is in; `all()` is any, if it is in one."""
    inside = name in labels
    if text == "global()":
        return not inside
    if text == "all()":
        return inside
    seen = _own(labels, prefix)
    # `all()` within an expression means to be in one; everything else is about labels.
    marked = text.replace("all()", "has(is-in-one)")
    return parse(marked).matches({**seen, **({"is-in-one": ""} if inside else {})})


class World:
    """Pods and manifests."""

    def __init__(self, pods: Iterable[Pod], manifests: Iterable[Mapping[str, Any]]) -> None:
        self.manifests = list(manifests)
        self.pods = {pod.address: pod for pod in pods}
        self.labels = {pod.address: self._labels(pod) for pod in self.pods.values()}

    def _found(self, kind: str) -> list[Mapping[str, Any]]:
        return [manifest for manifest in self.manifests if manifest["kind"] == kind]

    def _labels(self, pod: Pod) -> dict[str, str]:
        labels: dict[str, str] = {}
        for profile in self._found("Profile"):
            if profile["metadata"]["name"] in (pod.endpoint().profiles):
                labels.update(profile["spec"]["labelsToApply"])
        labels.update(pod.labels)
        for space in self._found("Namespace"):
            if (name := space["metadata"]["name"]) == pod.namespace:
                own = {**space["metadata"]["labels"], "projectcalico.org/name": name}
                labels.update({f"pcns.{key}": value for key, value in own.items()})
        for account in self._found("ServiceAccount"):
            meta = account["metadata"]
            if (meta["namespace"], meta["name"]) == (pod.namespace, pod.account):
                own = {**meta["labels"], "projectcalico.org/name": meta["name"]}
                labels.update({f"pcsa.{key}": value for key, value in own.items()})
        return {**labels, "projectcalico.org/namespace": pod.namespace, "projectcalico.org/serviceaccount": pod.account}

    def allowed(self, packet: Packet) -> bool:
        """Whether both sides let it pass."""
        return all(self._side(self.pods[address], way, packet)
                   for address, way in ((packet.source, "egress"), (packet.destination, "ingress"))
                   if address in self.pods)

    def _side(self, pod: Pod, way: str, packet: Packet) -> bool:
        tiers: dict[str, list[Mapping[str, Any]]] = {}
        for policy in (*self._found("NetworkPolicy"), *self._found("GlobalNetworkPolicy")):
            if way.capitalize() in self._types(policy["spec"]) and self._is_for(policy, pod):
                tiers.setdefault(policy["spec"]["tier"], []).append(policy)
        for name in sorted(tiers, key=lambda tier: (self._tier(tier)[0], tier)):
            verdict = self._policies(tiers[name], way, packet)
            if (verdict or self._tier(name)[1]) in ("Allow", "Deny"):
                return (verdict or self._tier(name)[1]) == "Allow"
        for profile in pod.endpoint().profiles:
            if profile.startswith("k8s_ns."):
                return True
            found = [item for item in self._found("Profile") if item["metadata"]["name"] == profile]
            if not found:
                return False
            if verdict := self._first(found[0]["spec"].get(way, []), way, "", packet):
                return verdict == "Allow"
        return False

    def _tier(self, name: str) -> tuple[float, str]:
        if name == "default":
            return 1_000_000, "Deny"
        for tier in self._found("Tier"):
            if tier["metadata"]["name"] == name:
                return tier["spec"].get("order", inf), tier["spec"]["defaultAction"]
        return inf, "Deny"

    @staticmethod
    def _types(spec: Mapping[str, Any]) -> list[str]:
        if "types" in spec:
            return list(spec["types"])
        return [way.capitalize() for way in ("ingress", "egress") if spec[way]] or ["Ingress"]

    def _is_for(self, policy: Mapping[str, Any], pod: Pod) -> bool:
        spec, labels = policy["spec"], self.labels[pod.address]
        if policy["kind"] == "NetworkPolicy":
            return policy["metadata"]["namespace"] == pod.namespace and parse(spec["selector"]).matches(labels)
        return (parse(spec["selector"]).matches(labels)
                and ("namespaceSelector" not in spec
                     or _selects(spec["namespaceSelector"], labels, "pcns.", "projectcalico.org/namespace"))
                and ("serviceAccountSelector" not in spec
                     or _selects(spec["serviceAccountSelector"], labels, "pcsa.", "projectcalico.org/serviceaccount")))

    def _policies(self, policies: list[Mapping[str, Any]], way: str, packet: Packet) -> str:
        def place(policy: Mapping[str, Any]) -> tuple[float, str]:
            meta = policy["metadata"]
            name = f"{meta['namespace']}/{meta['name']}" if "namespace" in meta else meta["name"]
            return policy["spec"].get("order", inf), name

        for policy in sorted(policies, key=place):
            space = policy["metadata"].get("namespace", "")
            if verdict := self._first(policy["spec"][way], way, space, packet):
                return verdict
        return ""

    def _first(self, rules: Iterable[Mapping[str, Any]], way: str, space: str, packet: Packet) -> str:
        for rule in rules:
            if rule["action"] != "Log" and self._matches(rule, way, space, packet):
                return str(rule["action"])
        return ""

    def _matches(self, rule: Mapping[str, Any], way: str, space: str, packet: Packet) -> bool:
        if "protocol" in rule and _NUMBERS[rule["protocol"]] != packet.protocol:
            return False
        ports = rule["destination"]
        if ports.get("ports") and not self._port(ports["ports"], packet.port):
            return False
        if self._port(ports.get("notPorts", []), packet.port):
            return False
        peer, address = ((rule["source"], packet.source) if way == "ingress"
                         else (rule["destination"], packet.destination))
        host = ip_address(address)
        if peer.get("nets") and not any(host in ip_network(net) for net in peer["nets"]):
            return False
        if any(host in ip_network(net) for net in peer.get("notNets", [])):
            return False
        return self._peer(peer, address, space)

    @staticmethod
    def _port(listed: Iterable[int | str], port: int) -> bool:
        for item in listed:
            first, _, last = str(item).partition(":")
            if int(first) <= port <= int(last or first):
                return True
        return False

    def _peer(self, peer: Mapping[str, Any], address: str, space: str) -> bool:
        accounts = peer.get("serviceAccounts", {})
        asks = ["selector" in peer, "notSelector" in peer, "namespaceSelector" in peer,
                bool(accounts.get("names") or accounts.get("selector"))]
        if not any(asks):
            return True
        if address not in self.labels:
            return False
        labels = self.labels[address]
        if "namespaceSelector" in peer:
            if not _selects(peer["namespaceSelector"], labels, "pcns.", "projectcalico.org/namespace"):
                return False
        elif space and labels["projectcalico.org/namespace"] != space:
            return False
        if accounts.get("names") and labels["projectcalico.org/serviceaccount"] not in accounts["names"]:
            return False
        if accounts.get("selector") and not _selects(accounts["selector"], labels, "pcsa.",
                                                     "projectcalico.org/serviceaccount"):
            return False
        if "selector" in peer and not parse(peer["selector"]).matches(labels):
            return False
        return "notSelector" not in peer or not parse(peer["notSelector"]).matches(labels)
