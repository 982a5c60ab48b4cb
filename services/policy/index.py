"""Which selectors select which endpoints, kept as both change.

Nearly all selectors demand a label: a certain value of it (of the namespace's, above all), one of some values, or any.
They are filed under what they demand, and endpoints under all their labels: a new endpoint is compared only with
selectors that could select it, a new selector only with endpoints that it could select, and an endpoint whose labels
change only with selectors that ask for one of those labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from itertools import chain
from typing import NamedTuple, TypeAlias

from muslin.selectors import And, Comparison, Has, Membership, Or, Selector, keys_of
from services.policy import labels as names
from services.policy.model import Attachment

Pair: TypeAlias = tuple[str, str | None]
"""A label and its value, None for any."""


def demands(selector: Selector) -> list[tuple[Pair, ...]]:
    """Of which labels a selector can not do without one, in all ways that there are to say it, the best first."""
    match selector:
        case Comparison(key, "==", value):
            return [((key, value),)]
        case Membership(key, values, False):
            return [tuple((key, value) for value in sorted(set(values)))]
        case Has(key) | Comparison(key, "contains" | "starts with" | "ends with"):
            return [((key, None),)]
        case And(operands):
            return sorted((found for operand in operands for found in demands(operand)), key=_breadth)
        case Or(operands):
            parts = [demands(operand)[:1] for operand in operands]
            return [tuple(dict.fromkeys(pair for (part,) in parts for pair in part))] if all(parts) else []
        case _:
            return []


def _breadth(pairs: tuple[Pair, ...]) -> tuple[bool, bool, bool, int]:
    """How badly a demand separates, as far as one can say beforehand: the name of a namespace separates best."""
    keys = {key for key, _ in pairs}
    return any(value is None for _, value in pairs), names.ORCHESTRATOR in keys, not keys <= _NAMES, len(pairs)


_NAMES = {names.NAMESPACE, names.NAMESPACE_PREFIX + names.METADATA_NAME, names.NAMESPACE_PREFIX + names.OBJECT_NAME}


class _Filed(NamedTuple):
    """A selector in use."""

    selector: Selector
    keys: frozenset[str]
    """Labels that it asks for."""
    places: tuple[Pair, ...] | None
    members: set[Attachment]


class SelectorIndex:
    """Selectors by their canonical text, endpoints by their attachment."""

    def __init__(self) -> None:
        self._labels: dict[Attachment, Mapping[str, str]] = {}
        self._with_label: dict[str, dict[str, set[Attachment]]] = {}  # key -> value -> endpoints
        self._users: dict[str, int] = {}
        self._selectors: dict[str, _Filed] = {}
        self._filed: dict[str, dict[str | None, set[str]]] = {}  # key -> value -> texts
        self._undemanding: set[str] = set()
        self._selected_by: dict[Attachment, set[str]] = {}

    def __len__(self) -> int:
        """How many selectors are in use."""
        return len(self._selectors)

    def members(self, text: str) -> Set[Attachment]:
        """The endpoints that a selector selects; none of one that is not in use."""
        filed = self._selectors.get(text)
        return filed.members if filed else frozenset()

    def selected_by(self, attachment: Attachment) -> Set[str]:
        """The selectors that select an endpoint."""
        return self._selected_by.get(attachment, frozenset())

    def put(self, attachment: Attachment, labels: Mapping[str, str]) -> None:
        """Set an endpoint's labels."""
        old = self._labels.get(attachment)
        before = old or {}
        changed = {key for key, _ in before.items() ^ labels.items()}
        for key in changed:
            if key in before:
                self._unlabel(attachment, key, before[key])
            if key in labels:
                self._with_label.setdefault(key, {}).setdefault(labels[key], set()).add(attachment)
        self._labels[attachment] = labels
        selected_by = self._selected_by.setdefault(attachment, set())
        for text in [*selected_by]:
            filed = self._selectors[text]
            if not changed.isdisjoint(filed.keys) and not filed.selector.matches(labels):
                selected_by.discard(text)
                filed.members.discard(attachment)
        for text in self._candidates(labels):
            filed = self._selectors[text]
            if (text not in selected_by and (old is None or not changed.isdisjoint(filed.keys))
                    and filed.selector.matches(labels)):
                selected_by.add(text)
                filed.members.add(attachment)

    def remove(self, attachment: Attachment) -> None:
        """Forget an endpoint, if it is known."""
        for text in self._selected_by.pop(attachment, ()):
            self._selectors[text].members.discard(attachment)
        for key, value in self._labels.pop(attachment, {}).items():
            self._unlabel(attachment, key, value)

    def _unlabel(self, attachment: Attachment, key: str, value: str) -> None:
        values = self._with_label[key]
        values[value].discard(attachment)
        if not values[value]:
            del values[value]
            if not values:
                del self._with_label[key]

    def _candidates(self, labels: Mapping[str, str]) -> Iterator[str]:
        """The selectors that could select an endpoint."""
        yield from self._undemanding
        for key, value in labels.items():
            if filed := self._filed.get(key):
                yield from filed.get(value, ())
                yield from filed.get(None, ())

    def acquire(self, text: str, selector: Selector) -> None:
        """Begin to use a selector, or count one more user."""
        self._users[text] = self._users.get(text, 0) + 1
        if self._users[text] > 1:
            return
        places = self._places(selector)
        if places is None:
            self._undemanding.add(text)
        for key, value in places or ():
            self._filed.setdefault(key, {}).setdefault(value, set()).add(text)
        members = {attachment for attachment in self._selectable(places) if selector.matches(self._labels[attachment])}
        self._selectors[text] = _Filed(selector, frozenset(keys_of(selector)), places, members)
        for attachment in members:
            self._selected_by[attachment].add(text)

    def _places(self, selector: Selector) -> tuple[Pair, ...] | None:
        """Where to file a selector: where the fewest endpoints are now. None if it demands no label."""
        found = demands(selector)
        if not found or (found[0] and found[0][0][1] is None):
            return found[0] if found else None
        valued = [pairs for pairs in found if all(value is not None for _, value in pairs)]
        return min(valued, default=found[0], key=lambda pairs: sum(
            len(self._with_label.get(key, {}).get(value or "", ())) for key, value in pairs))

    def _selectable(self, places: tuple[Pair, ...] | None) -> Iterable[Attachment]:
        """The endpoints that have one of the labels; all of them if none is demanded."""
        if places is None:
            return self._labels.keys()
        return chain.from_iterable(
            chain.from_iterable(self._with_label.get(key, {}).values()) if value is None
            else self._with_label.get(key, {}).get(value, ()) for key, value in places)

    def release(self, text: str) -> None:
        """Count one user less; without any, forget the selector."""
        self._users[text] -= 1
        if self._users[text]:
            return
        del self._users[text]
        filed = self._selectors.pop(text)
        self._undemanding.discard(text)
        for key, value in filed.places or ():
            values = self._filed[key]
            values[value].discard(text)
            if not values[value]:
                del values[value]
                if not values:
                    del self._filed[key]
        for attachment in filed.members:
            self._selected_by[attachment].discard(text)
