"""A netlink socket: requests go out in one datagram, every answer is awaited and checked."""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from muslin import netns
from muslin.errors import TimedOut
from services.node.errors import KernelError
from services.node.netlink.attributes import as_text, parse

__all__ = ["Connection", "Reply", "Request", "Socket", "describe_error", "messages_in"]

NLM_F_REQUEST, NLM_F_ACK, NLM_F_ECHO = 0x001, 0x004, 0x008
NLM_F_DUMP_INTR, NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x010, 0x100, 0x200
NLM_F_DUMP = 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800
NLMSG_ERROR, NLMSG_DONE, NLMSG_OVERRUN = 2, 3, 4

SOL_NETLINK = 270
NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 10, 11, 12
_NLMSGERR_ATTR_MSG, _NLMSGERR_ATTR_OFFS = 1, 2

HEADER = struct.Struct("IHHII")
_ERROR = struct.Struct("i")

TIMEOUT_SECONDS = 30
"""How long the kernel may take for one answer. Link deletions queue on one lock and take 20 ms each."""

_DUMP_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Request:
    """One message: its type, flags beyond REQUEST and ACK, body, and what it does, for errors."""

    kind: int
    flags: int
    body: bytes
    what: str


@dataclass(frozen=True, slots=True)
class Reply:
    """One message of an answer, without its netlink header."""

    kind: int
    flags: int
    sequence: int
    body: memoryview


def messages_in(datagram: bytes) -> Iterator[Reply]:
    """The messages of one datagram from the kernel."""
    view = memoryview(datagram)
    offset = 0
    while offset + 16 <= len(view):
        length, kind, flags, sequence, _ = HEADER.unpack_from(view, offset)
        if length < 16:
            return
        yield Reply(kind, flags, sequence, view[offset + 16:offset + length])
        offset += length + 3 & ~3


def describe_error(reply: Reply) -> tuple[int, str]:
    """Error number (0 for an acknowledgement) and the kernel's own words, if it said any, of an NLMSG_ERROR.

    The words are extended acknowledgements: attributes behind the request's header, or behind the whole request
    where the kernel did not cap it (linux/netlink.h, enum nlmsgerr_attrs).
    """
    number = -_ERROR.unpack_from(reply.body)[0]
    if not reply.flags & NLM_F_ACK_TLVS:
        return number, ""
    quoted = HEADER.unpack_from(reply.body, 4)[0]
    start = 20 if reply.flags & NLM_F_CAPPED else 4 + (quoted + 3 & ~3)
    attributes = parse(reply.body[start:])
    words = as_text(attributes[_NLMSGERR_ATTR_MSG]) if _NLMSGERR_ATTR_MSG in attributes else ""
    if not words and _NLMSGERR_ATTR_OFFS in attributes:
        words = f"at byte {_ERROR.unpack(attributes[_NLMSGERR_ATTR_OFFS])[0]} of the message"
    return number, words


class Socket:
    """A netlink socket in one network namespace: this process' own, or another one's for ever.

    Safe for several threads: one exchange at a time.

    Attributes:
        namespace: path of the namespace; None for this process' own.
    """

    def __init__(self, protocol: int, namespace: str | os.PathLike[str] | None = None) -> None:
        """Open it.

        Raises:
            NotFound: the namespace does not exist.
            InvalidArgument: it is not a network namespace.
            KernelError: the kernel does not have that protocol.
        """
        self.namespace = namespace
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        try:
            self._socket = (socket.socket(socket.AF_NETLINK, kind, protocol) if namespace is None
                            else netns.open_socket(namespace, socket.AF_NETLINK, kind, protocol))
        except OSError as error:
            raise KernelError(error.errno or errno.EIO, f"open a netlink socket of protocol {protocol}") from error
        self._socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        # A receive timeout, not settimeout: that would poll before every read.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", TIMEOUT_SECONDS, 0))
        self._lock = threading.Lock()
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def dump(self, request: Request) -> list[Reply]:
        """All replies to a dump, consistent: one that was interrupted by a change is made again.

        Raises:
            KernelError: it was refused, or interrupted every time.
            TimedOut: no answer.
        """
        with self._lock:
            for _ in range(_DUMP_ATTEMPTS):
                replies = self._dump_once(request)
                if replies is not None:
                    return replies
        raise KernelError(errno.EINTR, request.what, "changed during every attempt to read it")

    def _dump_once(self, request: Request) -> list[Reply] | None:
        self._sequence += 1
        self._socket.send(HEADER.pack(16 + len(request.body), request.kind,
                                      request.flags | NLM_F_REQUEST | NLM_F_DUMP, self._sequence, 0) + request.body)
        replies: list[Reply] = []
        interrupted = False
        while True:
            for reply in self._receive(request.what):
                if reply.sequence != self._sequence:
                    continue
                interrupted = interrupted or bool(reply.flags & NLM_F_DUMP_INTR)
                if reply.kind == NLMSG_DONE:
                    return None if interrupted else replies
                if reply.kind == NLMSG_ERROR:
                    number, words = describe_error(reply)
                    raise KernelError(number, request.what, words)
                replies.append(reply)

    def _receive(self, what: str, *, wait: bool = True) -> list[Reply]:
        """The next datagram's messages; none if nothing is there and it is not to be waited for."""
        try:
            return list(messages_in(self._socket.recv(1 << 17, 0 if wait else socket.MSG_DONTWAIT)))
        except BlockingIOError as error:
            if not wait:
                return []
            raise TimedOut(f"{what}: no answer from the kernel within {TIMEOUT_SECONDS} s") from error
        except OSError as error:
            raise KernelError(error.errno or errno.EIO, what) from error


class Connection(Socket):
    """Route netlink: links, addresses, routes, neighbours."""

    def __init__(self, namespace: str | os.PathLike[str] | None = None) -> None:
        """Open it. Raises as Socket does."""
        super().__init__(socket.NETLINK_ROUTE, namespace)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)

    def request(self, requests: Sequence[Request]) -> list[list[Reply]]:
        """Send all in one datagram and return the replies to each.

        The kernel works through them in order and goes on past a refused one: send together only what may all
        happen alone.

        Raises:
            KernelError: the first refusal, once the last is answered.
            TimedOut: no answer.
        """
        if not requests:
            return []
        with self._lock:
            first = self._sequence + 1
            last = self._sequence = self._sequence + len(requests)
            # One acknowledgement, of the last, is enough: refusals are always reported, and in order.
            self._socket.send(b"".join(
                HEADER.pack(16 + len(r.body), r.kind,
                            r.flags | NLM_F_REQUEST | (NLM_F_ACK if sequence == last else 0), sequence, 0)
                + r.body + b"\0" * (-len(r.body) & 3) for sequence, r in enumerate(requests, first)))
            replies: list[list[Reply]] = [[] for _ in requests]
            refusal: KernelError | None = None
            answered = False
            while not answered:
                for reply in self._receive(requests[0].what):
                    index = reply.sequence - first
                    if not 0 <= index < len(requests):
                        continue  # a late answer to an exchange that was given up
                    if reply.kind != NLMSG_ERROR:
                        replies[index].append(reply)
                        continue
                    answered = answered or reply.sequence == last
                    number, words = describe_error(reply)
                    if number and refusal is None:
                        refusal = KernelError(number, requests[index].what, words, index)
            if refusal is not None:
                raise refusal
            return replies
