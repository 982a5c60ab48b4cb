"""Calico's own kinds: NetworkPolicy, GlobalNetworkPolicy, Tier and Profile of projectcalico.org/v3.

What Calico would refuse is refused, and so is what can not be enforced here (rules on ICMP types, on source ports, on
HTTP; policies for hosts): `FieldError` names the path, and nothing of the object counts. A rule is never taken in part.

Source of the rules: the reference of the resources at https://docs.tigera.io/calico/latest/reference/resources/.
"""

from __future__ import annotations

from math import inf

from muslin.selectors import Selector, conjunction, equal
from services.policy import labels as names
from services.policy.calico_rules import Rules
from services.policy.calico_selectors import namespaces, pods, service_accounts
from services.policy.fields import Field, FieldError
from services.policy.model import (
    DEFAULT_TIER,
    NAMESPACE_PROFILE_PREFIX,
    Action,
    Direction,
    Policy,
    Profile,
    Rule,
    Tier,
)
from services.policy.objects import CALICO_POLICY, Condition, Ref, Translation, header

KINDS = (CALICO_POLICY, "GlobalNetworkPolicy", "Tier", "Profile")
"""What is translated here."""
VERSIONS = ("projectcalico.org/v3", "crd.projectcalico.org/v1")
"""The API, and the objects that Calico keeps behind it, which say the same."""

_TOP = ("apiVersion", "kind", "metadata", "spec")
_POLICY = ("order", "tier", "selector", "serviceAccountSelector", "types", "ingress", "egress", "performanceHints")
_GLOBAL = (*_POLICY, "namespaceSelector", "doNotTrack", "preDNAT", "applyOnForward")
_TYPES = {"Ingress": Direction.INGRESS, "Egress": Direction.EGRESS}
_DEFAULT_ACTIONS = {"Deny": Action.DENY, "Pass": Action.PASS}
_KUBERNETES_PREFIX = "knp."
_RESERVED_TIER = "profile"
"""Ids of policies begin with their tier's name, those of profiles with this."""


def translate(ref: Ref, manifest: Field, origin: str) -> Translation:
    """Translate an object of one of `KINDS`.

    Raises:
        FieldError: Calico would refuse it, or it can not be enforced.
    """
    top = manifest.fields((*_TOP, "status") if ref.kind == "Tier" else _TOP)
    header(ref, top, VERSIONS, "NetworkPolicy" if ref.kind == CALICO_POLICY else ref.kind)
    spec = top.get("spec", Field({}, "spec"))
    match ref.kind:
        case "Tier":
            return Translation(_tier(ref, spec, origin))
        case "Profile":
            return Translation(_profile(ref, spec, origin))
        case _:
            return _policy(ref, spec, origin)


def _tier(ref: Ref, spec: Field, origin: str) -> Tier:
    fields = spec.fields(("order", "defaultAction"))
    if ref.name == _RESERVED_TIER:
        raise FieldError("metadata.name", f"{ref.name!r} is reserved; choose another name")
    default = ref.name == DEFAULT_TIER.name
    order = fields["order"].number() if "order" in fields else DEFAULT_TIER.order if default else inf
    action = fields["defaultAction"].one_of(tuple(_DEFAULT_ACTIONS)) if "defaultAction" in fields else "Deny"
    if default and (order, action) != (DEFAULT_TIER.order, "Deny"):
        raise spec.error(f"tier default has order {DEFAULT_TIER.order:.0f} and defaultAction Deny; Kubernetes' "
                         "policies are in it, and it can not be altered")
    return Tier(ref.name, order, _DEFAULT_ACTIONS[action], origin)


def _profile(ref: Ref, spec: Field, origin: str) -> Profile:
    fields = spec.fields(("ingress", "egress", "labelsToApply"))
    if ref.name.startswith(NAMESPACE_PROFILE_PREFIX):
        raise FieldError("metadata.name", f"profiles called {NAMESPACE_PROFILE_PREFIX}* are made of Namespaces; "
                         "choose another name")
    labels = fields["labelsToApply"].labels() if "labelsToApply" in fields else {}
    if bad := next(filter(names.reserved, sorted(labels)), None):
        raise fields["labelsToApply"].error(f"label {bad!r} is reserved: only Muslin may set it")
    rules = {way: _rules(fields.get(way.value), "", way, []) for way in Direction}
    return Profile(ref.name, {**labels, names.PROFILE_PREFIX + ref.name: ""}, rules[Direction.INGRESS],
                   rules[Direction.EGRESS], origin)


def _policy(ref: Ref, spec: Field, origin: str) -> Translation:
    """A policy; namespaced ones are called `namespace/name`, which no other can be."""
    everywhere = ref.kind == "GlobalNetworkPolicy"
    fields = spec.fields(_GLOBAL if everywhere else _POLICY)
    if ref.name.startswith(_KUBERNETES_PREFIX):
        raise FieldError("metadata.name", f"policies called {_KUBERNETES_PREFIX}* are made of Kubernetes' "
                         "NetworkPolicies; choose another name")
    conditions: list[Condition] = []
    _host_options(fields, conditions)
    rules = {way: _rules(fields.get(way.value), ref.namespace, way, conditions) for way in Direction}
    directions = _directions(fields)
    for way in Direction:
        if way not in directions and rules[way]:
            rules[way] = ()
            conditions.append(Condition(fields[way.value].path, "ignored, because spec.types does not name "
                                        f"{way.value.capitalize()}"))
    tier = _tier_name(fields.get("tier"))
    return Translation(Policy(
        name=f"{ref.namespace}/{ref.name}" if ref.namespace else ref.name,
        selector=conjunction(_scope(fields, ref.namespace)),
        directions=directions,
        ingress=rules[Direction.INGRESS],
        egress=rules[Direction.EGRESS],
        tier=DEFAULT_TIER if tier == DEFAULT_TIER.name else Tier(tier, inf),
        order=fields["order"].number() if "order" in fields else inf,
        origin=origin,
    ), tuple(conditions))


def _tier_name(field: Field | None) -> str:
    if field is None or not field.text():
        return DEFAULT_TIER.name
    if field.text() == _RESERVED_TIER:
        raise field.error(f"{_RESERVED_TIER!r} is reserved; choose another name")
    return field.dns_label()


def _scope(fields: dict[str, Field], namespace: str) -> list[Selector]:
    """The terms, all of which an endpoint must fulfil that the policy is for."""
    terms = [equal(names.NAMESPACE, namespace)] if namespace else []
    if (field := fields.get("namespaceSelector")) and field.text():
        terms.append(namespaces(field))
    if (field := fields.get("serviceAccountSelector")) and field.text():
        terms.append(service_accounts(field))
    if (field := fields.get("selector")) and field.text():
        terms.append(pods(field))
    return terms


def _host_options(fields: dict[str, Field], conditions: list[Condition]) -> None:
    """What concerns the hosts' own interfaces, which have no policies here."""
    for key in ("doNotTrack", "preDNAT"):
        if key in fields and fields[key].flag():
            raise fields[key].error("is for hosts, which have no policies here; remove it")
    if "applyOnForward" in fields and fields["applyOnForward"].flag():
        conditions.append(Condition(fields["applyOnForward"].path, "ignored: it concerns hosts, which have no "
                                    "policies here; pods' traffic is always judged"))
    if "performanceHints" in fields:
        for item in fields["performanceHints"].items():
            item.text()


def _directions(fields: dict[str, Field]) -> frozenset[Direction]:
    """The policy's types; unless given, those that it has rules for, and Ingress if it has none."""
    items = fields["types"].items() if "types" in fields else []
    given = [_TYPES[item.one_of(tuple(_TYPES))] for item in items]
    if len(set(given)) < len(given):
        raise fields["types"].error("names one twice")
    if given:
        return frozenset(given)
    used = frozenset(way for way in Direction if way.value in fields and fields[way.value].items())
    return used or frozenset({Direction.INGRESS})


def _rules(field: Field | None, namespace: str, way: Direction, conditions: list[Condition]) -> tuple[Rule, ...]:
    reader = Rules(namespace, way, conditions)
    return tuple(part for item in (field.items() if field else ()) for part in reader.rule(item))
