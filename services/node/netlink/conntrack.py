"""The kernel's connections, listed and deleted (linux/netfilter/nfnetlink_conntrack.h)."""

from __future__ import annotations

import errno
import os
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.node.errors import KernelError
from services.node.netlink.attributes import attribute, parse
from services.node.netlink.connection import (
    HEADER,
    NLM_F_ACK,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    Request,
    Socket,
    describe_error,
)

__all__ = ["Conntrack", "Entry"]

_NETLINK_NETFILTER = 12
_CTNETLINK = 1 << 8
_GET, _DELETE = 1, 2
_TUPLE_ORIG, _TUPLE_REPLY, _STATUS, _COUNTERS_ORIG, _COUNTERS_REPLY, _ID, _ZONE = 1, 2, 3, 9, 10, 12, 18
_PACKETS, _BYTES = 1, 2
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_PROTO_NUM, _PROTO_SOURCE_PORT = 1, 2
_EXPECTED = 1
"""Bit of the status: a connection that another one, such as FTP's, has announced."""
_NFGENMSG = struct.Struct(">BBH")
_NESTED = 0x8000
_WIDTH = {2: 4, 10: 16}
"""Bytes of an address, by family."""
_AT_ONCE = 200
"""Deletions in one datagram; their answers must fit into the socket's buffer."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A connection as policy saw its first packet: after the destination was translated, before the source was.

    Attributes:
        source: who began it, as packed bytes.
        destination: whom it has reached.
        target: whom it was sent to; another than the destination where that was translated.
        protocol: number of the transport protocol.
        port: destination port; -1 where the protocol has none.
        related: another connection has announced it.
        reference: what names it to the kernel.
        counts: packets and bytes of who began it, and of the other side; None unless the kernel counts them.
    """

    source: bytes
    destination: bytes
    target: bytes
    protocol: int
    port: int
    related: bool
    reference: bytes
    counts: tuple[tuple[int, int], tuple[int, int]] | None = field(default=None, compare=False)


class Conntrack(Socket):
    """The connections of one network namespace."""

    def __init__(self, namespace: str | os.PathLike[str] | None = None) -> None:
        """Open it. Raises as Socket does."""
        super().__init__(_NETLINK_NETFILTER, namespace)

    def entries(self, addresses: frozenset[bytes] | None = None) -> list[Entry]:
        """All connections, or those that one of the addresses takes part in.

        Raises:
            KernelError: the kernel has no ctnetlink.
            TimedOut: no answer.
        """
        found: list[Entry] = []
        # Both families at once: the kernel walks its whole table, for one as for two.
        for reply in self.dump(Request(_CTNETLINK | _GET, 0, _NFGENMSG.pack(0, 0, 0), "list connections")):
            width = _WIDTH.get(reply.body[0])
            if width is None or (addresses is not None and addresses.isdisjoint(_four(reply.body, width))):
                continue
            entry = _entry(reply.body)
            if entry is not None:
                found.append(entry)
        return found

    def delete(self, entries: Sequence[Entry]) -> int:
        """Delete them; those that have gone are passed over. Gives how many there were.

        Raises:
            KernelError: the kernel refused.
            TimedOut: no answer.
        """
        return sum(self._delete(entries[at:at + _AT_ONCE]) for at in range(0, len(entries), _AT_ONCE))

    def _delete(self, entries: Sequence[Entry]) -> int:
        with self._lock:
            first = self._sequence + 1
            self._sequence += len(entries)
            out = []
            for sequence, entry in enumerate(entries, first):
                body = _NFGENMSG.pack(2 if len(entry.source) == 4 else 10, 0, 0) + entry.reference
                out.append(HEADER.pack(16 + len(body), _CTNETLINK | _DELETE, NLM_F_REQUEST | NLM_F_ACK, sequence, 0)
                           + body)
            try:
                self._socket.send(b"".join(out))
            except OSError as error:
                raise KernelError(error.errno or errno.EIO, f"delete {len(entries)} connections") from error
            waiting = set(range(first, first + len(entries)))
            refusal: KernelError | None = None
            gone = 0
            while waiting:
                for reply in self._receive("delete connections"):
                    if reply.kind != NLMSG_ERROR or reply.sequence not in waiting:
                        continue
                    waiting.remove(reply.sequence)
                    number, words = describe_error(reply)
                    if number == errno.ENOENT:
                        gone += 1
                    elif number:
                        refusal = refusal or KernelError(number, "delete a connection", words)
        if refusal is not None:
            raise refusal
        return len(entries) - gone


def _four(body: memoryview, width: int) -> tuple[bytes, ...]:
    """Source and destination of both tuples of a message, by their place: most entries are none of our business.

    A tuple's addresses come first in it, the tuples first in the message, as they have since there is ctnetlink.
    """
    back = 4 + (int.from_bytes(body[4:6], sys.byteorder) + 3 & ~3)
    return (bytes(body[16:16 + width]), bytes(body[20 + width:20 + 2 * width]),
            bytes(body[back + 12:back + 12 + width]), bytes(body[back + 16 + width:back + 16 + 2 * width]))


def _entry(body: memoryview) -> Entry | None:
    """The entry of a message; None if it lacks a direction."""
    found = parse(body[4:])
    if _TUPLE_ORIG not in found or _TUPLE_REPLY not in found:
        return None
    source, target = _ends(found[_TUPLE_ORIG])
    destination, _ = _ends(found[_TUPLE_REPLY])
    protocol = parse(parse(found[_TUPLE_REPLY])[_TUPLE_PROTO])
    port = int.from_bytes(protocol[_PROTO_SOURCE_PORT], "big") if _PROTO_SOURCE_PORT in protocol else -1
    status = int.from_bytes(found[_STATUS], "big") if _STATUS in found else 0
    reference = b"".join(attribute(kind | (_NESTED if kind == _TUPLE_ORIG else 0), bytes(found[kind]))
                         for kind in (_TUPLE_ORIG, _ZONE, _ID) if kind in found)
    counts = None
    if _COUNTERS_ORIG in found and _COUNTERS_REPLY in found:
        counts = _counts(found[_COUNTERS_ORIG]), _counts(found[_COUNTERS_REPLY])
    return Entry(source, destination, target, protocol[_PROTO_NUM][0], port, bool(status & _EXPECTED), reference,
                 counts)


def _counts(counters: memoryview) -> tuple[int, int]:
    """Packets and bytes."""
    inner = parse(counters)
    return int.from_bytes(inner[_PACKETS], "big"), int.from_bytes(inner[_BYTES], "big")


def _ends(addresses: memoryview) -> tuple[bytes, bytes]:
    """Source and destination of a tuple: the attributes of either family lie in the order of their numbers."""
    inner = parse(parse(addresses)[_TUPLE_IP])
    low, high = sorted(inner)[:2]
    return bytes(inner[low]), bytes(inner[high])
