"""Results for programs: JSON and YAML with the field names of the API."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from google.protobuf.message import Message

__all__ = ["plain", "plains", "structured"]


def plain(message: Message) -> dict[str, Any]:
    """A message as plain values, every field of it, so that the shape does not depend on the values.

    Names are the API's. Numbers are numbers (protobuf's own JSON makes strings of 64-bit ones), enumerators their
    names, maps are sorted by their keys, messages and optional fields that are not set None.
    """
    return {name: value(message) for name, value in _fields(message)}


def plains(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """The same for several."""
    return [plain(message) for message in messages]


def structured(value: object, form: str) -> str:
    """Plain values as `json` or `yaml`."""
    if form == "json":
        return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    import yaml  # nothing else here needs it
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # the quick one is there where libyaml is
    text: str = yaml.dump(value, Dumper=dumper, sort_keys=False, allow_unicode=True)
    return text.rstrip("\n")


_Fields = tuple[tuple[str, Callable[[Any], Any]], ...]
_KNOWN: dict[str, _Fields] = {}


def _fields(message: Message) -> _Fields:
    """Names of a message's fields and how each is read; looked up once, as there can be very many messages."""
    kind = message.DESCRIPTOR
    if (known := _KNOWN.get(kind.full_name)) is None:
        known = _KNOWN[kind.full_name] = tuple((field.name, _reader(field)) for field in kind.fields)
    return known


def _reader(field: Any) -> Callable[[Any], Any]:  # Any: two descriptor types, of which one is published
    name, single = field.name, _single(field)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        entry = _single(field.message_type.fields_by_name["value"])
        return lambda message: {key: entry(value) for key, value in sorted(getattr(message, name).items())}
    if field.is_repeated:
        return lambda message: list(map(single, getattr(message, name)))
    if field.has_presence:
        return lambda message: single(getattr(message, name)) if message.HasField(name) else None
    return lambda message: single(getattr(message, name))


def _single(field: Any) -> Callable[[Any], Any]:
    if field.message_type is not None:
        return plain
    if field.enum_type is not None:
        names = {number: value.name for number, value in field.enum_type.values_by_number.items()}
        return lambda value: names.get(value, value)
    return lambda value: value
