"""YAML text into values that know where they stand.

Scalars are read the way Kubernetes' own tools read them: YAML 1.1 without timestamps and base-60 numbers, mapping keys
as JSON would have them (strings). Anchors, aliases and merge keys work. Duplicate keys, unknown tags and aliases that
contain themselves are refused, and so are documents that only grow large or deep by aliases.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import yaml
from yaml.events import AliasEvent, DocumentStartEvent, Event, MappingStartEvent, ScalarEvent, SequenceStartEvent

from muslin.errors import InvalidArgument

__all__ = ["Document", "Mark", "Node", "Plain", "documents", "plain"]

MAX_DEPTH = 64
"""Levels of nesting; a NetworkPolicy needs eight."""
MAX_NODES = 2_000_000
"""Values in one document, aliases counted as what they stand for; ten thousand pods are about 400,000."""

Scalar = bool | int | float | str | None
Plain = Scalar | list["Plain"] | dict[str, "Plain"]
"""A value as JSON knows it."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times quicker where PyYAML was built with libyaml
_TAG = "tag:yaml.org,2002:"
_MERGE = "<<"
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"})
_FALSE = frozenset({"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"})
_INTEGER = re.compile(r"([-+]?)(?:0b([01_]+)|0x([0-9a-fA-F_]+)|0o?([0-7_]+)|(0|[1-9][0-9_]*))", re.ASCII)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", re.ASCII)


class Mark(NamedTuple):
    """A place in a file; both count from 1."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}"


@dataclass(frozen=True, slots=True)
class Node:
    """A value with its place (of its key, if it has one). ``size`` and ``depth`` count with aliases filled in."""

    value: Scalar | tuple[Node, ...] | dict[str, Node]
    mark: Mark
    size: int = 1
    depth: int = 1

    @property
    def line(self) -> int:
        """Its line, from 1."""
        return self.mark.line


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a file; ``number`` counts from 1, empty documents included."""

    file: str
    number: int
    root: Node

    def __str__(self) -> str:
        return f"{self.file}, document {self.number}"


def documents(text: str, file: str) -> list[Document]:
    """All documents of a YAML text that are not empty.

    Raises InvalidArgument, naming file, document, line and column.
    """
    reader = _Reader(file)
    events: Iterator[Event] = yaml.parse(text, Loader=_LOADER)
    try:
        return [document for document in reader.read(events) if document.root.value is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Mark(mark.line + 1, mark.column + 1) if mark is not None else Mark(1, 1)
        raise reader.error(place, f"not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise reader.error(Mark(1, 1), f"not valid YAML: {' '.join(str(error).split())}") from None
    except (UnicodeError, ValueError, OverflowError) as error:  # an escape such as "\UFFFFFFFF" is no character
        raise reader.error(Mark(1, 1), f"not valid YAML: {error}") from None


def plain(node: Node) -> Plain:
    """The value without its positions, ready to be written as JSON."""
    if isinstance(node.value, tuple):
        return [plain(item) for item in node.value]
    if isinstance(node.value, dict):
        return {key: plain(item) for key, item in node.value.items()}
    return node.value


class _Reader:
    """Composes one file's events; keeps the place for error messages."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.number = 1
        self.anchors: dict[str, Node] = {}

    def error(self, mark: Mark, message: str) -> InvalidArgument:
        return InvalidArgument(f"{self.file}, document {self.number}, {mark}: {message}")

    def read(self, events: Iterator[Event]) -> Iterator[Document]:
        seen = 0
        for event in events:
            if isinstance(event, DocumentStartEvent):
                seen += 1
                self.number = seen
                self.anchors = {}
                yield Document(self.file, seen, self.node(events, next(events), depth=1))

    def node(self, events: Iterator[Event], event: Event, depth: int) -> Node:
        assert event.start_mark is not None, "only hand-made events have no mark"
        mark = Mark(event.start_mark.line + 1, event.start_mark.column + 1)
        if depth > MAX_DEPTH:
            raise self.error(mark, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, AliasEvent):
            target = self.anchors.get(event.anchor or "")
            if target is None:
                raise self.error(mark, f"alias *{event.anchor} is used before its anchor is complete; "
                                       f"define &{event.anchor} above, and not around it")
            return replace(target, mark=mark)
        if isinstance(event, ScalarEvent):
            node = Node(self.scalar(event, mark), mark)
        elif isinstance(event, SequenceStartEvent):
            self.untagged(event, "seq", mark)
            node = self.sequence(events, mark, depth)
        elif isinstance(event, MappingStartEvent):
            self.untagged(event, "map", mark)
            node = self.mapping(events, mark, depth)
        else:  # the parser yields nothing else here
            raise self.error(mark, f"unexpected {type(event).__name__}")
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def untagged(self, event: SequenceStartEvent | MappingStartEvent, kind: str, mark: Mark) -> None:
        if event.tag not in (None, "!", _TAG + kind):
            raise self.error(mark, f"tag {event.tag} is not supported; leave it out")

    def sequence(self, events: Iterator[Event], mark: Mark, depth: int) -> Node:
        items = []
        for event in events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            items.append(self.node(events, event, depth + 1))
        return self.sized(tuple(items), items, mark)

    def mapping(self, events: Iterator[Event], mark: Mark, depth: int) -> Node:
        own: dict[str, Node] = {}
        merged: list[Node] = []
        for event in events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            key = self.node(events, event, depth + 1)
            value = replace(self.node(events, next(events), depth + 1), mark=key.mark)
            if key.value == _MERGE and isinstance(event, ScalarEvent) and event.implicit[0]:
                merged += self.merge(value)
                continue
            name = self.key(key)
            if name in own:
                raise self.error(key.mark, f"key {name!r} is there twice (first on line {own[name].line}); remove one")
            own[name] = value
        entries = dict(own)
        for source in merged:  # a mapping's own keys win over merged ones, earlier merges over later
            if isinstance(source.value, dict):
                entries = {**source.value, **entries}
        return self.sized(entries, list(entries.values()), mark)

    def merge(self, value: Node) -> list[Node]:
        """What a merge key (``<<``) brings in: one mapping or a list of them."""
        sources = list(value.value) if isinstance(value.value, tuple) else [value]
        if not all(isinstance(source.value, dict) for source in sources):
            raise self.error(value.mark, "a merge key (<<) needs a mapping, or a list of mappings")
        return sources

    def sized(self, value: tuple[Node, ...] | dict[str, Node], parts: list[Node], mark: Mark) -> Node:
        size = 1 + sum(part.size for part in parts)
        depth = 1 + max((part.depth for part in parts), default=0)
        if size > MAX_NODES:
            raise self.error(mark, f"more than {MAX_NODES} values (aliases counted as what they stand for)")
        if depth > MAX_DEPTH:
            raise self.error(mark, f"nested deeper than {MAX_DEPTH} levels")
        return Node(value, mark, size, depth)

    def key(self, key: Node) -> str:
        """A mapping's key as JSON has it: numbers and booleans become their text, as Kubernetes' tools do."""
        value = key.value
        if isinstance(value, str):
            return value
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, int | float):
            return str(value)
        raise self.error(key.mark, "a key must be a string; quote it")

    def scalar(self, event: ScalarEvent, mark: Mark) -> Scalar:
        text = event.value
        try:
            text.encode()
        except UnicodeEncodeError:
            raise self.error(mark, "holds half of a surrogate pair; write the character itself") from None
        if event.tag in (None, "!"):
            return self.resolve(text, mark) if event.implicit[0] and event.tag is None else text
        wanted: dict[str, tuple[type, ...]] = {
            "null": (type(None),), "bool": (bool,), "int": (int,), "float": (int, float)}
        kind = event.tag.removeprefix(_TAG)
        if kind == "str":
            return text
        if kind not in wanted or not event.tag.startswith(_TAG):
            raise self.error(mark, f"tag {event.tag} is not supported; leave it out")
        value = self.resolve(text, mark)
        if not isinstance(value, wanted[kind]):
            raise self.error(mark, f"{text!r} is not of its tag's type ({kind})")
        return value

    def resolve(self, text: str, mark: Mark) -> Scalar:
        """The value of a plain scalar, by its looks."""
        if text in _NULL:
            return None
        if text in _TRUE:
            return True
        if text in _FALSE:
            return False
        if match := _INTEGER.fullmatch(text):
            sign, *digits = match.groups()
            digit, base = next((d, b) for d, b in zip(digits, (2, 16, 8, 10), strict=True) if d is not None)
            digit = digit.replace("_", "")
            if not digit:  # such as 0x_
                return text
            if len(digit) > 64 or int(digit, base) >= 1 << 63:
                raise self.error(mark, f"number {text[:24]} does not fit in 64 bits; quote it if it is text")
            return int(sign + digit, base)
        if _FLOAT.fullmatch(text):
            number = float(text)
            if math.isinf(number):
                raise self.error(mark, f"number {text[:24]} is too large; quote it if it is text")
            return number
        return text
