"""As much of Helm's templates as the chart uses (Go's text/template, with Helm's functions), rendered."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

__all__ = ["render"]

_TAG = re.compile(r"(\s*)\{\{-\s+(.*?)\s+\}\}|()\{\{\s+(.*?)\s+\}\}", re.DOTALL)
_WORD = re.compile(r"\s*(\(|\)|\||\"[^\"]*\"|[^\s()|]+)")
_BLOCKS = ("if", "range")


@dataclass
class _Scope:
    root: Mapping[str, Any]
    variables: dict[str, Any] = field(default_factory=dict)


def render(template: str, values: Mapping[str, Any], namespace: str, apis: frozenset[str] = frozenset()) -> str:
    """The text that is applied. Raises KeyError, ValueError for what is not there, or not known."""
    scope = _Scope({"Values": values, "Release": {"Namespace": namespace},
                    "Capabilities": {"APIVersions": {"Has": lambda name: name in apis}}})
    tokens = list(_tokens(template))
    text, rest = _run(tokens, 0, scope, live=True)
    if rest != len(tokens):
        raise ValueError(f"an end too many: {tokens[rest][1]}")
    return text


def _tokens(template: str) -> Iterator[tuple[str, str]]:
    """Text, and what is to be done after it."""
    at = 0
    for found in _TAG.finditer(template):
        trimmed = found.group(2) is not None
        text = template[at:found.start() if trimmed else found.start(3)]
        yield text, found.group(2) if trimmed else found.group(4)
        at = found.end()
    yield template[at:], ""


def _run(tokens: list[tuple[str, str]], at: int, scope: _Scope, *, live: bool) -> tuple[str, int]:
    """What tokens come to, and where that ends: at `else`, `end`, or the end of all."""
    out = []
    while at < len(tokens):
        text, action = tokens[at]
        out.append(text if live else "")
        word, _, more = action.partition(" ")
        if word in ("end", "else"):
            return "".join(out), at
        at += 1
        if word in _BLOCKS:
            said, at = _block(word, more, tokens, at, scope, live=live)
            out.append(said)
        elif action and live:
            out.append(_said(_value(action, scope)))
    return "".join(out), at


def _block(word: str, condition: str, tokens: list[tuple[str, str]], at: int, scope: _Scope, *,
           live: bool) -> tuple[str, int]:
    if word == "range":
        names, _, condition = condition.partition(" := ")
        key, value = (name.strip() for name in names.split(","))
        items = sorted(_value(condition, scope).items()) if live else []
        out = [_run(tokens, at, _Scope(scope.root, {key: each, value: of}), live=True)[0] for each, of in items]
        _, at = _run(tokens, at, scope, live=False)
        return "".join(out), at + 1
    holds = live and bool(_value(condition, scope))
    first, at = _run(tokens, at, scope, live=holds)
    second = ""
    if tokens[at][1] == "else":
        second, at = _run(tokens, at + 1, scope, live=live and not holds)
    if tokens[at][1] != "end":
        raise ValueError(f"{word} {condition}: no end")
    return first + second, at + 1


def _value(text: str, scope: _Scope) -> Any:
    words = [found.group(1) for found in _WORD.finditer(text)]
    value, rest = _pipeline(words, 0, scope)
    if rest != len(words):
        raise ValueError(f"{text}: not understood from {words[rest]!r} on")
    return value


def _pipeline(words: list[str], at: int, scope: _Scope) -> tuple[Any, int]:
    value: Any = None
    piped = False
    while True:
        arguments: list[Any] = []
        while at < len(words) and words[at] not in ("|", ")"):
            if words[at] == "(":
                inner, at = _pipeline(words, at + 1, scope)
                arguments.append(inner)
                at += 1
            else:
                arguments.append(_word(words[at], scope))
                at += 1
        if piped:
            arguments.append(value)
        value = arguments[0](*arguments[1:]) if callable(arguments[0]) else arguments[0]
        if at >= len(words) or words[at] == ")":
            return value, at
        at, piped = at + 1, True


def _word(word: str, scope: _Scope) -> Any:
    if word[0] == '"':
        return word[1:-1]
    if word.isdecimal():
        return int(word)
    if word[0] == "$":
        return scope.variables[word]
    if word[0] == ".":
        value: Any = scope.root
        for name in word[1:].split("."):
            value = value[name]
        return value
    return _FUNCTIONS[word]


def _said(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "not": lambda value: not value,
    "and": lambda *values: next((each for each in values if not each), values[-1]),
    "or": lambda *values: next((each for each in values if each), values[-1]),
    "index": lambda value, key: value[key],
    "printf": lambda form, *values: form % tuple(map(_said, values)),
    "quote": lambda value: json.dumps(_said(value)),
    "toYaml": lambda value: yaml.safe_dump(value).rstrip("\n"),
    "nindent": lambda count, text: "\n" + "\n".join(" " * count + line for line in text.splitlines()),
    "sha256sum": lambda text: hashlib.sha256(text.encode()).hexdigest(),
}
