"""From events to instructions: endpoints, policies, profiles, tiers in, an update for each concerned node out. No I/O.

The engine keeps which selector selects whom (`SelectorIndex`), the groups in use, and every node's program. A batch of
events is taken in first; then the groups that it touched are built anew, and the programs of the nodes that it
concerned. The same state gives the same programs, by whatever events it was reached.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from services.policy import labels as names
from services.policy.compile import Compiled, GroupSpec, compile_policy
from services.policy.events import EndpointGone, EndpointPut, Event, ResourceGone, ResourcePut
from services.policy.index import SelectorIndex
from services.policy.model import (
    ACCOUNT_PROFILE_PREFIX,
    NAMESPACE_PROFILE_PREFIX,
    TIER_PREFIX,
    Action,
    Attachment,
    Direction,
    Endpoint,
    Policy,
    Profile,
    Resource,
    Tier,
    account_profile,
    profile_id,
)
from services.policy.program import (
    EMPTY,
    CompiledEndpoint,
    CompiledPolicy,
    CompiledRule,
    Group,
    Program,
    TierPolicies,
    Update,
    diff,
)

_PASS = (CompiledRule(Action.PASS, "spec.defaultAction"),)
PASS_ON = CompiledPolicy("tier:/pass", "the tier's default action", _PASS, _PASS)
"""The last policy of each tier whose default action is Pass: nothing is left for the end of the tier to drop."""


@dataclass(slots=True)
class _Dirt:
    """What a batch of events has touched."""

    nodes: set[str]
    endpoints: set[Attachment]
    selectors: set[str]
    """Texts of selectors whose groups may have other members."""


class Engine:
    """The state, and what follows from it for every node."""

    def __init__(self) -> None:
        self._endpoints: dict[Attachment, Endpoint] = {}
        self._on_node: dict[str, set[Attachment]] = {}
        self._resources: dict[str, Resource] = {}
        self._compiled: dict[str, Compiled] = {PASS_ON.id: Compiled(PASS_ON, {}, None)}
        self._index = SelectorIndex()
        self._policies_of: dict[str, set[str]] = {}  # selector text -> ids of policies
        self._group_users: Counter[str] = Counter()
        self._groups: dict[str, Group] = {}
        self._specs_of: dict[str, dict[str, GroupSpec]] = {}  # selector text -> group id -> what it stands for
        self._programs: dict[str, Program] = {}

    @property
    def programs(self) -> Mapping[str, Program]:
        """Programs by node; nodes without endpoints have none."""
        return MappingProxyType(self._programs)

    def program(self, node: str) -> Program:
        """The program of a node."""
        return self._programs.get(node, EMPTY)

    def counts(self) -> dict[str, int]:
        """How many there are of what, for metrics."""
        return {"endpoints": len(self._endpoints), "groups": len(self._groups), "programs": len(self._programs),
                "selectors": len(self._index),
                "policies": sum(isinstance(r, Policy) for r in self._resources.values()),
                "profiles": sum(isinstance(r, Profile) for r in self._resources.values()),
                "tiers": sum(isinstance(r, Tier) for r in self._resources.values())}

    def handle(self, events: Iterable[Event]) -> dict[str, Update]:
        """Take a batch of events in. Returns what changes on which node."""
        dirt = _Dirt(set(), set(), set())
        resources: dict[str, Resource | None] = {}
        for event in events:
            match event:
                case EndpointPut(endpoint):
                    self._put_endpoint(endpoint.attachment, endpoint, dirt)
                case EndpointGone(attachment):
                    self._put_endpoint(attachment, None, dirt)
                case ResourcePut(resource):
                    resources[resource.id] = resource
                case ResourceGone(resource_id):
                    resources[resource_id] = None
        changed = {key: new for key, new in resources.items() if self._resources.get(key) != new}
        self._touch_members(changed, dirt)
        for key, new in changed.items():
            self._store(key, new)
        self._relabel(dirt)
        for key, new in changed.items():
            self._recompile(key, new, dirt)
        self._touch_tiers(changed, dirt)
        self._rebuild_groups(dirt)
        return self._rebuild_programs(dirt.nodes)

    def _put_endpoint(self, attachment: Attachment, new: Endpoint | None, dirt: _Dirt) -> None:
        old = self._endpoints.get(attachment)
        if old == new:
            return
        dirt.endpoints.add(attachment)
        if old is not None:
            dirt.nodes.add(old.node)
            self._on_node[old.node].discard(attachment)
            if not self._on_node[old.node]:
                del self._on_node[old.node]
            del self._endpoints[attachment]
        if new is not None:
            dirt.nodes.add(new.node)
            self._on_node.setdefault(new.node, set()).add(attachment)
            self._endpoints[attachment] = new

    def _store(self, key: str, new: Resource | None) -> None:
        if new is None:
            self._resources.pop(key, None)
        else:
            self._resources[key] = new

    def _touch_members(self, changed: Mapping[str, Resource | None], dirt: _Dirt) -> None:
        """If a profile changes, the nodes of the endpoints in it need its rules; and their labels may change."""
        relabel = {key: _labels(self._resources.get(key)) != _labels(new) for key, new in changed.items()
                   if isinstance(new or self._resources.get(key), Profile)}
        if not relabel:
            return
        for attachment, endpoint in self._endpoints.items():
            touched = [key for key in map(profile_id, {*endpoint.profiles, *_inherited(endpoint)}) if key in relabel]
            if touched:
                dirt.nodes.add(endpoint.node)
            if any(relabel[key] for key in touched):
                dirt.endpoints.add(attachment)

    def _touch_tiers(self, changed: Mapping[str, Resource | None], dirt: _Dirt) -> None:
        """If a tier changes, the nodes of the endpoints that its policies are for need them in another order."""
        if not any(key.startswith(TIER_PREFIX) for key in changed):
            return
        for text, keys in self._policies_of.items():
            policies = (self._resources[key] for key in keys)
            if any(isinstance(policy, Policy) and policy.tier.id in changed for policy in policies):
                dirt.nodes |= self._nodes_of(text)

    def _relabel(self, dirt: _Dirt) -> None:
        for attachment in dirt.endpoints:
            dirt.selectors |= self._index.selected_by(attachment)
            endpoint = self._endpoints.get(attachment)
            if endpoint is None:
                self._index.remove(attachment)
                continue
            self._index.put(attachment, self._effective_labels(endpoint))
            dirt.selectors |= self._index.selected_by(attachment)
            dirt.nodes.add(endpoint.node)

    def _effective_labels(self, endpoint: Endpoint) -> dict[str, str]:
        """Its own labels, above those of its profiles, of which the first counts; and those that Muslin gives it."""
        labels: dict[str, str] = {}
        for profile in reversed(_inherited(endpoint)):
            labels.update(_labels(self._resources.get(profile_id(profile))))
        labels.update(names.own(endpoint.labels))
        labels[names.ORCHESTRATOR] = endpoint.orchestrator
        if endpoint.namespace:
            labels[names.NAMESPACE] = endpoint.namespace
        if endpoint.service_account:
            labels[names.SERVICE_ACCOUNT] = endpoint.service_account
        return labels

    def _recompile(self, key: str, new: Resource | None, dirt: _Dirt) -> None:
        """Put a policy or profile in the place of what had its id."""
        old = self._compiled.pop(key, None)
        compiled = compile_policy(new) if isinstance(new, Policy | Profile) else None
        if compiled is not None:
            self._compiled[key] = compiled
            self._use(compiled, dirt)
        if old is not None:
            self._drop(old, dirt)
        if compiled is not None and (scope := compiled.scope):
            self._policies_of.setdefault(scope.text, set()).add(key)

    def _use(self, compiled: Compiled, dirt: _Dirt) -> None:
        """Put its selectors and groups in use, and concern the nodes of those it selects."""
        for group_id, spec in compiled.groups.items():
            self._index.acquire(spec.text, spec.selector)
            self._group_users[group_id] += 1
            if self._group_users[group_id] == 1:
                self._specs_of.setdefault(spec.text, {})[group_id] = spec
                dirt.selectors.add(spec.text)
        if scope := compiled.scope:
            self._index.acquire(scope.text, scope.selector)
            dirt.nodes |= self._nodes_of(scope.text)

    def _drop(self, compiled: Compiled, dirt: _Dirt) -> None:
        """Undo `_use`."""
        if scope := compiled.scope:
            dirt.nodes |= self._nodes_of(scope.text)
            self._index.release(scope.text, scope.selector)
            self._policies_of[scope.text].discard(compiled.policy.id)
            if not self._policies_of[scope.text]:
                del self._policies_of[scope.text]
        for group_id, spec in compiled.groups.items():
            self._index.release(spec.text, spec.selector)
            self._group_users[group_id] -= 1
            if not self._group_users[group_id]:
                del self._group_users[group_id], self._specs_of[spec.text][group_id]
                if not self._specs_of[spec.text]:
                    del self._specs_of[spec.text]
                self._groups.pop(group_id, None)

    def _nodes_of(self, text: str) -> set[str]:
        return {self._endpoints[attachment].node for attachment in self._index.members(text)}

    def _rebuild_groups(self, dirt: _Dirt) -> None:
        changed: set[str] = set()
        for text in dirt.selectors:
            for group_id, spec in self._specs_of.get(text, {}).items():
                group = spec.members(self._endpoints[attachment] for attachment in self._index.members(text))
                if self._groups.get(group_id) != group:
                    self._groups[group_id] = group
                    changed.add(group_id)
        if changed:
            dirt.nodes |= {node for node, program in self._programs.items() if not changed.isdisjoint(program.groups)}

    def _rebuild_programs(self, nodes: Iterable[str]) -> dict[str, Update]:
        updates: dict[str, Update] = {}
        for node in sorted(nodes):
            program = self._link(node)
            if update := diff(self.program(node), program):
                updates[node] = update
            if program.endpoints:
                self._programs[node] = program
            else:
                self._programs.pop(node, None)
        return updates

    def _link(self, node: str) -> Program:
        """A node's program, from its endpoints and what is compiled."""
        endpoints = {a: self._link_endpoint(self._endpoints[a]) for a in sorted(self._on_node.get(node, ()))}
        used = {key for endpoint in endpoints.values()
                for key in (*(p for tier in (*endpoint.ingress, *endpoint.egress) for p in tier.policies),
                            *endpoint.profiles)}
        compiled = {key: self._compiled[key] for key in sorted(used) if key in self._compiled}
        groups = {group_id for part in compiled.values() for group_id in part.groups}
        return Program(
            groups={group_id: self._groups[group_id] for group_id in sorted(groups)},
            policies={key: part.policy for key, part in compiled.items()},
            endpoints=endpoints,
        )

    def _link_endpoint(self, endpoint: Endpoint) -> CompiledEndpoint:
        keys = {key for text in self._index.selected_by(endpoint.attachment) for key in self._policies_of.get(text, ())}
        selected = [policy for key in keys if isinstance(policy := self._resources[key], Policy)]
        return CompiledEndpoint(
            attachment=endpoint.attachment,
            interface=endpoint.interface,
            addresses=endpoint.addresses,
            ingress=self._tiers(policy for policy in selected if Direction.INGRESS in policy.directions),
            egress=self._tiers(policy for policy in selected if Direction.EGRESS in policy.directions),
            profiles=tuple(map(profile_id, endpoint.profiles)),
            workload=endpoint.workload,
            revision=endpoint.revision,
        )

    def _tiers(self, policies: Iterable[Policy]) -> tuple[TierPolicies, ...]:
        tiers: dict[str, list[Policy]] = {}
        for policy in policies:
            tiers.setdefault(policy.tier.name, []).append(policy)
        found = (self._tier(of[0].tier) for of in tiers.values())
        return tuple(
            TierPolicies(tier.name, (*(p.id for p in sorted(tiers[tier.name], key=lambda p: (p.order, p.name))),
                                     *((PASS_ON.id,) if tier.default_action is Action.PASS else ())))
            for tier in sorted(found, key=lambda tier: (tier.order, tier.name)))

    def _tier(self, named: Tier) -> Tier:
        """The tier as it is declared, if it is."""
        declared = self._resources.get(named.id)
        return declared if isinstance(declared, Tier) else named


def _labels(resource: Resource | None) -> Mapping[str, str]:
    """What a profile gives to its members."""
    return resource.labels if isinstance(resource, Profile) else {}


def _inherited(endpoint: Endpoint) -> list[str]:
    """The profiles whose labels an endpoint has: those it is in, and always its namespace's and service account's.

    The profile of another namespace or account gives it nothing: else a network of such a name could pass for it.
    """
    derived = (NAMESPACE_PROFILE_PREFIX, ACCOUNT_PROFILE_PREFIX)
    found = [name for name in endpoint.profiles if not name.startswith(derived)]
    if endpoint.namespace:
        found.append(NAMESPACE_PROFILE_PREFIX + endpoint.namespace)
        if endpoint.service_account:
            found.append(account_profile(endpoint.namespace, endpoint.service_account))
    return found
