"""What our translation makes of a NetworkPolicy, written as Calico's resource, for a judge that reads Calico's."""

from __future__ import annotations

from typing import Any

from muslin.selectors import NAMESPACE, Selector, keys_of
from muslin.selectors.expressions import All, And
from services.policy.labels import NAMESPACE_PREFIX
from services.policy.model import PROTOCOLS, Direction, Policy, Rule

_NAMES = {number: name for name, number in PROTOCOLS.items()}


def network_policy(policy: Policy, namespace: str) -> dict[str, Any]:
    """A projectcalico.org/v3 NetworkPolicy of the same rules."""
    spec: dict[str, Any] = {
        "order": policy.order,
        "selector": _entity(policy.selector)["selector"],
        "types": sorted(direction.value.capitalize() for direction in policy.directions)}
    for direction, rules, peer in ((Direction.INGRESS, policy.ingress, "source"),
                                   (Direction.EGRESS, policy.egress, "destination")):
        if direction in policy.directions:
            spec[direction.value] = [_rule(rule, peer) for rule in rules]
    return {"apiVersion": "projectcalico.org/v3", "kind": "NetworkPolicy",
            "metadata": {"name": policy.name, "namespace": namespace}, "spec": spec}


def _rule(rule: Rule, peer: str) -> dict[str, Any]:
    made: dict[str, Any] = {"action": rule.action.value.capitalize(), "source": {}, "destination": {}}
    if rule.protocol:
        made["protocol"] = _NAMES[rule.protocol]
    if rule.peer is not None:
        made[peer].update(_entity(rule.peer))
    for key, nets in (("nets", rule.nets), ("notNets", rule.not_nets)):
        if nets:
            made[peer][key] = list(nets)
    ports: list[int | str] = [first if first == last else f"{first}:{last}" for first, last in rule.ports]
    if ports or rule.port_names:
        made["destination"]["ports"] = [*ports, *rule.port_names]
    return made


def _entity(selector: Selector) -> dict[str, str]:
    """Terms on a namespace's labels apart from those on a pod's; one's own namespace goes unsaid."""
    terms = selector.operands if isinstance(selector, And) else () if isinstance(selector, All) else (selector,)
    pods = [str(term) for term in terms if not _of_space(term) and keys_of(term) != {NAMESPACE}]
    spaces = [str(term).replace(NAMESPACE_PREFIX, "") for term in terms if _of_space(term)]
    made = {"selector": " && ".join(pods) or "all()"}
    if spaces:
        made["namespaceSelector"] = " && ".join(spaces)
    return made


def _of_space(term: Selector) -> bool:
    return all(key.startswith(NAMESPACE_PREFIX) for key in keys_of(term))
