"""Packets that rules report to a group of nfnetlink_log (linux/netfilter/nfnetlink_log.h)."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from muslin import netns
from services.node.errors import KernelError
from services.node.netlink.attributes import as_text, attribute, be32, parse
from services.node.netlink.connection import (
    HEADER,
    NLM_F_ACK,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    Socket,
    describe_error,
    messages_in,
)

__all__ = ["Report", "Reports", "headers"]

_NETLINK_NETFILTER = 12
_ULOG = 4 << 8
_PACKET, _CONFIG = _ULOG, _ULOG | 1
_CFG_CMD, _CFG_MODE, _CFG_QTHRESH = 1, 2, 5
_BIND = 1
_COPY_PACKET = 2
_IFINDEX_IN, _IFINDEX_OUT, _PAYLOAD, _PREFIX = 4, 5, 9, 10
_GENERIC = struct.Struct(">BBH")
_SIOCGIFNAME = 0x8910
_PORTS = frozenset({6, 17, 33, 132, 136})


@dataclass(frozen=True, slots=True)
class Report:
    """A packet. The interfaces by which it came and goes are names; empty where there is none, or none any more."""

    prefix: str
    incoming: str
    outgoing: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Headers:
    """Of a packet: addresses packed, ports 0 where there are none; `port` is -1 then."""

    source: bytes
    destination: bytes
    protocol: int
    source_port: int
    port: int


class Reports(Socket):
    """Listens to one group in one network namespace, which nobody else can do meanwhile; closing it ends that."""

    def __init__(self, group: int, namespace: str | os.PathLike[str] | None = None) -> None:
        """Begin to listen.

        Raises:
            KernelError: somebody listens to the group already, or the kernel has no nfnetlink_log.
        """
        super().__init__(_NETLINK_NETFILTER, namespace)
        # Names of interfaces are those of the namespace that a socket is of.
        self._names = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) if namespace is None
                       else netns.open_socket(namespace, socket.AF_INET, socket.SOCK_DGRAM))
        try:
            # Each packet at once, not a hundred of them together.
            for number, body in enumerate((attribute(_CFG_CMD, bytes((_BIND,))),
                                           attribute(_CFG_MODE, struct.pack(">IBx", 0xFFFF, _COPY_PACKET)),
                                           be32(_CFG_QTHRESH, 1)), 1):
                self._configure(number, group, body)
        except BaseException:
            self.close()
            raise

    def _configure(self, sequence: int, group: int, body: bytes) -> None:
        body = _GENERIC.pack(0, 0, group) + body
        body += b"\0" * (-len(body) & 3)
        self._socket.send(HEADER.pack(16 + len(body), _CONFIG, NLM_F_REQUEST | NLM_F_ACK, sequence, 0) + body)
        while True:
            for reply in self._receive("listen to reported packets"):
                if reply.kind == NLMSG_ERROR and reply.sequence == sequence:
                    number, words = describe_error(reply)
                    if number:
                        raise KernelError(number, f"listen to packets reported to group {group}", words)
                    return

    def fileno(self) -> int:
        """For an event loop: readable when there is a report."""
        return self._socket.fileno()

    def pending(self) -> Iterator[Report]:
        """The next reports, without waiting. Where the kernel had more than it could keep, those are lost."""
        try:
            datagram = self._socket.recv(1 << 17, socket.MSG_DONTWAIT)
        except OSError:  # nothing there; or ENOBUFS: reports were lost, and the next read goes on behind them
            return
        for message in messages_in(datagram):
            if message.kind != _PACKET:
                continue
            found = parse(message.body[4:])
            if _PAYLOAD in found and _PREFIX in found:
                yield Report(as_text(found[_PREFIX]), self._name(found.get(_IFINDEX_IN)),
                             self._name(found.get(_IFINDEX_OUT)), bytes(found[_PAYLOAD]))

    def _name(self, index: memoryview | None) -> str:
        if index is None:
            return ""
        request = struct.pack("16si20x", b"", int.from_bytes(index, "big"))
        try:
            answer = fcntl.ioctl(self._names.fileno(), _SIOCGIFNAME, request)
        except OSError:
            return ""
        return answer[:16].partition(b"\0")[0].decode(errors="replace")

    def close(self) -> None:
        """Stop listening."""
        super().close()
        self._names.close()


def headers(payload: bytes) -> Headers | None:
    """Addresses and ports of a packet that begins with its IP header; None if it is cut before they end.

    IPv6 extension headers are not looked behind: the protocol is then theirs.
    """
    version = payload[0] >> 4 if payload else 0
    if version == 4 and len(payload) >= 20:
        source, destination, protocol = payload[12:16], payload[16:20], payload[9]
        rest = payload[(payload[0] & 15) * 4:]
    elif version == 6 and len(payload) >= 40:
        source, destination, protocol, rest = payload[8:24], payload[24:40], payload[6], payload[40:]
    else:
        return None
    if protocol not in _PORTS or len(rest) < 4:
        return Headers(source, destination, protocol, 0, -1)
    return Headers(source, destination, protocol, *struct.unpack_from(">HH", rest))
