"""What stands in for a stored policy that can not be understood, where no version of it before is known.

A process that has seen an earlier version goes on with that. One that begins has none; left out, the policy would not
isolate its pods any more, and a restart would have opened what was shut. So it allows nothing to the pods that it is
for, as far as that can be read. Kubernetes' policies only ever allow: without its rules one isolates, and others still
allow what they allow. One of Calico's may deny, so it denies all in its place; before all tiers where that is unknown.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

import msgspec

from muslin.errors import InvalidArgument
from services.policy.calico import VERSIONS
from services.policy.model import Action, Direction, Policy, Rule, Tier
from services.policy.objects import Ref
from services.policy.records import Object
from services.policy.translate import KUBERNETES_POLICY, translate

__all__ = ["FIRST", "scope", "stand_in"]

FIRST = Tier("_closed", -inf)
"""Before all tiers; none can be declared by such a name."""

_SCOPE = ("podSelector", "selector", "namespaceSelector", "serviceAccountSelector", "tier", "order")
_BOTH = ["Ingress", "Egress"]
_TYPES = ("policyTypes", "types")
_LONGEST = 100_000
"""Bytes of what a policy is for, beyond which that is not worth keeping either."""
_DENIED = (Rule(Action.DENY),)


def stand_in(ref: Ref, record: Object | None) -> Policy | None:
    """The policy, allowing nothing; None if nothing can be called so. `record` is None if not even that is readable.

    Of its selectors, tier, order and types those count that can be read together with what comes before them in this
    list: all of them; all but the types; none, which is every pod of its namespace, or of all namespaces.
    """
    kubernetes = ref.kind == "NetworkPolicy"
    types = "policyTypes" if kubernetes else "types"
    wanted: list[dict[str, Any]] = [{types: _BOTH}]
    if spec := _spec(record):
        named = {key: spec[key] for key in _SCOPE if key in spec}
        wanted = [{**named, types: spec.get(types) or _given(spec)}, {**named, types: _BOTH}, *wanted]
    for each in wanted:
        manifest = {"apiVersion": KUBERNETES_POLICY if kubernetes else VERSIONS[0],
                    "kind": ref.kind.partition(".")[0], "metadata": {}, "spec": each}
        try:
            resource = translate(ref, manifest, record.origin if record else "").resource
        except InvalidArgument:
            continue
        assert isinstance(resource, Policy)
        if kubernetes:
            return resource
        ingress, egress = (_DENIED if way in resource.directions else () for way in Direction)
        return replace(resource, ingress=ingress, egress=egress, tier=FIRST if each is wanted[-1] else resource.tier)
    return None


def scope(spec: bytes | msgspec.Raw) -> dict[str, Any]:
    """Of a specification, given as JSON, what says which pods it is for, and which way; empty if that can not be had.

    Types that it does not name it names here, since it is without rules.
    """
    try:
        whole = msgspec.json.decode(spec)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return {}
    if not isinstance(whole, dict):
        return {}
    kept = {key: whole[key] for key in (*_SCOPE, *_TYPES) if key in whole}
    if not any(kept.get(key) for key in _TYPES):
        kept |= dict.fromkeys(_TYPES[:1] if "podSelector" in kept else _TYPES[1:], _given(whole))
    return kept if len(msgspec.json.encode(kept)) <= _LONGEST else {}


def _spec(record: Object | None) -> dict[str, Any] | None:
    """Its specification, if it has one."""
    try:
        manifest = msgspec.json.decode(record.manifest) if record else None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    spec = manifest.get("spec") if isinstance(manifest, dict) else None
    return spec if isinstance(spec, dict) else None


def _given(spec: dict[str, Any]) -> list[str]:
    """The types of a policy that names none; ingress counts whether there are rules or not, which closes more."""
    return _BOTH if spec.get("egress") else ["Ingress"]
