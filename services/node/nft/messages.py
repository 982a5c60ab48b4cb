"""Messages that make, fill, empty and delete tables, chains, sets and rules (linux/netfilter/nf_tables.h)."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from services.node.netlink.attributes import attribute, be32, nested, text
from services.node.netlink.connection import NLM_F_APPEND, NLM_F_CREATE
from services.node.nft.expressions import JUMP, KeyType, Part, Rule, lookup, verdict_data

__all__ = ["Message", "Target", "add_chain", "add_elements", "add_map_elements", "add_rules", "add_set", "add_table",
           "add_expiring", "comment", "delete_chain", "delete_elements", "delete_rule", "delete_set", "delete_table",
           "flush_chain"]

NEWTABLE, GETTABLE, DELTABLE = 0, 1, 2
NEWCHAIN, GETCHAIN, DELCHAIN = 3, 4, 5
NEWRULE, GETRULE, DELRULE = 6, 7, 8
NEWSET, GETSET, DELSET = 9, 10, 11
NEWSETELEM, GETSETELEM, DELSETELEM = 12, 13, 14
GETGEN = 16

HOOK_PREROUTING, HOOK_INPUT, HOOK_FORWARD, HOOK_POSTROUTING = 0, 1, 2, 4

_ANONYMOUS, _CONSTANT, _INTERVAL, _MAP = 1, 2, 4, 8
EXPIRING, GROWING = 16, 32
"""Flags of a set: its elements may have a time to live; packets add to it."""
_INTERVAL_END = 1
_VERDICT_TYPE = 0xFFFFFF00
_COMMENT_BYTES = 127  # nft(8)'s limit, without the final zero
_LIST_BYTES = 60_000  # one attribute holds 65,535

_CHAIN_COMMENT, _SET_COMMENT, _SET_BYTEORDER, _OTHER_COMMENT = 0, 7, 0, 0


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a transaction: type, flags, body, and what it does, for errors."""

    kind: int
    flags: int
    body: bytes
    what: str


@dataclass(frozen=True, slots=True)
class Target:
    """What an element of a verdict map leads to, and whose it is."""

    chain: str
    comment: str = ""


def _userdata(kind: int, value: str) -> bytes:
    """A comment where nft(8) looks for it: type, length, string with final zero."""
    raw = value.encode()[:_COMMENT_BYTES].decode(errors="ignore").encode() + b"\0"
    return bytes((kind, len(raw))) + raw


def comment(userdata: bytes | memoryview) -> str:
    """The comment in a table's or an element's userdata; empty if there is none."""
    raw = bytes(userdata)
    return raw[2:2 + raw[1]].rstrip(b"\0").decode(errors="replace") if raw[:1] == bytes((_OTHER_COMMENT,)) else ""


def add_table(table: str, comment: str = "") -> Message:
    """Make a table; nothing happens if it exists."""
    extra = attribute(6, _userdata(_OTHER_COMMENT, comment)) if comment else b""
    return Message(NEWTABLE, NLM_F_CREATE, text(1, table) + be32(2, 0) + extra, f"add table {table}")


def delete_table(table: str) -> Message:
    """Delete a table with all in it; ENOENT if there is none."""
    return Message(DELTABLE, 0, text(1, table), f"delete table {table}")


def add_chain(table: str, name: str, comment: str = "", *, hook: int | None = None, priority: int = 0,
              kind: str = "filter") -> Message:
    """Make a chain; with a hook one that packets enter, which accepts what it does not decide. A kind may be `nat`."""
    body = text(1, table) + text(3, name)
    if hook is not None:
        body += nested(4, be32(1, hook), be32(2, priority)) + be32(5, 1) + text(7, kind)
    if comment:
        body += attribute(12, _userdata(_CHAIN_COMMENT, comment))
    return Message(NEWCHAIN, NLM_F_CREATE, body, f"add chain {name}{_said(comment)}")


def delete_chain(table: str, name: str) -> Message:
    """Delete a chain that no rule and no element leads to; EBUSY if one does."""
    return Message(DELCHAIN, 0, text(1, table) + text(3, name), f"delete chain {name}")


def flush_chain(table: str, name: str) -> Message:
    """Delete the rules of a chain."""
    return Message(DELRULE, 0, text(1, table) + text(2, name), f"flush chain {name}")


def delete_rule(table: str, chain: str, handle: int) -> Message:
    """Delete one rule; ENOENT if it is gone."""
    body = text(1, table) + text(2, chain) + attribute(3, handle.to_bytes(8, "big"))
    return Message(DELRULE, 0, body, f"delete rule {handle} of chain {chain}")


def add_set(table: str, name: str, key: KeyType, set_id: int, comment: str = "", *, verdicts: bool = False,
            flags: int = 0, size: int = 0) -> Message:
    """Make a set, or a map to verdicts. The id must be unique within the transaction; with a size it holds no more."""
    return _new_set(table, name, key, set_id, flags | (_MAP if verdicts else 0), size, comment)


def _new_set(table: str, name: str, key: KeyType, set_id: int, flags: int, size: int, comment: str) -> Message:
    body = (text(1, table) + text(2, name) + be32(3, flags) + be32(4, key.number) + be32(5, key.length)
            + (be32(6, _VERDICT_TYPE) + be32(7, 0) if flags & _MAP else b"") + be32(10, set_id)
            + (nested(9, be32(1, size)) if size else b""))
    userdata = bytes((_SET_BYTEORDER, 4)) + key.byteorder.to_bytes(4, sys.byteorder)
    if comment:
        userdata += _userdata(_SET_COMMENT, comment)
    return Message(NEWSET, NLM_F_CREATE, body + attribute(13, userdata), f"add set {name}{_said(comment)}")


def delete_set(table: str, name: str) -> Message:
    """Delete a set that no rule looks up; EBUSY if one does."""
    return Message(DELSET, 0, text(1, table) + text(2, name), f"delete set {name}")


def add_elements(table: str, name: str, keys: Iterable[bytes]) -> Iterator[Message]:
    """Add keys to a set; one that is there is left as it is."""
    return _elements(NEWSETELEM, NLM_F_CREATE, table, name, (nested(1, nested(1, attribute(1, k))) for k in keys))


def add_expiring(table: str, name: str, keys: Iterable[bytes], milliseconds: int) -> Iterator[Message]:
    """Add keys to a set, each for that long; the time of one that is there is left as it is."""
    life = attribute(4, milliseconds.to_bytes(8, "big"))
    return _elements(NEWSETELEM, NLM_F_CREATE, table, name,
                     (nested(1, nested(1, attribute(1, k)), life) for k in keys))


def add_map_elements(table: str, name: str, elements: Mapping[bytes, Target]) -> Iterator[Message]:
    """Add keys to a verdict map; EEXIST or EBUSY for a key that leads elsewhere."""
    return _elements(NEWSETELEM, NLM_F_CREATE, table, name, (
        nested(1, nested(1, attribute(1, key)), nested(2, verdict_data(JUMP, target.chain)),
               attribute(6, _userdata(_OTHER_COMMENT, target.comment)) if target.comment else b"")
        for key, target in elements.items()))


def delete_elements(table: str, name: str, keys: Iterable[bytes]) -> Iterator[Message]:
    """Remove keys from a set or map; ENOENT for one that is not there."""
    return _elements(DELSETELEM, 0, table, name, (nested(1, nested(1, attribute(1, k))) for k in keys))


def _elements(kind: int, flags: int, table: str, name: str, encoded: Iterable[bytes], set_id: int = 0,
              ) -> Iterator[Message]:
    """As many messages as it takes: one attribute holds the list, and its length has 16 bits."""
    head = text(1, table) + text(2, name) + (be32(4, set_id) if set_id else b"")
    what = f"{'add elements to' if kind == NEWSETELEM else 'delete elements of'} {name}"
    batch: list[bytes] = []
    size = 0
    for element in encoded:
        if size + len(element) > _LIST_BYTES:
            yield Message(kind, flags, head + nested(3, *batch), what)
            batch, size = [], 0
        batch.append(element)
        size += len(element)
    if batch:
        yield Message(kind, flags, head + nested(3, *batch), what)


def add_rules(table: str, chain: str, rules: Iterable[Rule], set_ids: Iterator[int]) -> Iterator[Message]:
    """Append rules to a chain, their unnamed sets before them."""
    head = text(1, table) + text(2, chain)
    for number, rule in enumerate(rules):
        expressions: list[bytes] = []
        for part in rule.parts:
            if isinstance(part, bytes):
                expressions.append(part)
                continue
            set_id = next(set_ids)
            yield from _anonymous_set(table, part, set_id)
            expressions.append(lookup("__set%d", set_id=set_id, invert=part.invert))
        extra = attribute(7, _userdata(_OTHER_COMMENT, rule.comment)) if rule.comment else b""
        yield Message(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, head + nested(4, *expressions) + extra,
                      f"add rule {number} of chain {chain}{_said(rule.comment)}")


def _anonymous_set(table: str, part: Part, set_id: int) -> Iterator[Message]:
    assert not isinstance(part, bytes)
    flags = _ANONYMOUS | _CONSTANT | (_INTERVAL if part.interval else 0)
    yield _new_set(table, "__set%d", part.key, set_id, flags, len(part.elements), "")
    encoded = (nested(1, nested(1, attribute(1, key)), be32(3, _INTERVAL_END) if end else b"")
               for key, end in part.elements)
    yield from _elements(NEWSETELEM, NLM_F_CREATE, table, "__set%d", encoded, set_id)


def _said(comment: str) -> str:
    return f" ({comment})" if comment else ""
