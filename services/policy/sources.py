"""What the stored records mean: changes of records in, events for the engine out.

A record that can not be read or translated changes nothing: the one before it stays in force, and the complaint is
listed with the conditions. Where there is none before it, as after a restart, a policy is closed (`closed`).
(Requests are checked before they are stored, so it takes another program, or a later version of this one, to write such
a record.)
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from muslin.errors import Corrupt, InvalidArgument
from muslin.etcd import keys
from muslin.etcd.mirror import Change
from services.policy import records
from services.policy.closed import FIRST, stand_in
from services.policy.events import Event, ResourceGone, ResourcePut
from services.policy.model import DEFAULT_TIER, Policy, Profile, Resource, Tier, profile_id
from services.policy.objects import POLICY_KINDS, Condition, Ref
from services.policy.records import Object

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Known:
    """An object: the record, if it could be read; the id of what is in force for it; what there is to say."""

    ref: Ref
    object: Object | None = None
    resource_id: str = ""
    conditions: tuple[Condition, ...] = ()
    accepted: bool = False
    """Whether that record is what is in force."""
    closed: bool = False
    """Whether what is in force only stands in for it."""


@dataclass(frozen=True, slots=True)
class Status:
    """What has become of an object that should be a policy."""

    ref: Ref
    origin: str
    accepted: bool
    """Whether its newest version is in force."""
    conditions: tuple[Condition, ...]
    policy: str
    """Id of what is in force for it; empty if nothing is."""
    closed: bool = False
    """Whether that only stands in for it: no version of it was understood, so its pods are isolated."""

    @property
    def key(self) -> str:
        """Its key in etcd."""
        return keys.policy_object(self.ref.kind, self.ref.namespace, self.ref.name)


class Sources:
    """The objects and profiles that are stored, as far as they could be understood."""

    def __init__(self) -> None:
        self._objects: dict[str, _Known] = {}
        self._stored_profiles: dict[str, Profile] = {}  # of networks, by id
        self._declared: dict[str, Resource] = {}  # what objects are in force as, by id
        self._noted: set[str] = set()
        """Keys of the objects that there may be something to say about: few, and looked at with every change."""

    def take(self, changes: Sequence[Change]) -> list[Event]:
        """The events that changes of records amount to."""
        events: list[Event] = []
        for change in changes:
            if change.key.startswith(keys.POLICY_OBJECTS):
                events += self._object(change)
            elif change.key.startswith(keys.POLICY_PROFILES):
                events += self._profile(change)
        return events

    def _object(self, change: Change) -> Iterable[Event]:
        events = self._taken(change)
        known = self._objects.get(change.key)
        policy = self._declared.get(known.resource_id) if known else None
        if known and (known.conditions or (isinstance(policy, Policy) and policy.tier != DEFAULT_TIER)):
            self._noted.add(change.key)
        else:
            self._noted.discard(change.key)
        return events

    def _taken(self, change: Change) -> Iterable[Event]:
        try:
            ref = Ref(*keys.parse_policy_object(change.key))
        except Corrupt as problem:
            log.error("%s", problem.message)  # noqa: TRY400  the message says it all
            return []
        known = self._objects.get(change.key, _Known(ref))
        if change.new is None:
            self._objects.pop(change.key, None)
            return self._withdrawn(known.resource_id)
        record = None
        try:
            record = records.decode_object(change.key, change.new.value)
            translation = record.translate()
        except (Corrupt, InvalidArgument) as problem:
            return self._unusable(change.key, known, record, problem.message)
        self._objects[change.key] = _Known(ref, record, translation.resource.id, translation.conditions, accepted=True)
        return self._put(known, translation.resource)

    def _put(self, known: _Known, resource: Resource) -> list[Event]:
        """What to do when an object is in force as this. One that has moved to another tier has another id there."""
        events = self._withdrawn(known.resource_id) if known.resource_id != resource.id else []
        self._declared[resource.id] = resource
        return [*events, ResourcePut(resource)]

    def _unusable(self, key: str, known: _Known, record: Object | None, problem: str) -> list[Event]:
        """What to do with a record that can not be understood; `record` is None if not even its object can be read."""
        closed, kept = None, "it is not in force"
        if known.resource_id and not known.closed:
            kept = "the version before it is in force"
        elif known.ref.kind in POLICY_KINDS and (closed := stand_in(known.ref, record)):
            kept = f"until it is, nothing is allowed by it to what it is for: {closed.selector}"
        log.error("stored object is not usable object=%s problem=%s (%s)", known.ref, problem, kept)
        resource_id = closed.id if closed else known.resource_id
        self._objects[key] = _Known(known.ref, record or known.object, resource_id,
                                    (Condition("", f"{problem}; {kept}"),), closed=closed is not None)
        return self._put(known, closed) if closed else []

    def _withdrawn(self, resource_id: str) -> list[Event]:
        """What to do when an object is no more: a network's own profile takes the place of one that was declared."""
        if self._declared.pop(resource_id, None) is None:
            return []
        stored = self._stored_profiles.get(resource_id)
        return [ResourcePut(stored) if stored else ResourceGone(resource_id)]

    def _profile(self, change: Change) -> Iterable[Event]:
        try:
            if change.new is not None:
                profile = records.decode_profile(change.key, change.new.value)
                self._stored_profiles[profile.id] = profile
                return [] if profile.id in self._declared else [ResourcePut(profile)]
            gone = profile_id(keys.parse_profile(change.key))
        except Corrupt as problem:
            log.error("stored profile is not usable problem=%s", problem.message)  # noqa: TRY400  (as above)
            return []
        if self._stored_profiles.pop(gone, None) is None or gone in self._declared:
            return []
        return [ResourceGone(gone)]

    def objects(self) -> list[Object]:
        """All objects, sorted by kind, namespace and name."""
        return [known.object for _, known in sorted(self._objects.items()) if known.object is not None]

    def conditions(self) -> list[tuple[Ref, Condition]]:
        """All that there is to say about objects, in the same order."""
        return [(known.ref, condition) for known in map(self._objects.__getitem__, sorted(self._noted))
                for condition in self._said(known)]

    def _said(self, known: _Known) -> tuple[Condition, ...]:
        tier = self._undeclared(known)
        if not tier:
            return known.conditions
        return (*known.conditions, Condition("spec.tier", f"there is no Tier {tier}; until there is, its policies come "
                                             "after those of all tiers that have an order"))

    def _undeclared(self, known: _Known) -> str:
        """The tier that an object's policy is in and that is not there; empty if there is none such."""
        policy = self._declared.get(known.resource_id)
        if (isinstance(policy, Policy) and policy.tier not in (DEFAULT_TIER, FIRST)
                and policy.tier.id not in self._declared):
            return policy.tier.name
        return ""

    def tiers(self) -> set[str]:
        """Names of the tiers that there are."""
        return {DEFAULT_TIER.name, *(item.name for item in self._declared.values() if isinstance(item, Tier))}

    def in_tier(self, tier: str) -> list[Ref]:
        """The objects whose policies are in a tier, sorted."""
        found = ((known.ref, self._declared.get(known.resource_id)) for _, known in sorted(self._objects.items()))
        return [ref for ref, policy in found if isinstance(policy, Policy) and policy.tier.name == tier]

    def noted(self) -> list[Status]:
        """What has become of the policies that there is something to say about, likewise sorted."""
        return [status for key in sorted(self._noted) if (known := self._objects[key]).ref.kind in POLICY_KINDS
                and (status := self._status(known)).conditions]

    def policies(self) -> list[Status]:
        """What has become of each object that is a policy or should be one, sorted by kind, namespace and name."""
        return [self._status(known) for _, known in sorted(self._objects.items()) if known.ref.kind in POLICY_KINDS]

    def _status(self, known: _Known) -> Status:
        return Status(known.ref, known.object.origin if known.object else "", known.accepted, self._said(known),
                      known.resource_id, known.closed)
