"""The kernel's side, as far as these tests need it: a table that takes messages and judges packets.

Written from linux/netfilter/nf_tables.h, not from the code under test: it decodes the bytes. It refuses what the
kernel refuses: a reference to nothing, deleting what is referred to, an element that is not there.
"""

from __future__ import annotations

import ipaddress
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from services.node.actual import UNREAD
from services.node.enforce.drops import LOOSE_SETS
from services.node.enforce.parts import Chain as ReadChain
from services.node.enforce.parts import Element, Part
from services.node.enforce.parts import Set as ReadSet
from services.node.enforce.table import FRAME_CHAINS, FRAME_SETS
from services.node.nft.expressions import KeyType
from services.node.nft.messages import Message, Target

INPUT, FORWARD = 1, 2


class Refused(Exception):
    """What the kernel would say no to."""


@dataclass(frozen=True)
class Packet:
    """The first packet of a connection."""

    source: str
    destination: str
    protocol: int = 6
    port: int = 80
    incoming: str = "eth0"
    outgoing: str = "eth0"
    hook: int = FORWARD
    flags: int = 2
    """Of TCP: SYN, as the first has it."""

    @property
    def version(self) -> int:
        return ipaddress.ip_address(self.source).version

    def header(self, base: int, offset: int, length: int) -> bytes | None:
        source, destination = (ipaddress.ip_address(a).packed for a in (self.source, self.destination))
        if base == 1:
            network = bytes(12) + source + destination if self.version == 4 else bytes(8) + source + destination
            return network[offset:offset + length]
        if base == 2 and self.protocol in (6, 17, 132):
            return (bytes(2) + struct.pack(">H9xB6x", self.port, self.flags))[offset:offset + length]
        if base == 2:
            return bytes(length)
        return None


@dataclass
class Set:
    flags: int
    keys: dict[bytes, tuple[int, str] | None] = field(default_factory=dict)
    steps: list[tuple[bytes, bool]] = field(default_factory=list)

    def holds(self, key: bytes) -> bool:
        if not self.flags & 4:
            return key in self.keys
        inside = False
        for start, end in sorted(self.steps):
            if start > key:
                break
            inside = not end
        return inside


@dataclass
class Chain:
    hook: int = 0
    priority: int = 0
    rules: list[list[tuple[str, dict[int, bytes]]]] = field(default_factory=list)
    bound: list[dict[int, Set]] = field(default_factory=list)


def pairs(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset < len(data):
        length, kind = struct.unpack_from("HH", data, offset)
        yield kind & 0x3FFF, data[offset + 4:offset + length]
        offset += length + 3 & ~3


def attributes(data: bytes) -> dict[int, bytes]:
    return dict(pairs(data))


def text(data: bytes) -> str:
    return data.rstrip(b"\0").decode()


def number(data: bytes) -> int:
    return int(struct.unpack(">I", data)[0])


def verdict_of(data: bytes) -> tuple[int, str]:
    inner = attributes(attributes(data)[2])
    code = struct.unpack(">i", inner[1])[0]
    return code, text(inner[2]) if 2 in inner else ""


class Table:
    """Tables of family inet by name; only one is used."""

    def __init__(self) -> None:
        self.there = False
        self.sets: dict[str, Set] = {}
        self.chains: dict[str, Chain] = {}
        self.drops: Counter[bytes] = Counter()

    def commit(self, messages: Iterable[Message]) -> None:
        """Take them all. After Refused the table is not to be used any more."""
        anonymous: dict[int, Set] = {}
        for message in messages:
            self._take(message, anonymous)

    def _take(self, message: Message, anonymous: dict[int, Set]) -> None:
        a = attributes(message.body)
        assert text(a[1]) == "muslin"
        handler: Any = {0: self._new_table, 2: self._del_table, 3: self._new_chain, 5: self._del_chain,
                        6: self._new_rule, 8: self._flush, 9: self._new_set, 11: self._del_set, 12: self._new_elements,
                        14: self._del_elements}[message.kind]
        if message.kind != 0 and not self.there:
            raise Refused(message.what)
        handler(a, message, anonymous)

    def _new_table(self, a: dict[int, bytes], message: Message, anonymous: dict[int, Set]) -> None:
        self.there = True

    def _del_table(self, a: dict[int, bytes], message: Message, anonymous: dict[int, Set]) -> None:
        self.there, self.sets, self.chains = False, {}, {}

    def _new_chain(self, a: dict[int, bytes], message: Message, anonymous: dict[int, Set]) -> None:
        hook = attributes(a[4]) if 4 in a else {}
        priority = struct.unpack(">i", hook[2])[0] if hook else 0
        self.chains.setdefault(text(a[3]), Chain(number(hook[1]) if hook else 0, priority))

    def _referred(self) -> Iterator[tuple[str, str]]:
        for chain in self.chains.values():
            for rule in chain.rules:
                for name, fields in rule:
                    if name == "lookup" and 4 not in fields:
                        yield "set", text(fields[1])
                    if name == "immediate" and 2 in attributes(fields[2]):
                        yield "chain", verdict_of(fields[2])[1]
        for each in self.sets.values():
            yield from (("chain", target[1]) for target in each.keys.values() if target)

    def _del_chain(self, a: dict[int, bytes], message: Message, anonymous: dict[int, Set]) -> None:
        name = text(a[3])
        if name not in self.chains or ("chain", name) in self._referred():
            raise Refused(message.what)
        del self.chains[name]

    def _flush(self, a: dict[int, bytes], message: Message, anonymous: dict[int, Set]) -> None:
        if text(a[2]) not in self.chains:
            raise Refused(message.what)
        chain = self.chains[text(a[2])]
        chain.rules, chain.bound = [], []

    def _new_rule(self, a: dict[int, bytes], message: Message, anonymous: dict[int, Set]) -> None:
        rule = [(text(e[1]), attributes(e[2])) for _, raw in pairs(a[4]) for e in [attributes(raw)]]
        bound: dict[int, Set] = {}
        for name, fields in rule:
            if name == "lookup":
                if 4 in fields:
                    bound[number(fields[4])] = anonymous.pop(number(fields[4]))
                elif text(fields[1]) not in self.sets:
                    raise Refused(message.what)
            if name == "payload" and not number(fields[4]):
                raise Refused(message.what)
            if name == "dynset" and text(fields[1]) not in self.sets:
                raise Refused(message.what)
            target = verdict_of(fields[2])[1] if name == "immediate" and 2 in attributes(fields[2]) else ""
            if target and target not in self.chains:
                raise Refused(message.what)
        if text(a[2]) not in self.chains:
            raise Refused(message.what)
        self.chains[text(a[2])].rules.append(rule)
        self.chains[text(a[2])].bound.append(bound)

    def _new_set(self, a: dict[int, bytes], message: Message, anonymous: dict[int, Set]) -> None:
        made = Set(number(a[3]))
        if made.flags & 1:
            assert number(a[10]) not in anonymous, "set ids are unique within a transaction"
            anonymous[number(a[10])] = made
        else:
            self.sets.setdefault(text(a[2]), made)

    def _del_set(self, a: dict[int, bytes], message: Message, anonymous: dict[int, Set]) -> None:
        if text(a[2]) not in self.sets or ("set", text(a[2])) in self._referred():
            raise Refused(message.what)
        del self.sets[text(a[2])]

    def _new_elements(self, a: dict[int, bytes], message: Message, anonymous: dict[int, Set]) -> None:
        target = anonymous[number(a[4])] if 4 in a else self.sets.get(text(a[2]))
        if target is None:
            raise Refused(message.what)
        for _, raw in pairs(a[3]):
            element = attributes(raw)
            key = attributes(element[1])[1]
            verdict = verdict_of(element[2]) if 2 in element else None
            if target.keys.get(key, verdict) != verdict or (verdict and verdict[1] not in self.chains):
                raise Refused(message.what)
            target.keys[key] = verdict
            target.steps.append((key, bool(3 in element and number(element[3]) & 1)))

    def _del_elements(self, a: dict[int, bytes], message: Message, anonymous: dict[int, Set]) -> None:
        target = self.sets.get(text(a[2]))
        for _, raw in pairs(a[3]):
            key = attributes(attributes(raw)[1])[1]
            if target is None or key not in target.keys:
                raise Refused(message.what)
            del target.keys[key]

    def content(self) -> Any:
        """Everything that counts, comparable: sets without a name by what they hold."""
        chains = {name: [[(n, tuple(sorted(f.items())) if n != "lookup" or 4 not in f
                           else (f.get(5), sorted(bound[number(f[4])].steps))) for n, f in rule]
                         for rule, bound in zip(chain.rules, chain.bound, strict=True)]
                  for name, chain in self.chains.items()}
        return {name: each.keys for name, each in self.sets.items()}, chains

    def verdicts(self) -> list[bool]:
        """What happens to a few packets."""
        return [self.allows(Packet("10.0.0.1", "10.0.1.1", protocol, 80, incoming, outgoing))
                for protocol in (6, 17) for incoming in ("mus1", "eth0") for outgoing in ("cali3", "eth0")]

    def led_to(self) -> set[str]:
        """Chains that elements of maps lead to."""
        return {target[1] for each in self.sets.values() for target in each.keys.values() if target}

    def read(self) -> Part:
        """As the daemon reads a table: rules unread."""
        elements = {Element(name, key): Target(target[1]) if target else None for name in FRAME_SETS
                    for key, target in self.sets[name].keys.items()}
        return Part({name: ReadSet(KeyType(0, 0, 0), frozenset(each.keys)) for name, each in self.sets.items()
                     if name not in FRAME_SETS and name not in LOOSE_SETS},
                    {name: ReadChain(UNREAD) for name in self.chains.keys() - FRAME_CHAINS}, elements)

    def allows(self, packet: Packet) -> bool:
        """Whether the packet passes all chains of its hook, in order of priority."""
        entered = sorted((chain.priority, name) for name, chain in self.chains.items() if chain.hook == packet.hook)
        return all(self._walk(name, packet) != 0 for _, name in entered)

    def _walk(self, name: str, packet: Packet) -> int | None:
        chain = self.chains[name]
        for rule, bound in zip(chain.rules, chain.bound, strict=True):
            verdict = self._rule(rule, bound, packet)
            if verdict is None:
                continue
            code, target = verdict
            if code in (0, 1):
                return code
            result = self._walk(target, packet)
            if result is not None or code == -4:
                return result
        return None

    def _rule(self, rule: list[tuple[str, dict[int, bytes]]], bound: dict[int, Set], packet: Packet,
              ) -> tuple[int, str] | None:
        registers = bytearray(64)

        def at(register: int) -> int:
            return (register - 8) * 4 if register >= 8 else (register - 1) * 16

        def load(register: bytes, value: bytes) -> None:
            start = at(number(register))
            registers[start:start + len(value) + (-len(value) & 3)] = value + bytes(-len(value) & 3)

        for name, f in rule:
            if name == "meta":
                value = {15: b"\x02" if packet.version == 4 else b"\x0a", 16: bytes([packet.protocol]),
                         6: packet.incoming.encode().ljust(16, b"\0"),
                         7: (packet.outgoing if packet.hook == FORWARD else "").encode().ljust(16, b"\0")}
                load(f[1], value[number(f[2])])
            elif name == "ct":  # the first packet of a connection: state new, status none
                load(f[1], struct.pack("=I", 8 if number(f[2]) == 0 else 0))
            elif name == "payload":
                header = packet.header(number(f[2]), number(f[3]), number(f[4]))
                if header is None:
                    return None
                load(f[1], header)
            elif name == "bitwise":
                mask = attributes(f[4])[1]
                start = at(number(f[1]))
                load(f[2], bytes(x & y for x, y in zip(registers[start:], mask, strict=False)))
            elif name in ("cmp", "range"):
                low = attributes(f[3])[1]
                start = at(number(f[1]))
                value_ = bytes(registers[start:start + len(low)])
                matched = value_ == low if name == "cmp" else low <= value_ <= attributes(f[4])[1]
                if matched == bool(number(f[2])):
                    return None
            elif name == "lookup":
                each = bound[number(f[4])] if 4 in f else self.sets[text(f[1])]
                length = len(next(iter(each.keys), b""))
                start = at(number(f[2]))
                key = bytes(registers[start:start + length])
                if each.holds(key) == (5 in f):
                    return None
                if 3 in f:
                    return each.keys[key]
            elif name == "immediate" and 2 in attributes(f[2]):
                return verdict_of(f[2])
            elif name == "immediate":
                load(f[1], attributes(f[2])[1])
            elif name == "dynset":
                start = at(number(f[4]))
                self.drops[bytes(registers[start:start + 24])] += 1
            else:
                assert name in ("counter", "log", "limit")
        return None
