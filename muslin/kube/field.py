"""Reading a manifest field by field, with errors that say where."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from muslin.errors import InvalidArgument
from muslin.kube.document import Document, Node

__all__ = ["Field", "DNS_LABEL", "DNS_SUBDOMAIN"]

DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
"""RFC 1123 label: the form of a namespace's or a container's name."""
DNS_SUBDOMAIN = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)
"""RFC 1123 subdomain: the form of a pod's name."""

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Field:
    """One value of a document and its path. Readers raise InvalidArgument that names file, line, column and path."""

    document: Document
    node: Node
    path: str = ""

    def error(self, message: str) -> InvalidArgument:
        """The error to raise about this field."""
        where = f"{self.path}: " if self.path else ""
        return InvalidArgument(f"{self.document}, {self.node.mark}: {where}{message}")

    @property
    def absent(self) -> bool:
        """Whether it is null, which Kubernetes treats as not there."""
        return self.node.value is None

    def mapping(self) -> dict[str, Field]:
        """Its entries that are not null."""
        if not isinstance(self.node.value, dict):
            raise self.error(f"must be a mapping, is {self.kind()}")
        fields = {key: Field(self.document, node, self._child(key)) for key, node in self.node.value.items()}
        return {key: field for key, field in fields.items() if not field.absent}

    def only(self, *names: str) -> dict[str, Field]:
        """Its entries, none of which may have another name: a misspelt field must not be passed over in silence."""
        fields = self.mapping()
        for name, field in fields.items():
            if name not in names:
                close = difflib.get_close_matches(name, names, 1)
                hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(names)}"
                raise field.error(f"unknown field; {hint}")
        return fields

    def require(self, name: str, fix: str) -> Field:
        """The entry ``name`` of a mapping; ``fix`` says what to write if it is missing."""
        fields = self.mapping()
        if name not in fields:
            path = self._child(name)
            raise InvalidArgument(f"{self.document}, {self.node.mark}: {path}: missing; {fix}")
        return fields[name]

    def items(self) -> Iterator[Field]:
        """The items of a list."""
        if not isinstance(self.node.value, tuple):
            raise self.error(f"must be a list, is {self.kind()}")
        return (Field(self.document, node, f"{self.path}[{index}]") for index, node in enumerate(self.node.value))

    def string(self) -> str:
        """A string."""
        if not isinstance(self.node.value, str):
            raise self.error(f"must be a string, is {self.kind()}; quote it")
        return self.node.value

    def name(self, form: re.Pattern[str], what: str) -> str:
        """A string of the given form; ``what`` describes the form."""
        text = self.string()
        if not form.fullmatch(text):
            raise self.error(f"{text!r} is not {what}")
        return text

    def integer(self, least: int, most: int) -> int:
        """A whole number within the bounds, both included."""
        value = self.node.value
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.error(f"must be a whole number, is {self.kind()}")
        if not least <= value <= most:
            raise self.error(f"{value} is not between {least} and {most}")
        return value

    def boolean(self) -> bool:
        """True or false."""
        if not isinstance(self.node.value, bool):
            raise self.error(f"must be true or false, is {self.kind()}")
        return self.node.value

    def strings(self) -> dict[str, str]:
        """A mapping of strings to strings."""
        return {key: field.string() for key, field in self.mapping().items()}

    def kind(self) -> str:
        """What it is, for people."""
        match self.node.value:
            case None:
                return "null"
            case bool():
                return "true" if self.node.value else "false"
            case dict():
                return "a mapping"
            case tuple():
                return "a list"
            case str():
                return f"the string {self.node.value[:40]!r}"
            case number:
                return f"the number {number}"

    def _child(self, key: str) -> str:
        if not _PLAIN_KEY.fullmatch(key):
            return f"{self.path}[{key[:80]!r}]"
        return f"{self.path}.{key}" if self.path else key
