"""Results for programs: JSON and YAML with the field names of the API."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from google.protobuf.message import Message

__all__ = ["plain", "plains", "structured"]


def plain(message: Message) -> dict[str, Any]:
    """A message as plain values, every field of it, so that the shape does not depend on the values.

    Names are the API's. Numbers are numbers (protobuf's own JSON makes strings of 64-bit ones), enumerators their
    names, messages and optional fields that are not set None.
    """
    return {field.name: _value(message, field) for field in message.DESCRIPTOR.fields}


def plains(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """The same for several."""
    return [plain(message) for message in messages]


def structured(value: object, form: str) -> str:
    """Plain values as `json` or `yaml`."""
    if form == "json":
        return json.dumps(value, indent=2, ensure_ascii=False)
    import yaml  # nothing else here needs it
    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    return text.rstrip("\n")


def _value(message: Message, field: Any) -> Any:  # Any: two descriptor types, of which one is published
    if field.is_repeated:
        return [_single(item, field) for item in getattr(message, field.name)]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _single(getattr(message, field.name), field)


def _single(value: Any, field: Any) -> Any:
    if field.message_type is not None:
        return plain(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known else value
    return value
