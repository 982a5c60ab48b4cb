"""Text into selectors. The grammar is Calico's.

::

    expression  = and-term { "||" and-term }
    and-term    = term { "&&" term }
    term        = "!" term | "(" expression ")" | "all()" | "global()" | "has(" key ")"
                | key ( "==" | "!=" | "contains" | "starts with" | "ends with" ) value
                | key ( "in" | "not in" ) "{" [ value { "," value } ] "}"
    value       = 'text' | "text"                  without escapes

White space between tokens is free, and an empty text is `all()`. Words are keywords only where a key can not stand: a
label may be called `in` or `has`.
"""

from __future__ import annotations

import re

from muslin.errors import InvalidArgument
from muslin.selectors.expressions import KEY, All, And, Comparison, Global, Has, Membership, Not, Or, Selector

MAX_DEPTH = 64
"""Levels of parentheses and negations; people write two or three."""

_SPACE = re.compile(r"\s*")
_CALL = re.compile(r"(all|global)\s*\(\s*\)")
_HAS = re.compile(r"has\s*\(\s*([^()\s]*)\s*\)")
_OPERATOR = re.compile(r"==|!=|(?:not\s+in|in|contains|starts\s+with|ends\s+with)\b")
_VALUE = re.compile(r"'([^']*)'|\"([^\"]*)\"")


class SelectorError(InvalidArgument):
    """A selector that does not parse; the message shows where. `position` counts characters from 0."""

    def __init__(self, text: str, position: int, message: str) -> None:
        near = text[position:position + 20]
        super().__init__(f"selector, column {position + 1}: {message}, found {f'{near!r}' if near else 'the end'}")
        self.position = position


def parse(text: str) -> Selector:
    """Read a selector.

    Raises:
        SelectorError: it is not one.
    """
    if not text.strip():
        return All()
    parser = _Parser(text)
    selector = parser.expression(0)
    if parser.position < len(text):
        raise parser.error("expected '&&', '||' or the end")
    return selector


class _Parser:
    """A reader of one text; `position` stands on the next token."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.skip(0)

    def error(self, message: str) -> SelectorError:
        return SelectorError(self.text, self.position, message)

    def skip(self, end: int) -> None:
        """Go on behind `end` and the white space there."""
        self.position = _SPACE.match(self.text, end).end()  # type: ignore[union-attr]  # it matches the empty text

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        if found := pattern.match(self.text, self.position):
            self.skip(found.end())
        return found

    def literal(self, token: str) -> bool:
        if found := self.text.startswith(token, self.position):
            self.skip(self.position + len(token))
        return found

    def expression(self, depth: int) -> Selector:
        terms = [self.and_term(depth)]
        while self.literal("||"):
            terms.append(self.and_term(depth))
        return Or(tuple(terms)) if len(terms) > 1 else terms[0]

    def and_term(self, depth: int) -> Selector:
        terms = [self.term(depth)]
        while self.literal("&&"):
            terms.append(self.term(depth))
        return And(tuple(terms)) if len(terms) > 1 else terms[0]

    def term(self, depth: int) -> Selector:
        if depth > MAX_DEPTH:
            raise self.error(f"nested deeper than {MAX_DEPTH} levels")
        if self.literal("!"):
            return Not(self.term(depth + 1))
        if self.literal("("):
            inner = self.expression(depth + 1)
            if not self.literal(")"):
                raise self.error("expected ')'")
            return inner
        if call := self.take(_CALL):
            return All() if call[1] == "all" else Global()
        start = self.position
        if has := self.take(_HAS):
            if not KEY.fullmatch(has[1]):
                self.position = start
                raise self.error(f"{has[1]!r} is not a label's key (letters, digits, '_', '.', '/', '-')")
            return Has(has[1])
        return self.comparison()

    def comparison(self) -> Selector:
        if not (key := self.take(KEY)):
            raise self.error("expected a label's key, '!', '(', has(), all() or global()")
        if not (found := self.take(_OPERATOR)):
            raise self.error("expected '==', '!=', 'in', 'not in', 'contains', 'starts with' or 'ends with'")
        how = " ".join(found[0].split())
        if how in ("in", "not in"):
            return Membership(key[0], self.values(), how == "not in")
        return Comparison(key[0], how, self.value())

    def values(self) -> tuple[str, ...]:
        if not self.literal("{"):
            raise self.error("expected '{'")
        if self.literal("}"):
            return ()
        values = [self.value()]
        while self.literal(","):
            values.append(self.value())
        if not self.literal("}"):
            raise self.error("expected ',' or '}'")
        return tuple(values)

    def value(self) -> str:
        if not (found := self.take(_VALUE)):
            raise self.error("expected a value in quotes")
        return found[1] if found[1] is not None else found[2]
