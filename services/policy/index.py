"""Which selectors select which endpoints, kept as both change.

Nearly all selectors demand a certain value of some label (of the namespace, above all). They are filed under one such
pair, and endpoints under all their labels: a new endpoint is compared only with selectors that could select it, and a
new selector only with endpoints that it could select.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set
from typing import TypeAlias

from muslin.selectors import And, Comparison, Selector
from services.policy import labels as names
from services.policy.model import Attachment

Pair: TypeAlias = tuple[str, str]


def demanded(selector: Selector) -> Pair | None:
    """A label and its value that a selector can not do without; None if there is no single one."""
    operands = selector.operands if isinstance(selector, And) else (selector,)
    pairs = [(o.key, o.value) for o in operands if isinstance(o, Comparison) and o.operator == "=="]
    # Labels that are nearly everybody's separate badly; the namespace's name separates best.
    return min(pairs, key=lambda pair: (pair[0] == names.ORCHESTRATOR, pair[0] != names.NAMESPACE), default=None)


class SelectorIndex:
    """Selectors by their canonical text, endpoints by their attachment."""

    def __init__(self) -> None:
        self._labels: dict[Attachment, Mapping[str, str]] = {}
        self._with_label: dict[Pair, set[Attachment]] = {}
        self._users: Counter[str] = Counter()
        self._filed: dict[Pair | None, dict[str, Selector]] = {}
        self._members: dict[str, set[Attachment]] = {}
        self._selected_by: dict[Attachment, set[str]] = {}

    def __len__(self) -> int:
        """How many selectors are in use."""
        return len(self._members)

    def members(self, text: str) -> Set[Attachment]:
        """The endpoints that a selector selects; none of one that is not in use."""
        return self._members.get(text, frozenset())

    def selected_by(self, attachment: Attachment) -> Set[str]:
        """The selectors that select an endpoint."""
        return self._selected_by.get(attachment, frozenset())

    def put(self, attachment: Attachment, labels: Mapping[str, str]) -> None:
        """Set an endpoint's labels."""
        self.remove(attachment)
        self._labels[attachment] = labels
        for item in labels.items():
            self._with_label.setdefault(item, set()).add(attachment)
        selected_by = self._selected_by[attachment] = set()
        pairs: list[Pair | None] = [None, *labels.items()]
        for pair in pairs:
            for text, selector in self._filed.get(pair, {}).items():
                if selector.matches(labels):
                    selected_by.add(text)
                    self._members[text].add(attachment)

    def remove(self, attachment: Attachment) -> None:
        """Forget an endpoint, if it is known."""
        for text in self._selected_by.pop(attachment, ()):
            self._members[text].discard(attachment)
        for pair in self._labels.pop(attachment, {}).items():
            self._with_label[pair].discard(attachment)
            if not self._with_label[pair]:
                del self._with_label[pair]

    def acquire(self, text: str, selector: Selector) -> None:
        """Begin to use a selector, or count one more user."""
        self._users[text] += 1
        if self._users[text] > 1:
            return
        pair = demanded(selector)
        self._filed.setdefault(pair, {})[text] = selector
        candidates: Set[Attachment] = self._labels.keys() if pair is None else self._with_label.get(pair, set())
        members = {attachment for attachment in candidates if selector.matches(self._labels[attachment])}
        self._members[text] = members
        for attachment in members:
            self._selected_by[attachment].add(text)

    def release(self, text: str, selector: Selector) -> None:
        """Count one user less; without any, forget the selector."""
        self._users[text] -= 1
        if self._users[text]:
            return
        del self._users[text]
        pair = demanded(selector)
        del self._filed[pair][text]
        if not self._filed[pair]:
            del self._filed[pair]
        for attachment in self._members.pop(text):
            self._selected_by[attachment].discard(text)
