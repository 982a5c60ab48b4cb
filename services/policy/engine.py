"""From events to instructions: endpoints, policies, profiles, tiers in, an update for each concerned node out. No I/O.

The engine keeps which selector selects whom (`SelectorIndex`), the groups in use (`Groups`) and every node's program
(`Nodes`). A batch of events is taken in first, and what it touches is noted; then just that is made anew. The same
state gives the same programs, by whatever events it was reached.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from services.policy import labels as names
from services.policy.compile import Compiled, GroupSpec, compile_policy
from services.policy.events import EndpointGone, EndpointPut, Event, ResourceGone, ResourcePut
from services.policy.groups import Groups
from services.policy.index import SelectorIndex
from services.policy.model import (
    ACCOUNT_PROFILE_PREFIX,
    NAMESPACE_PROFILE_PREFIX,
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
from services.policy.nodes import Nodes
from services.policy.program import (
    EMPTY,
    CompiledEndpoint,
    CompiledPolicy,
    CompiledRule,
    Program,
    TierPolicies,
    Update,
)

_PASS = (CompiledRule(Action.PASS, "spec.defaultAction"),)
PASS_ON = CompiledPolicy("tier:/pass", "the tier's default action", _PASS, _PASS)
"""The last policy of each tier whose default action is Pass: nothing is left for the end of the tier to drop."""


Tiers = tuple[TierPolicies, ...]


class Engine:
    """The state, and what follows from it for every node."""

    def __init__(self) -> None:
        self._endpoints: dict[Attachment, Endpoint] = {}
        self._heirs: dict[str, set[Attachment]] = {}  # profile id -> endpoints that have its labels
        self._resources: dict[str, Resource] = {}
        self._kinds: Counter[type[Resource]] = Counter()
        self._compiled: dict[str, Compiled] = {PASS_ON.id: Compiled(PASS_ON, {}, None)}
        self._index = SelectorIndex()
        self._policies_of: dict[str, set[str]] = {}  # selector text -> ids of policies
        self._groups = Groups()
        self._nodes = Nodes(self._compiled, self._groups)
        self._tiers_of: dict[frozenset[str], tuple[Tiers, Tiers]] = {}  # of a batch: by ids of policies

    @property
    def programs(self) -> Mapping[str, Program]:
        """Programs by node; nodes without endpoints have none."""
        return MappingProxyType(self._nodes.programs)

    def program(self, node: str) -> Program:
        """The program of a node."""
        return self._nodes.programs.get(node, EMPTY)

    def counts(self) -> dict[str, int]:
        """How many there are of what, for metrics."""
        return {"endpoints": len(self._endpoints), "groups": len(self._groups), "programs": len(self._nodes.programs),
                "selectors": len(self._index), "policies": self._kinds[Policy], "profiles": self._kinds[Profile],
                "tiers": self._kinds[Tier]}

    def handle(self, events: Iterable[Event]) -> dict[str, Update]:
        """Take a batch of events in. Returns what changes on which node."""
        endpoints: dict[Attachment, Endpoint | None] = {}
        resources: dict[str, Resource | None] = {}
        for event in events:
            match event:
                case EndpointPut(endpoint):
                    endpoints[endpoint.attachment] = endpoint
                case EndpointGone(attachment):
                    endpoints[attachment] = None
                case ResourcePut(resource):
                    resources[resource.id] = resource
                case ResourceGone(resource_id):
                    resources[resource_id] = None
        before = {key: self._resources.get(key) for key, new in resources.items() if self._resources.get(key) != new}
        for key in before:
            self._store(key, resources[key])
        moved = {attachment: self._endpoints.get(attachment) for attachment, new in endpoints.items()
                 if self._endpoints.get(attachment) != new}
        for attachment in moved:
            self._place(attachment, endpoints[attachment])
        for attachment in moved.keys() | self._with_other_labels(before):
            self._relabel(attachment, moved[attachment] if attachment in moved else self._endpoints[attachment])
        for group_id in self._groups.settle():
            self._nodes.touch_group(group_id)
        self._recompile(before)
        self._touch_tiers(before)
        updates = self._nodes.settle(self._link)
        self._tiers_of.clear()
        return updates

    def _store(self, key: str, new: Resource | None) -> None:
        old = self._resources.pop(key, None)
        if old is not None:
            self._kinds[type(old)] -= 1
        if new is not None:
            self._resources[key] = new
            self._kinds[type(new)] += 1

    def _place(self, attachment: Attachment, new: Endpoint | None) -> None:
        """Put an endpoint in the place of what had its attachment."""
        old = self._endpoints.pop(attachment, None)
        if new is not None:
            self._endpoints[attachment] = new
        before, after = (set(map(profile_id, _inherited(endpoint))) if endpoint else set() for endpoint in (old, new))
        for profile in after - before:
            self._heirs.setdefault(profile, set()).add(attachment)
        for profile in before - after:
            self._heirs[profile].discard(attachment)
            if not self._heirs[profile]:
                del self._heirs[profile]

    def _with_other_labels(self, before: Mapping[str, Resource | None]) -> set[Attachment]:
        """Endpoints that inherit labels of profiles that are not as they were before."""
        return {attachment for key, old in before.items() if _labels(old) != _labels(self._resources.get(key))
                for attachment in self._heirs.get(key, ())}

    def _relabel(self, attachment: Attachment, old: Endpoint | None) -> None:
        """File an endpoint under its present labels, and move it between groups. `old` is as it was before."""
        new = self._endpoints.get(attachment)
        before = set(self._index.selected_by(attachment))
        if new is None:
            self._index.remove(attachment)
        else:
            self._index.put(attachment, self._effective_labels(new))
        after = self._index.selected_by(attachment)
        for text in before | after:
            self._groups.move(text, old if text in before else None, new if text in after else None)
        if old is new and not any(text in self._policies_of for text in before ^ after):
            return  # it has inherited other labels, and no policy minds
        for endpoint in (old, new):
            if endpoint is not None:
                self._nodes.touch_endpoint(endpoint.node, attachment)

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

    def _recompile(self, before: Mapping[str, Resource | None]) -> None:
        """Put policies and profiles in the place of those that had their ids before."""
        gone = {key: compiled for key in before if (compiled := self._compiled.pop(key, None))}
        for key, old in before.items():  # first, so that what both use stays in use
            new = self._resources.get(key)
            if isinstance(new, Policy | Profile):
                compiled = self._compiled[key] = compile_policy(new)
                self._use(compiled)
                if compiled.scope and not _applies_alike(old, new):
                    self._policies_of.setdefault(compiled.scope.text, set()).add(key)
                    self._touch_selected(compiled.scope)
            self._nodes.touch_policy(key)
        for key, compiled in gone.items():
            if compiled.scope and not _applies_alike(before[key], self._resources.get(key)):
                self._touch_selected(compiled.scope)
                now = self._compiled.get(key)
                if not (now and now.scope and now.scope.text == compiled.scope.text):
                    self._unscope(compiled.scope, key)
            self._drop(compiled)

    def _use(self, compiled: Compiled) -> None:
        """Put its selectors and groups in use."""
        if scope := compiled.scope:
            self._index.acquire(scope.text, scope.selector)
        for spec in compiled.groups.values():
            self._index.acquire(spec.text, spec.selector)
            self._groups.use(spec, map(self._endpoints.__getitem__, self._index.members(spec.text)))

    def _drop(self, compiled: Compiled) -> None:
        """Undo `_use`."""
        if scope := compiled.scope:
            self._index.release(scope.text)
        for spec in compiled.groups.values():
            self._groups.drop(spec)
            self._index.release(spec.text)

    def _unscope(self, scope: GroupSpec, key: str) -> None:
        self._policies_of[scope.text].discard(key)
        if not self._policies_of[scope.text]:
            del self._policies_of[scope.text]

    def _touch_selected(self, scope: GroupSpec) -> None:
        """Other policies than before are for the endpoints that are selected, or in another order."""
        for attachment in self._index.members(scope.text):
            self._nodes.touch_endpoint(self._endpoints[attachment].node, attachment)

    def _touch_tiers(self, before: Mapping[str, Resource | None]) -> None:
        """If a tier changes, the endpoints that its policies are for need them in another order."""
        if not any(isinstance(old or self._resources.get(key), Tier) for key, old in before.items()):
            return
        for text, keys in self._policies_of.items():
            policies = (self._resources[key] for key in keys)
            if any(isinstance(policy, Policy) and policy.tier.id in before for policy in policies):
                for attachment in self._index.members(text):
                    self._nodes.touch_endpoint(self._endpoints[attachment].node, attachment)

    def _link(self, node: str, attachment: Attachment) -> CompiledEndpoint | None:
        """What applies to an endpoint of a node."""
        endpoint = self._endpoints.get(attachment)
        if endpoint is None or endpoint.node != node:
            return None
        ingress, egress = self._tiers_for(frozenset(
            key for text in self._index.selected_by(attachment) for key in self._policies_of.get(text, ())))
        return CompiledEndpoint(
            attachment=attachment,
            interface=endpoint.interface,
            addresses=endpoint.addresses,
            ingress=ingress,
            egress=egress,
            profiles=tuple(map(profile_id, endpoint.profiles)),
            workload=endpoint.workload,
            revision=endpoint.revision,
        )

    def _tiers_for(self, keys: frozenset[str]) -> tuple[Tiers, Tiers]:
        """Policies in order, for ingress and for egress. Pods of one kind share the result."""
        found = self._tiers_of.get(keys)
        if found is None:
            selected = [policy for key in keys if isinstance(policy := self._resources[key], Policy)]
            found = self._tiers_of[keys] = (
                self._tiers(policy for policy in selected if Direction.INGRESS in policy.directions),
                self._tiers(policy for policy in selected if Direction.EGRESS in policy.directions))
        return found

    def _tiers(self, policies: Iterable[Policy]) -> Tiers:
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


def _applies_alike(old: Resource | None, new: Resource | None) -> bool:
    """Whether two policies are for the same endpoints in the same order, whatever their rules say."""
    return (isinstance(old, Policy) and isinstance(new, Policy)
            and (old.selector, old.directions, old.tier, old.order)
            == (new.selector, new.directions, new.tier, new.order))


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
