"""JSON (RFC 8259) to values and back: the interpreter's own parser is not compiled in everywhere."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    Value: TypeAlias = bool | int | float | str | list["Value"] | dict[str, "Value"] | None

_DEPTH = 128
_SPACE = " \t\r\n"
_NUMBER = frozenset("0123456789+-.eE")
_LITERALS = {"t": ("true", True), "f": ("false", False), "n": ("null", None)}
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class NotJson(Exception):
    """The text does not parse; the message has line and column."""


def loads(raw: bytes) -> Value:
    """Parse UTF-8 JSON. Of a member that is given twice the last counts.

    Raises:
        NotJson: it is not UTF-8, not JSON, or nested deeper than 128.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError as problem:
        raise NotJson(f"byte {problem.start + 1} is not UTF-8") from None
    parser = _Parser(text)
    value, end = parser.value(parser.space(0), 0)
    end = parser.space(end)
    if end < len(text):
        raise parser.fault(end, "text after the end")
    return value


class _Parser:
    """Methods take the position where something begins and return it with the position after its end."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def fault(self, at: int, what: str) -> NotJson:
        before = self.text[:at]
        return NotJson(f"line {before.count(chr(10)) + 1} column {at - before.rfind(chr(10))}: {what}")

    def space(self, at: int) -> int:
        text, end = self.text, len(self.text)
        while at < end and text[at] in _SPACE:
            at += 1
        return at

    def value(self, at: int, depth: int) -> tuple[Value, int]:
        first = self.text[at:at + 1]
        if first == '"':
            return self.string(at)
        if first in ("{", "["):
            if depth == _DEPTH:
                raise self.fault(at, f"nested deeper than {_DEPTH}")
            return self.object(at, depth + 1) if first == "{" else self.array(at, depth + 1)
        if first in _LITERALS:
            word, meaning = _LITERALS[first]
            if self.text.startswith(word, at):
                return meaning, at + len(word)
        elif first and first in "-0123456789":
            return self.number(at)
        raise self.fault(at, "a value was expected" if first else "the text ends too early")

    def object(self, at: int, depth: int) -> tuple[Value, int]:
        members: dict[str, Value] = {}
        at = self.space(at + 1)
        if self.text[at:at + 1] == "}":
            return members, at + 1
        while True:
            if self.text[at:at + 1] != '"':
                raise self.fault(at, "a member's name in double quotes was expected")
            name, at = self.string(at)
            at = self.space(at)
            if self.text[at:at + 1] != ":":
                raise self.fault(at, "':' was expected")
            members[name], at = self.value(self.space(at + 1), depth)
            at = self.space(at)
            after = self.text[at:at + 1]
            if after == "}":
                return members, at + 1
            if after != ",":
                raise self.fault(at, "',' or '}' was expected")
            at = self.space(at + 1)

    def array(self, at: int, depth: int) -> tuple[Value, int]:
        items: list[Value] = []
        at = self.space(at + 1)
        if self.text[at:at + 1] == "]":
            return items, at + 1
        while True:
            item, at = self.value(at, depth)
            items.append(item)
            at = self.space(at)
            after = self.text[at:at + 1]
            if after == "]":
                return items, at + 1
            if after != ",":
                raise self.fault(at, "',' or ']' was expected")
            at = self.space(at + 1)

    def string(self, at: int) -> tuple[str, int]:
        text, parts = self.text, []
        start = at = at + 1
        while True:
            quote = text.find('"', at)
            if quote < 0:
                raise self.fault(start - 1, "a string without end")
            slash = text.find("\\", at, quote)
            piece = text[at:quote if slash < 0 else slash]
            if not piece.isprintable() and (control := next((n for n, c in enumerate(piece) if c < " "), -1)) >= 0:
                raise self.fault(at + control, "a control character in a string")
            parts.append(piece)
            if slash < 0:
                return "".join(parts), quote + 1
            escape = text[slash + 1:slash + 2]
            if escape == "u":
                character, at = self.unicode(slash)
                parts.append(character)
            elif escape in _ESCAPES:
                parts.append(_ESCAPES[escape])
                at = slash + 2
            else:
                raise self.fault(slash, "an unknown escape")

    def unicode(self, at: int) -> tuple[str, int]:
        high = self.hexadecimal(at)
        if 0xD800 <= high < 0xDC00 and self.text.startswith("\\u", at + 6):
            low = self.hexadecimal(at + 6)
            if 0xDC00 <= low < 0xE000:
                return chr(0x10000 + (high - 0xD800 << 10) + low - 0xDC00), at + 12
        return chr(high), at + 6

    def hexadecimal(self, at: int) -> int:
        digits = self.text[at + 2:at + 6]
        if len(digits) < 4 or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
            raise self.fault(at, "an unknown escape")
        return int(digits, 16)

    def number(self, at: int) -> tuple[int | float, int]:
        text, end = self.text, at
        while text[end:end + 1] in _NUMBER:
            end += 1
        whole, _, exponent = text[at:end].replace("E", "e").partition("e")
        integer, point, fraction = whole.removeprefix("-").partition(".")
        sound = integer.isdigit() and (integer == "0" or integer[0] != "0") and (fraction.isdigit() or not point)
        if "e" in text[at:end] or "E" in text[at:end]:
            sound = sound and exponent[exponent[:1] in ("+", "-"):].isdigit()
        if not sound or end - at > 1000:
            raise self.fault(at, "not a number")
        return (float(text[at:end]) if point or exponent else int(text[at:end])), end


def dumps(value: object) -> str:
    """Write what `loads` gives, or the like with tuples, as ASCII on one line."""
    if isinstance(value, str):
        return '"' + "".join(_escaped(character) for character in value) + '"'
    if value is None or isinstance(value, bool):
        return "null" if value is None else "true" if value else "false"
    if isinstance(value, (int, float)):
        return {"inf": "1e999", "-inf": "-1e999"}.get(str(value), str(value))
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(dumps(item) for item in value) + "]"
    assert isinstance(value, dict)
    return "{" + ", ".join(f"{dumps(name)}: {dumps(item)}" for name, item in value.items()) + "}"


def _escaped(character: str) -> str:
    if " " <= character <= "~":
        return "\\" + character if character in '"\\' else character
    point = ord(character)
    if point < 0x10000:
        return f"\\u{point:04x}"
    return f"\\u{0xD800 + (point - 0x10000 >> 10):04x}\\u{0xDC00 + (point & 0x3FF):04x}"
