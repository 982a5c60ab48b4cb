"""Selectors: expressions over labels, in Calico's grammar (`parser` reads them).

Values compare equal if they are written equally; `canonical` finds one way to write what several say.
"""

from __future__ import annotations

import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from muslin.errors import InvalidArgument

NAMESPACE = "projectcalico.org/namespace"
"""Label with the name of the namespace that something is in."""

KEY = re.compile(r"[a-zA-Z0-9_./\-]{1,512}")
"""What a label's key looks like."""

COMPARISONS: dict[str, Callable[[str, str], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "contains": operator.contains,
    "starts with": str.startswith,
    "ends with": str.endswith,
}
"""How a label's value, if there is one, is compared with a text."""


class Selector(ABC):
    """An expression; `str()` of it parses to an equal one."""

    __slots__ = ()

    @abstractmethod
    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether labels satisfy it."""


@dataclass(frozen=True, slots=True)
class All(Selector):
    """Everything."""

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Always."""
        return True

    def __str__(self) -> str:
        return "all()"


@dataclass(frozen=True, slots=True)
class Global(Selector):
    """What is in no namespace."""

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Where the namespace is absent."""
        return NAMESPACE not in labels

    def __str__(self) -> str:
        return "global()"


@dataclass(frozen=True, slots=True)
class Has(Selector):
    """The label is there."""

    key: str

    def __post_init__(self) -> None:
        _check_key(self.key)

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Where the label is, whatever its value."""
        return self.key in labels

    def __str__(self) -> str:
        return f"has({self.key})"


@dataclass(frozen=True, slots=True)
class Comparison(Selector):
    """The label's value compared with a text, by an operator of `COMPARISONS`."""

    key: str
    operator: str
    value: str

    def __post_init__(self) -> None:
        _check_key(self.key)
        _quoted(self.value)
        assert self.operator in COMPARISONS

    def matches(self, labels: Mapping[str, str]) -> bool:
        """As compared; where the label is absent only `!=` holds."""
        found = labels.get(self.key)
        return self.operator == "!=" if found is None else COMPARISONS[self.operator](found, self.value)

    def __str__(self) -> str:
        return f"{self.key} {self.operator} {_quoted(self.value)}"


@dataclass(frozen=True, slots=True)
class Membership(Selector):
    """The label's value is in a set; or, negated, it is not, or the label is absent."""

    key: str
    values: tuple[str, ...]
    negated: bool = False

    def __post_init__(self) -> None:
        _check_key(self.key)
        for value in self.values:
            _quoted(value)

    def matches(self, labels: Mapping[str, str]) -> bool:
        """As said; where the label is absent only the negated form holds."""
        return (labels.get(self.key) in self.values) != self.negated

    def __str__(self) -> str:
        return f"{self.key} {'not in' if self.negated else 'in'} {{{', '.join(map(_quoted, self.values))}}}"


@dataclass(frozen=True, slots=True)
class Not(Selector):
    """The operand does not hold."""

    operand: Selector

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Where the operand does not."""
        return not self.operand.matches(labels)

    def __str__(self) -> str:
        bare = isinstance(self.operand, All | Global | Has | Not)
        return f"!{self.operand}" if bare else f"!({self.operand})"


@dataclass(frozen=True, slots=True)
class And(Selector):
    """All operands hold; there are at least two."""

    operands: tuple[Selector, ...]

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Where all operands do."""
        return all(operand.matches(labels) for operand in self.operands)

    def __str__(self) -> str:
        return " && ".join(f"({o})" if isinstance(o, And | Or) else str(o) for o in self.operands)


@dataclass(frozen=True, slots=True)
class Or(Selector):
    """At least one operand holds; there are at least two."""

    operands: tuple[Selector, ...]

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Where an operand does."""
        return any(operand.matches(labels) for operand in self.operands)

    def __str__(self) -> str:
        return " || ".join(f"({o})" if isinstance(o, Or) else str(o) for o in self.operands)


def _check_key(key: str) -> None:
    if not KEY.fullmatch(key):
        raise InvalidArgument(f"selector: {key!r} is not a label's key: it must match {KEY.pattern}")


def _quoted(value: str) -> str:
    if "'" not in value:
        return f"'{value}'"
    if '"' not in value:
        return f'"{value}"'
    raise InvalidArgument(f"selector: value {value!r} holds both kinds of quotes, and there are no escapes")


def equal(key: str, value: str) -> Selector:
    """The label is there and has the value."""
    return Comparison(key, "==", value)


def conjunction(terms: Iterable[Selector]) -> Selector:
    """All of the terms, in their order; `all()` of none."""
    operands = tuple(terms)
    return And(operands) if len(operands) > 1 else operands[0] if operands else All()


def keys_of(selector: Selector) -> set[str]:
    """The labels that a selector asks for."""
    match selector:
        case Has(key) | Comparison(key) | Membership(key):
            return {key}
        case Global():
            return {NAMESPACE}
        case Not(operand):
            return keys_of(operand)
        case And(operands) | Or(operands):
            return {key for operand in operands for key in keys_of(operand)}
        case _:
            return set()


def with_prefix(selector: Selector, prefix: str, *, every: Selector, none: Selector) -> Selector:
    """The same selector on labels whose keys have a prefix.

    `every` and `none` stand for `all()` and `global()`, which mean something else where another thing is selected.
    """
    match selector:
        case All():
            return every
        case Global():
            return none
        case Has(key):
            return Has(prefix + key)
        case Comparison(key, how, value):
            return Comparison(prefix + key, how, value)
        case Membership(key, values, negated):
            return Membership(prefix + key, values, negated)
        case Not(operand):
            return Not(with_prefix(operand, prefix, every=every, none=none))
        case And(operands):
            return And(tuple(with_prefix(operand, prefix, every=every, none=none) for operand in operands))
        case Or(operands):
            return Or(tuple(with_prefix(operand, prefix, every=every, none=none) for operand in operands))
        case _:
            raise AssertionError(selector)


def canonical(selector: Selector) -> Selector:
    """The one way to write what a selector means, as far as simple rules find it.

    Nested conjunctions and disjunctions are flattened, sorted and freed of repetitions; negations go into comparisons;
    sets are sorted. Selectors of one canonical text select the same.
    """
    match selector:
        case Global():
            return Not(Has(NAMESPACE))
        case Membership(key, values, negated):
            unique = tuple(sorted(set(values)))
            if len(unique) == 1:
                return Comparison(key, "!=" if negated else "==", unique[0])
            return Membership(key, unique, negated)
        case Not(operand):
            return _negation(canonical(operand))
        case And(operands) | Or(operands):
            return _combination(type(selector), operands)
        case _:
            return selector


def _negation(operand: Selector) -> Selector:
    match operand:
        case Not(inner):
            return inner
        case Comparison(key, "==" | "!=" as how, value):
            return Comparison(key, "!=" if how == "==" else "==", value)
        case Membership(key, values, negated):
            return Membership(key, values, not negated)
        case _:
            return Not(operand)


def _combination(kind: type[And | Or], operands: tuple[Selector, ...]) -> Selector:
    flat: dict[str, Selector] = {}
    for operand in map(canonical, operands):
        for part in operand.operands if isinstance(operand, kind) else (operand,):
            flat[str(part)] = part
    if "all()" in flat:
        if kind is Or:
            return All()
        del flat["all()"]
    parts = tuple(flat[text] for text in sorted(flat))
    return kind(parts) if len(parts) > 1 else parts[0] if parts else All()
