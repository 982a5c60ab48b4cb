"""JSON values that know their path, read the way the Kubernetes API server reads them.

Null counts as absent. A field that the API does not know is an error here (`kubectl` refuses it too), because a rule
with a misspelt `from` would let everything in. A null in a list is one as well: an empty `-` in YAML is a slip, and as
a rule it would match everything.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from muslin.errors import InvalidArgument

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DNS_LABEL = re.compile(_LABEL)
_DNS_SUBDOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_PORT_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class FieldError(InvalidArgument):
    """A field that the API server would refuse. The message begins with its path."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path


class Untranslatable(Exception):
    """A field that the API server would take, and that can not be expressed here."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path, self.message = path, message


@dataclass(frozen=True, slots=True)
class Field:
    """A value and where it stands in its object."""

    value: object
    path: str = ""

    def error(self, message: str) -> FieldError:
        """A complaint about this field."""
        return FieldError(self.path, message)

    def _wrong(self, wanted: str) -> FieldError:
        kinds = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string",
                 list: "a list", dict: "an object"}
        return self.error(f"must be {wanted}, is {kinds.get(type(self.value), 'something else')}")

    def fields(self, known: Collection[str] = ()) -> dict[str, Field]:
        """The fields of an object that are not null. With `known`, any other is an error."""
        if not isinstance(self.value, dict):
            raise self._wrong("an object")
        prefix = f"{self.path}." if self.path else ""
        for key in self.value:
            if known and key not in known:
                raise FieldError(f"{prefix}{key}", f"unknown field; known are {', '.join(sorted(known))}")
        return {key: Field(value, f"{prefix}{key}") for key, value in self.value.items() if value is not None}

    def items(self) -> list[Field]:
        """The items of a list."""
        if not isinstance(self.value, list):
            raise self._wrong("a list")
        return [Field(value, f"{self.path}[{i}]") for i, value in enumerate(self.value)]

    def text(self) -> str:
        """A string."""
        if isinstance(self.value, str):
            return self.value
        hint = f"; quote it: \"{self.value}\"" if isinstance(self.value, int | float) else ""
        raise self._wrong("a string" + hint)

    def one_of(self, allowed: Collection[str]) -> str:
        """A string of a fixed set."""
        if (text := self.text()) not in allowed:
            raise self.error(f"{text!r} is not supported; use {', '.join(allowed)}")
        return text

    def labels(self) -> dict[str, str]:
        """Labels: qualified names and values. A null value is refused: were it dropped, a selector would widen."""
        if not isinstance(self.value, dict):
            raise self._wrong("an object")
        return {self.label_key(key): Field(value, f"{self.path}[{key}]").label_value()
                for key, value in self.value.items()}

    def label_key(self, key: str) -> str:
        """Check a label's key: a name of up to 63 characters, after an optional DNS subdomain and a slash."""
        prefix, slash, name = key.rpartition("/")
        if slash and (len(prefix) > 253 or not _DNS_SUBDOMAIN.fullmatch(prefix)):
            raise self.error(f"{key!r} is not a label's key: {prefix!r} before the slash must be a DNS subdomain")
        if len(name) > 63 or not _NAME.fullmatch(name):
            raise self.error(f"{key!r} is not a label's key: {name!r} must be at most 63 letters, digits, '-', '_' "
                             "or '.', with a letter or digit at both ends")
        return key

    def label_value(self) -> str:
        """A label's value: empty, or up to 63 characters."""
        value = self.text()
        if value and (len(value) > 63 or not _NAME.fullmatch(value)):
            raise self.error(f"{value!r} is not a label's value: it must be empty or at most 63 letters, digits, "
                             "'-', '_' or '.', with a letter or digit at both ends")
        return value

    def dns_label(self) -> str:
        """A name such as a namespace's (RFC 1123 label)."""
        value = self.text()
        if len(value) > 63 or not _DNS_LABEL.fullmatch(value):
            raise self.error(f"{value!r} must be 1 to 63 lower-case letters, digits or '-', with a letter or digit at "
                             "both ends")
        return value

    def dns_subdomain(self) -> str:
        """A name such as a NetworkPolicy's (RFC 1123 subdomain)."""
        value = self.text()
        if len(value) > 253 or not _DNS_SUBDOMAIN.fullmatch(value):
            raise self.error(f"{value!r} must be 1 to 253 lower-case letters, digits, '-' or '.', with a letter or "
                             "digit at both ends of each part")
        return value

    def object_name(self) -> str:
        """A name such as a profile's, which can be a network's: part of a key, hence without a slash."""
        value = self.text()
        if len(value) > 253 or not _NAME.fullmatch(value):
            raise self.error(f"{value!r} must be 1 to 253 letters, digits, '-', '_' or '.', with a letter or digit at "
                             "both ends")
        return value

    def number(self) -> float:
        """A number."""
        if not isinstance(self.value, int | float) or isinstance(self.value, bool):
            raise self._wrong("a number")
        if not -1e15 < self.value < 1e15:  # so far a float tells whole numbers apart
            raise self.error(f"{str(self.value)[:40]} is too large")
        return float(self.value)

    def integer(self, least: int, most: int) -> int:
        """A whole number within the bounds, both included."""
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            raise self._wrong("a whole number")
        if not least <= self.value <= most:
            raise self.error(f"{self.value} is not between {least} and {most}")
        return self.value

    def flag(self) -> bool:
        """True or false."""
        if not isinstance(self.value, bool):
            raise self._wrong("true or false")
        return self.value

    def port(self) -> int:
        """A port number, 1 to 65535."""
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            raise self._wrong("a number")
        if not 1 <= self.value <= 65535:
            raise self.error(f"{self.value} is not a port: use 1 to 65535")
        return self.value

    def port_name(self) -> str:
        """A port's name (RFC 6335 service name)."""
        value = self.text()
        if value.isdecimal():
            raise self.error(f"{value!r} is a string; write the number without quotes")
        if len(value) > 15 or not _PORT_NAME.fullmatch(value) or not re.search("[a-z]", value):
            raise self.error(f"{value!r} is not a port's name: it must be 1 to 15 lower-case letters, digits and "
                             "single '-' between them, with at least one letter")
        return value
