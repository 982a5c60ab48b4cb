"""What the kernel tells of itself: links, routes and neighbours that were deleted, by whomever.

Only deletions are listened to: every ADD makes a dozen messages of what is new, and none of them says that something
of ours is amiss. What changes without being deleted, the reconciler's look at everything finds.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import logging
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from services.node.errors import KernelError
from services.node.netlink.attributes import as_u32, parse
from services.node.netlink.connection import SOL_NETLINK, Reply, messages_in

__all__ = ["Gone", "Kind", "Monitor", "deletions"]

log = logging.getLogger(__name__)

RTM_DELLINK, RTM_DELROUTE, RTM_DELNEIGH = 17, 25, 29

_GROUPS = (1, 3, 7, 11)  # RTNLGRP_LINK, RTNLGRP_NEIGH, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE
_NETLINK_ADD_MEMBERSHIP = 1
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33
_BUFFER_BYTES = 4 << 20
_AF_UNSPEC, _RTA_OIF = 0, 4
_LINK, _NEIGHBOUR = struct.Struct("BxHi"), struct.Struct("Bxxxi")  # the family and the index of the device
_ROUTE_BYTES = 12
_DATAGRAMS = 256
"""How many messages are read before other work of the event loop gets its turn."""


class Kind(Enum):
    """What was deleted."""

    LINK = "link"
    ROUTE = "route"
    NEIGHBOUR = "neighbour"


@dataclass(frozen=True, slots=True)
class Gone:
    """Something that was deleted, and the index of the link that it was, or belonged to."""

    kind: Kind
    index: int


Listener = Callable[[list[Gone] | None], None]
"""Is given what was deleted, in order; None if messages were lost, so that anything may have been."""


def deletions(replies: list[Reply]) -> list[Gone]:
    """What messages of the kernel say was deleted; others mean nothing."""
    found: list[Gone] = []
    for reply in replies:
        if reply.kind == RTM_DELLINK:
            family, _, index = _LINK.unpack_from(reply.body)
            if family == _AF_UNSPEC:  # others tell of what a link was part of, such as a bridge
                found.append(Gone(Kind.LINK, index))
        elif reply.kind == RTM_DELNEIGH:
            found.append(Gone(Kind.NEIGHBOUR, _NEIGHBOUR.unpack_from(reply.body)[1]))
        elif reply.kind == RTM_DELROUTE:
            attributes = parse(reply.body[_ROUTE_BYTES:])
            if _RTA_OIF in attributes:
                found.append(Gone(Kind.ROUTE, as_u32(attributes[_RTA_OIF])))
    return found


def _only(*kinds: int) -> bytes:
    """A classic BPF program that passes messages of these types (bpf(4); the type is at byte 4 of the header)."""
    def instruction(code: int, true: int, false: int, value: int) -> bytes:
        return struct.pack("HBBI", code, true, false, value)

    compared = [instruction(0x15, len(kinds) - number, 0, socket.htons(kind)) for number, kind in enumerate(kinds)]
    return b"".join((instruction(0x28, 0, 0, 4), *compared,
                     instruction(0x06, 0, 0, 0), instruction(0x06, 0, 0, 0xFFFFFFFF)))


class Monitor:
    """Listens on the event loop. One listener; and futures that wait for single links to be gone."""

    def __init__(self) -> None:
        """Open it.

        Raises:
            KernelError: the kernel lets nobody listen.
        """
        self.listener: Listener = lambda _: None
        self._departures: dict[int, asyncio.Future[None]] = {}
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC
                                         | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
            program = _only(RTM_DELLINK, RTM_DELROUTE, RTM_DELNEIGH)
            buffer = ctypes.create_string_buffer(program)
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER,
                                    struct.pack("HL", len(program) // 8, ctypes.addressof(buffer)))
            self._socket.bind((0, 0))  # without an address of its own it would be told nothing
            for group in _GROUPS:
                self._socket.setsockopt(SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
        except OSError as error:
            raise KernelError(error.errno or errno.EIO, "listen to what happens to links") from error
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        except PermissionError:
            pass  # who may not do this may do nothing here: the first request says so better

    def start(self) -> None:
        """Begin to listen, on the running event loop."""
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._readable)

    def departure(self, index: int) -> asyncio.Future[None]:
        """Done once a link is gone from the view of all: while its deletion may still wait for its last users.

        Ask before the link is deleted. May never be done, if messages are lost.
        """
        return self._departures.setdefault(index, asyncio.get_running_loop().create_future())

    def forget(self, index: int) -> None:
        """Nobody waits for the link any more."""
        self._departures.pop(index, None)

    def _readable(self) -> None:
        gone: list[Gone] = []
        lost = False
        for _ in range(_DATAGRAMS):
            try:
                gone += deletions(list(messages_in(self._socket.recv(1 << 16))))
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    log.warning("listening to the kernel: %s", os.strerror(error.errno or errno.EIO))
                lost = True
        for each in gone:
            if each.kind is Kind.LINK and (waiting := self._departures.pop(each.index, None)) and not waiting.done():
                waiting.set_result(None)
        if lost:
            self.listener(None)
        elif gone:
            self.listener(gone)

    def close(self) -> None:
        """Stop listening."""
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
