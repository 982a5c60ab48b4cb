"""One connection to a unix socket: pushes bytes between the socket and the HTTP/2 state machine, by a deadline."""

from __future__ import annotations

from _socket import AF_UNIX, MSG_NOSIGNAL, SOCK_CLOEXEC, SOCK_STREAM, socket
from time import sleep

from shim.frames import REFUSED_STREAM, ConnectionFault
from shim.http2 import Http2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from shim.deadline import Deadline
    from shim.http2 import Response

_CHUNK = 1 << 16
_PAUSE = 0.005  # seconds before the next try when the listener's queue is full; the kernel offers no event for it


class Unreachable(Exception):
    """There is no connection to be had; the message says why."""


class Refused(Exception):
    """The peer said that it will not carry the request out; on a new connection it may."""


class Broken(Exception):
    """The connection was lost; whether the request was carried out is unknown."""


class Transport:
    """A connection, for one request at a time."""

    def __init__(self, path: str, body_limit: int, deadline: Deadline) -> None:
        """Connect.

        Raises:
            Unreachable: nobody listens there, or it may not be used.
            TimeoutError: the deadline passed.
        """
        self._http2 = Http2(body_limit)
        self._socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
        try:
            self._connect(path.encode(), deadline)
        except (OSError, Unreachable):  # TimeoutError is an OSError too
            self.close()
            raise

    def _connect(self, address: bytes, deadline: Deadline) -> None:
        while True:
            self._socket.settimeout(deadline.remaining())
            try:
                return self._socket.connect(address)
            except TimeoutError:
                raise
            except BlockingIOError:  # EAGAIN: the queue of the listener is full (unix(7)); it is alive, and busy
                sleep(min(_PAUSE, deadline.remaining()))
            except OSError as problem:
                raise Unreachable(problem.strerror or str(problem)) from None

    def exchange(self, headers: Iterable[tuple[bytes, bytes]], body: bytes, deadline: Deadline) -> Response:
        """Make a request and wait for all of its response.

        Raises:
            Refused: the peer will not carry it out; on a new connection it may.
            Broken: the connection is lost.
            TimeoutError: the deadline passed; the request is cancelled, and the connection can be used on.
        """
        http2 = self._http2
        if http2.refused_above is not None:
            raise Refused(f"the service is going away: {http2.farewell}")
        response = http2.open(headers, body)
        try:
            while not response.done:  # what we still owe the peer then goes out with the next request
                self._flush(deadline)
                self._receive(deadline)
                self._refused()
        except TimeoutError:
            http2.cancel()
            self._farewell()
            raise
        except ConnectionFault as fault:
            self._farewell()
            raise Broken(f"the peer broke the HTTP/2 protocol: {fault}") from None
        except OSError as problem:
            self._last_words()
            if not response.done:
                raise Broken(f"connection lost: {problem.strerror or problem}") from None
        if response.reset == REFUSED_STREAM:
            raise Refused("the service refused the stream")
        return response

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _flush(self, deadline: Deadline) -> None:
        outbox = self._http2.outbox
        while outbox:
            self._socket.settimeout(deadline.remaining())
            del outbox[:self._socket.send(outbox[:_CHUNK], MSG_NOSIGNAL)]

    def _receive(self, deadline: Deadline) -> None:
        self._socket.settimeout(deadline.remaining())
        data = self._socket.recv(_CHUNK)
        if not data:
            raise ConnectionResetError(0, "the service closed it")
        self._http2.feed(data)

    def _refused(self) -> None:
        limit = self._http2.refused_above
        if limit is not None and self._http2.stream > limit:
            raise Refused(f"the service is going away: {self._http2.farewell}")

    def _farewell(self) -> None:
        """Tell the peer that we gave up, if it can be told without waiting."""
        self._socket.settimeout(0)
        try:
            outbox = self._http2.outbox
            del outbox[:self._socket.send(outbox[:_CHUNK], MSG_NOSIGNAL)]
        except OSError:
            pass  # it will notice when we are gone

    def _last_words(self) -> None:
        """Read what came before the connection was lost: perhaps the answer, or that the request was refused.

        Raises:
            Refused: it was.
        """
        self._socket.settimeout(0)
        try:
            while data := self._socket.recv(_CHUNK):
                self._http2.feed(data)
        except (OSError, ConnectionFault):
            pass  # nothing more to learn
        self._refused()
