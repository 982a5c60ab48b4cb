"""The structure of a NetworkPolicy's specification: every field known, and of its type.

Strict, because a misspelt field that is passed over in silence may open what was meant to be shut. What the values mean
(CIDRs, port ranges, operators) is the policy service's to judge.
"""

from __future__ import annotations

from muslin.kube.field import Field

__all__ = ["check"]


def check(spec: Field) -> None:
    """Raise InvalidArgument unless the fields are those of networking.k8s.io/v1 NetworkPolicySpec."""
    fields = spec.only("podSelector", "policyTypes", "ingress", "egress")
    _selector(spec.require("podSelector", "say podSelector: {} for all pods of the namespace"))
    if "policyTypes" in fields:
        for item in fields["policyTypes"].items():
            item.string()
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        if direction in fields:
            for rule in fields[direction].items():
                _rule(rule, peers)


def _rule(rule: Field, peers: str) -> None:
    fields = rule.only(peers, "ports")
    if peers in fields:
        for peer in fields[peers].items():
            parts = peer.only("podSelector", "namespaceSelector", "ipBlock")
            for name in ("podSelector", "namespaceSelector"):
                if name in parts:
                    _selector(parts[name])
            if "ipBlock" in parts:
                block = parts["ipBlock"].only("cidr", "except")
                parts["ipBlock"].require("cidr", "such as 10.0.0.0/8").string()
                if "except" in block:
                    for item in block["except"].items():
                        item.string()
    if "ports" in fields:
        for port in fields["ports"].items():
            parts = port.only("protocol", "port", "endPort")
            if "protocol" in parts:
                parts["protocol"].string()
            if "port" in parts and not isinstance(parts["port"].node.value, str):
                parts["port"].integer(-1 << 31, (1 << 31) - 1)
            if "endPort" in parts:
                parts["endPort"].integer(-1 << 31, (1 << 31) - 1)


def _selector(selector: Field) -> None:
    fields = selector.only("matchLabels", "matchExpressions")
    if "matchLabels" in fields:
        fields["matchLabels"].strings()
    if "matchExpressions" in fields:
        for expression in fields["matchExpressions"].items():
            parts = expression.only("key", "operator", "values")
            expression.require("key", "name the label").string()
            expression.require("operator", "one of In, NotIn, Exists, DoesNotExist").string()
            if "values" in parts:
                for value in parts["values"].items():
                    value.string()
