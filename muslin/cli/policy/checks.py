"""The checks of `muslin policy lint`, over what was read. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from muslin.cli.policy import dns
from muslin.cli.policy.engine import Refused, selected, translated
from muslin.cli.policy.lint import Finding, Read, Severity
from muslin.cli.policy.shadow import covers, implies
from muslin.cli.policy.world import Declared
from muslin.selectors import NAMESPACE, And, Comparison, Selector, equal
from services.policy.model import Action, Direction, Policy, Rule

__all__ = ["check"]

Written = tuple[Declared, Policy]


def check(read: Read) -> tuple[list[Finding], list[str]]:
    """All findings, and notes about what could not be judged."""
    found = [*shadowed(read), *without_default_deny(read)]
    if not read.world.endpoints:
        return [*found, *dns.by_rules(read)], ["no Pod is declared: whether selectors match anything was not judged"]
    return [*found, *unmatched(read), *dns.by_pods(read)], []


def shadowed(read: Read) -> Iterator[Finding]:
    """Rules that never decide, because all that they match is decided before."""
    def place(written: Written) -> tuple[float, str, float, str]:
        policy = written[1]
        return read.tiers.get(policy.tier.name, policy.tier.order), policy.tier.name, policy.order, policy.name
    by_space: dict[str, list[Written]] = defaultdict(list)
    for written in sorted(read.policies, key=place):
        space = _namespace(written[1].selector)
        candidates = by_space[space] + (by_space[""] if space else [])
        before = [other for other in sorted(candidates, key=place) if implies(written[1].selector, other[1].selector)]
        yield from _shadowed(written, before)
        by_space[space].append(written)


def _shadowed(written: Written, before: Sequence[Written]) -> Iterator[Finding]:
    item, policy = written
    for direction in policy.directions:
        earlier = [(other, rule) for other, its in before if direction in its.directions
                   for rule in _rules(its, direction)
                   if rule.action in (Action.ALLOW, Action.DENY)
                   or (rule.action is Action.PASS and its.tier.name == policy.tier.name)]
        by_path: dict[str, list[Rule]] = {}
        for rule in _rules(policy, direction):
            by_path.setdefault(rule.path, []).append(rule)
        for path, parts in by_path.items():
            if any(part.action is Action.LOG for part in parts):
                continue
            holders = [next((held for held in earlier if covers(held[1], part)), None) for part in parts]
            if all(holders):
                names = dict.fromkeys(f"{held[1].path} of {held[0].label if held[0] is not item else 'the same policy'}"
                                      for held in holders if held)
                yield Finding(Severity.WARNING, "shadowed", item, path, "never decides: all that it matches is decided "
                              f"before by {' and '.join(names)}; remove one of them")
            earlier += [(item, part) for part in parts]


def _rules(policy: Policy, direction: Direction) -> tuple[Rule, ...]:
    return policy.ingress if direction is Direction.INGRESS else policy.egress


def _namespace(selector: Selector) -> str:
    """The namespace that all lie in that a selector selects; empty if it names none."""
    parts = selector.operands if isinstance(selector, And) else (selector,)
    return next((part.value for part in parts
                 if isinstance(part, Comparison) and (part.key, part.operator) == (NAMESPACE, "==")), "")


def without_default_deny(read: Read) -> Iterator[Finding]:
    """Namespaces in which a pod that no other policy selects is open."""
    for item in read.world.objects:
        kind, _, name = item.key
        if kind != "Namespace":
            continue
        closed = {direction for _, policy in read.policies if implies(equal(NAMESPACE, name), policy.selector)
                  for direction in policy.directions}
        if missing := [direction.value for direction in Direction if direction not in closed]:
            yield Finding(Severity.INFO, "default-deny", item, "", f"no policy selects all its pods for "
                          f"{' and '.join(missing)}: what no other policy selects is open there")


def unmatched(read: Read) -> Iterator[Finding]:
    """Selectors that match no pod, and names of ports that no pod has."""
    asked: list[tuple[Declared, str, Selector, str]] = []
    for item, policy in read.policies:
        path = "spec.podSelector" if item.key[0] == "NetworkPolicy" else "spec.selector"
        asked.append((item, path, policy.selector, "selects no pod: the policy has no effect"))
        asked += ((item, path, peer, "matches no pod") for path, peer in _peers(item, policy))
    names = [(item, policy, direction, rule) for item, policy in read.policies for direction in policy.directions
             for rule in _rules(policy, direction) if rule.port_names]
    members = selected(read.world, [*(selector for _, _, selector, _ in asked), *(
        policy.selector if direction is Direction.INGRESS or rule.peer is None else rule.peer
        for _, policy, direction, rule in names)])
    for (item, path, _, message), pods in zip(asked, members, strict=False):
        if not pods:
            yield Finding(Severity.WARNING, "matches-nothing", item, path, message)
    ports = {record.attachment.container_id: {port.name for port in record.ports} for record in read.world.endpoints}
    told: set[tuple[tuple[str, str, str], str, str]] = set()
    for (item, _, _, rule), pods in zip(names, members[len(asked):], strict=True):
        for name in rule.port_names:
            if pods and not any(name in ports[pod] for pod in pods) and (item.key, rule.path, name) not in told:
                told.add((item.key, rule.path, name))
                yield Finding(Severity.WARNING, "matches-nothing", item, rule.path,
                              f"none of the pods that it is about has a port called {name!r}")


def _peers(item: Declared, policy: Policy) -> Iterator[tuple[str, Selector]]:
    """The peers' selectors, each with its path; of Calico's rules, the path of the rule."""
    if item.key[0] != "NetworkPolicy":
        yield from {(rule.path, str(rule.peer)): (rule.path, rule.peer) for direction in policy.directions
                    for rule in _rules(policy, direction) if rule.peer is not None}.values()
        return
    spec = item.manifest.get("spec") or {}
    for direction, key in ((Direction.INGRESS, "from"), (Direction.EGRESS, "to")):
        if direction not in policy.directions:
            continue
        for number, rule in enumerate(spec.get(direction.value) or ()):
            for place, peer in enumerate(rule.get(key) or ()):
                alone = _alone(item, direction, {key: [peer]})
                if alone is not None:
                    yield f"spec.{direction.value}[{number}].{key}[{place}]", alone


def _alone(item: Declared, direction: Direction, rule: dict[str, Any]) -> Selector | None:
    """The selector of a rule's only peer, if it is one of pods that can be translated."""
    manifest = {**item.manifest, "spec": {"podSelector": {}, direction.value: [rule]}}
    try:
        policy = translated(item.with_manifest(manifest)).resource
    except Refused:  # the rule as a whole was taken, so this is not reached; a lint must not fail by it
        return None
    rules = _rules(policy, direction) if isinstance(policy, Policy) else ()
    return rules[0].peer if rules else None
