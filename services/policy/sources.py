"""What the stored records mean: changes of records in, events for the engine out.

A record that can not be read or translated changes nothing: the one before it stays in force, and the complaint is
listed with the conditions. (Requests are checked before they are stored, so it takes another program, or a later
version of this one, to write such a record.)
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from muslin.errors import Corrupt, InvalidArgument
from muslin.etcd import keys
from muslin.etcd.mirror import Change
from services.policy import records
from services.policy.events import Event, ResourceGone, ResourcePut
from services.policy.model import profile_id
from services.policy.records import Object
from services.policy.translate import Condition, Ref

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Known:
    """An object: the record, if it could be read; the id of what is in force for it; what there is to say."""

    ref: Ref
    object: Object | None = None
    resource_id: str = ""
    conditions: tuple[Condition, ...] = ()


class Sources:
    """The objects and profiles that are stored, as far as they could be understood."""

    def __init__(self) -> None:
        self._objects: dict[str, _Known] = {}
        self._profiles: set[str] = set()

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
        try:
            ref = Ref(*keys.parse_policy_object(change.key))
        except Corrupt as problem:
            log.error("%s", problem.message)  # noqa: TRY400  the message says it all
            return []
        known = self._objects.get(change.key, _Known(ref))
        if change.new is None:
            self._objects.pop(change.key, None)
            return [ResourceGone(known.resource_id)] if known.resource_id else []
        record = known.object
        try:
            record = records.decode_object(change.key, change.new.value)
            translation = record.translate()
        except (Corrupt, InvalidArgument) as problem:
            kept = "the version before it is in force" if known.resource_id else "it is not in force"
            log.error("stored object is not usable object=%s problem=%s (%s)", ref, problem.message, kept)  # noqa: TRY400
            condition = Condition("", f"{problem.message}; {kept}")
            self._objects[change.key] = _Known(ref, record, known.resource_id, (condition,))
            return []
        self._objects[change.key] = _Known(ref, record, translation.resource.id, translation.conditions)
        return [ResourcePut(translation.resource)]

    def _profile(self, change: Change) -> Iterable[Event]:
        try:
            if change.new is not None:
                profile = records.decode_profile(change.key, change.new.value)
                self._profiles.add(profile.id)
                return [ResourcePut(profile)]
            gone = profile_id(keys.parse_profile(change.key))
        except Corrupt as problem:
            log.error("stored profile is not usable problem=%s", problem.message)  # noqa: TRY400  (as above)
            return []
        if gone not in self._profiles:
            return []
        self._profiles.remove(gone)
        return [ResourceGone(gone)]

    def objects(self) -> list[Object]:
        """All objects, sorted by kind, namespace and name."""
        return [known.object for _, known in sorted(self._objects.items()) if known.object is not None]

    def conditions(self) -> list[tuple[Ref, Condition]]:
        """All that there is to say about objects, in the same order."""
        return [(known.ref, condition) for _, known in sorted(self._objects.items()) for condition in known.conditions]
