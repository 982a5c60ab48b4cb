"""A socket to nf_tables: transactions that happen whole or not at all, and the few dumps that are needed."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections import Counter
from collections.abc import Iterator, Sequence

from services.node.errors import KernelError
from services.node.netlink.attributes import as_text, pairs, parse, text
from services.node.netlink.connection import (
    HEADER,
    NLM_F_ACK,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    Reply,
    Request,
    Socket,
    describe_error,
)
from services.node.nft.expressions import KeyType
from services.node.nft.messages import (
    GETCHAIN,
    GETGEN,
    GETRULE,
    GETSET,
    GETSETELEM,
    GETTABLE,
    Message,
    Target,
    comment,
)

__all__ = ["FAMILIES", "Nftables"]

_NETLINK_NETFILTER = 12
_NFTABLES = 10
_SUBSYSTEM = _NFTABLES << 8
_BATCH_BEGIN, _BATCH_END = 16, 17
_INET = 1
FAMILIES = {4: 2, 6: 10}
"""Numbers of the families `ip` and `ip6`, by IP version."""
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_BUFFER_BYTES = 64 << 20  # a limit, not an allocation: a whole table goes out in one datagram
_TABLE_NAME, _TABLE_USERDATA = 1, 6
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_POLICY = 1, 3, 5
_RULE_TABLE, _RULE_CHAIN, _RULE_HANDLE, _RULE_USERDATA, _GENERATION_ID = 1, 2, 3, 7, 1
_SET_TABLE, _SET_NAME, _SET_FLAGS, _SET_KEY_TYPE, _SET_KEY_LENGTH, _ANONYMOUS = 1, 2, 3, 4, 5, 1
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS = 1, 2, 3
_ELEMENT_KEY, _ELEMENT_DATA, _ELEMENT_USERDATA, _ELEMENT_EXPRESSION = 1, 2, 6, 7
_EXPRESSION_DATA, _COUNTER_BYTES, _COUNTER_PACKETS = 2, 1, 2
_DATA_VALUE, _DATA_VERDICT, _VERDICT_CHAIN = 1, 2, 2
_GENERIC = struct.Struct(">BBH")
_PLAIN = struct.Struct("HHHHHH")
"""Lengths and types of an element, of its key, and of the key's value, which are each other's first."""


class Nftables(Socket):
    """nf_tables of one network namespace; family inet, where no other is named."""

    def __init__(self, namespace: str | os.PathLike[str] | None = None) -> None:
        """Open it. Raises as Socket does."""
        super().__init__(_NETLINK_NETFILTER, namespace)
        try:
            for option in (_SO_SNDBUFFORCE, _SO_RCVBUFFORCE):
                self._socket.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
        except PermissionError:
            pass  # who may not do this may do nothing here: the first request says so better

    def commit(self, messages: Sequence[Message], family: int = _INET) -> None:
        """Do all or nothing; packets see the state before or the state after.

        Raises:
            KernelError: the first message the kernel refused, and why; nothing has happened.
            TimedOut: no answer; whether it happened is unknown.
        """
        if not messages:
            return
        with self._lock:
            begin = self._sequence + 1
            last = begin + len(messages)
            self._sequence = last + 1
            out = [_message(_BATCH_BEGIN, 0, begin, b"", _NFTABLES)]
            for number, message in enumerate(messages, begin + 1):
                # One acknowledgement is enough: refusals are always reported.
                flags = message.flags | (NLM_F_ACK if number == last else 0)
                out.append(_message(_SUBSYSTEM | message.kind, flags, number, message.body, family=family))
            out.append(_message(_BATCH_END, 0, last + 1, b"", _NFTABLES))
            try:
                self._socket.send(b"".join(out))
            except OSError as error:
                raise KernelError(error.errno or errno.EIO, f"send {len(messages)} messages to nf_tables") from error
            self._await(messages, begin, last)

    def _await(self, messages: Sequence[Message], begin: int, last: int) -> None:
        refusal: KernelError | None = None
        while True:
            # The kernel has put every answer into our queue before send() returned. After a refusal the last
            # message's acknowledgement, which else is the end, may be missing.
            replies = self._receive(f"commit {len(messages)} messages", wait=refusal is None)
            for reply in replies:
                if reply.kind != NLMSG_ERROR or not begin <= reply.sequence <= last:
                    continue
                number, words = describe_error(reply)
                if number and refusal is None:
                    index = reply.sequence - begin - 1
                    what = messages[index].what if index >= 0 else f"commit {len(messages)} messages"
                    refusal = KernelError(number, what, words, index)
                elif reply.sequence == last and refusal is None:
                    return
            if refusal is not None and not replies:
                raise refusal

    def table_comment(self, table: str) -> str | None:
        """The table's comment, empty if it has none; None if there is no such table. Raises KernelError."""
        for reply in self._dump(GETTABLE, b"", "list tables"):
            found = parse(reply.body[4:])
            if as_text(found[_TABLE_NAME]) == table:
                return comment(found[_TABLE_USERDATA]) if _TABLE_USERDATA in found else ""
        return None

    def chains(self, table: str) -> list[str]:
        """Names of the table's chains. Raises KernelError."""
        found = (parse(r.body[4:]) for r in self._dump(GETCHAIN, text(_CHAIN_TABLE, table), "list chains"))
        return [as_text(chain[_CHAIN_NAME]) for chain in found if as_text(chain[_CHAIN_TABLE]) == table]

    def rule_counts(self, table: str) -> Counter[str]:
        """Number of rules of each chain that has any. Raises KernelError."""
        found = (parse(r.body[4:]) for r in self._dump(GETRULE, text(_RULE_TABLE, table), "list rules"))
        return Counter(as_text(rule[_RULE_CHAIN]) for rule in found if as_text(rule[_RULE_TABLE]) == table)

    def generation(self) -> int:
        """Number of the ruleset's generation: every transaction of anybody begins a new one. Raises KernelError."""
        return int.from_bytes(self._ask(GETGEN, b"", "read the generation")[_GENERATION_ID], "big")

    def policy(self, family: int, table: str, chain: str) -> int | None:
        """What a chain does with packets that its rules leave undecided: expressions.ACCEPT or DROP.

        None if there is no such chain, or it is none that packets enter. Raises KernelError.
        """
        body = text(_CHAIN_TABLE, table) + text(_CHAIN_NAME, chain)
        try:
            found = self._ask(GETCHAIN, body, f"read chain {chain} of table {table}", family)
        except KernelError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return int.from_bytes(found[_CHAIN_POLICY], "big") if _CHAIN_POLICY in found else None

    def rules(self, family: int, table: str, chain: str) -> list[tuple[int, str]]:
        """Handle and comment of each rule of a chain, in order; none if there is no such chain. Raises KernelError."""
        body = text(_RULE_TABLE, table) + text(_RULE_CHAIN, chain)
        try:
            replies = self._dump(GETRULE, body, f"list rules of chain {chain} of table {table}", family)
        except KernelError as error:
            if error.errno == errno.ENOENT:
                return []
            raise
        listed = (parse(reply.body[4:]) for reply in replies)
        return [(int.from_bytes(rule[_RULE_HANDLE], "big"),
                 comment(rule[_RULE_USERDATA]) if _RULE_USERDATA in rule else "") for rule in listed
                if (as_text(rule[_RULE_TABLE]), as_text(rule[_RULE_CHAIN])) == (table, chain)]

    def _ask(self, kind: int, body: bytes, what: str, family: int = _INET) -> dict[int, memoryview]:
        """The attributes of the one message that answers."""
        with self._lock:
            self._sequence += 1
            self._socket.send(_message(_SUBSYSTEM | kind, 0, self._sequence, body, family=family))
            while True:
                for reply in self._receive(what):
                    if reply.sequence != self._sequence:
                        continue
                    if reply.kind == NLMSG_ERROR:
                        raise KernelError(describe_error(reply)[0], what)
                    return parse(reply.body[4:])

    def sets(self, table: str) -> dict[str, KeyType]:
        """Named sets and maps of the table, by name. Raises KernelError."""
        named: dict[str, KeyType] = {}
        for reply in self._dump(GETSET, text(_SET_TABLE, table), "list sets"):
            found = parse(reply.body[4:])
            number, length, flags = (int.from_bytes(found[kind], "big") if kind in found else 0
                                     for kind in (_SET_KEY_TYPE, _SET_KEY_LENGTH, _SET_FLAGS))
            if as_text(found[_SET_TABLE]) == table and not flags & _ANONYMOUS:
                named[as_text(found[_SET_NAME])] = KeyType(number, length, 0)
        return named

    def elements(self, table: str, name: str) -> dict[bytes, Target | None]:
        """Keys of a set, or of a map with where they lead. Raises KernelError: ENOENT if there is none."""
        keys: dict[bytes, Target | None] = {}
        request = text(_LIST_TABLE, table) + text(_LIST_SET, name)
        for reply in self._dump(GETSETELEM, request, f"list elements of {name}"):
            for kind, data in pairs(reply.body[4:]):
                if kind == _LIST_ELEMENTS:
                    keys.update(_listed(bytes(data)))
        return keys

    def tallies(self, table: str, name: str) -> dict[bytes, tuple[int, int]]:
        """Packets and bytes counted at each key of a set. Raises KernelError: ENOENT if there is none."""
        counted: dict[bytes, tuple[int, int]] = {}
        request = text(_LIST_TABLE, table) + text(_LIST_SET, name)
        for reply in self._dump(GETSETELEM, request, f"list elements of {name}"):
            for kind, data in pairs(reply.body[4:]):
                if kind == _LIST_ELEMENTS:
                    counted.update(_tally(parse(element)) for _, element in pairs(data))
        return counted

    def _dump(self, kind: int, body: bytes, what: str, family: int = _INET) -> list[Reply]:
        return self.dump(Request(_SUBSYSTEM | kind, 0, _GENERIC.pack(family, 0, 0) + body, what))


def _listed(data: bytes) -> Iterator[tuple[bytes, Target | None]]:
    """Keys in a list of elements, with where they lead.

    Most are keys and nothing else, which their lengths tell: those are read by their place, five times as fast.
    """
    at = 0
    while at + 12 <= len(data):
        length, _, inner, _, innermost, _ = _PLAIN.unpack_from(data, at)
        if length < 4:
            return
        if length == inner + 4 and inner == (innermost + 3 & ~3) + 4:
            yield data[at + 12:at + 8 + innermost], None
        else:
            yield _element(parse(memoryview(data)[at + 4:at + length]))
        at += length + 3 & ~3


def _element(found: dict[int, memoryview]) -> tuple[bytes, Target | None]:
    key = bytes(parse(found[_ELEMENT_KEY])[_DATA_VALUE])
    if _ELEMENT_DATA not in found:
        return key, None
    verdict = parse(parse(found[_ELEMENT_DATA])[_DATA_VERDICT])
    chain = as_text(verdict[_VERDICT_CHAIN]) if _VERDICT_CHAIN in verdict else ""
    return key, Target(chain, comment(found[_ELEMENT_USERDATA]) if _ELEMENT_USERDATA in found else "")


def _tally(found: dict[int, memoryview]) -> tuple[bytes, tuple[int, int]]:
    key = bytes(parse(found[_ELEMENT_KEY])[_DATA_VALUE])
    if _ELEMENT_EXPRESSION not in found:
        return key, (0, 0)
    counter = parse(parse(found[_ELEMENT_EXPRESSION])[_EXPRESSION_DATA])
    return key, (int.from_bytes(counter[_COUNTER_PACKETS], "big"), int.from_bytes(counter[_COUNTER_BYTES], "big"))


def _message(kind: int, flags: int, sequence: int, body: bytes, resource: int = 0, family: int = _INET) -> bytes:
    return (HEADER.pack(20 + len(body), kind, flags | NLM_F_REQUEST, sequence, 0)
            + _GENERIC.pack(family if kind >= _SUBSYSTEM else 0, 0, resource) + body + b"\0" * (-len(body) & 3))
