"""One connection to a unix socket: pushes bytes between the socket and the HTTP/2 state machine, by a deadline."""

from __future__ import annotations

from _socket import AF_UNIX, MSG_NOSIGNAL, SOCK_CLOEXEC, SOCK_STREAM, socket
from time import sleep

from shim.frames import REFUSED_STREAM, ConnectionFault
from shim.http2 import Http2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

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
    """A connection, for any number of streams at once."""

    def __init__(self, path: str, body_limit: int, deadline: Deadline) -> None:
        """Connect.

        Raises:
            Unreachable: nobody listens there, or it may not be used.
            TimeoutError: the deadline passed.
        """
        self._http2 = Http2(body_limit)
        self._lost = ""  # how the connection was lost, once it is
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

    def begin(self, headers: Iterable[tuple[bytes, bytes]]) -> Response:
        """Open a stream, to be sent with the next `wait` or `push`.

        Raises:
            Refused: the peer carries out no more on this connection; on a new one it may.
        """
        if self._http2.refused_above is not None:
            raise Refused(f"the service is going away: {self._http2.farewell}")
        return self._http2.open(headers, b"", ends=False)

    def more(self, response: Response, body: bytes) -> None:
        """Send more on a stream, with the next `wait` or `push`."""
        self._http2.more(response, body)

    def wait(self, response: Response, enough: Callable[[], bool], deadline: Deadline) -> None:
        """Wait until enough of a response is there, or all of it.

        Raises:
            Refused: the peer will not carry the request out; on a new connection it may.
            Broken: the connection is lost.
            TimeoutError: the deadline passed; the stream is cancelled, and the connection can be used on.
        """
        try:
            while not enough() and not response.done:  # what we still owe the peer then goes out with the next request
                if self._lost:
                    raise Broken(self._lost)
                self._refused(response)
                self._flush(deadline)
                self._receive(deadline)
        except TimeoutError:
            self._http2.cancel(response)
            self.push()
            raise
        except ConnectionFault as fault:
            self._lost = f"the peer broke the HTTP/2 protocol: {fault}"
            self.push()
            raise Broken(self._lost) from None
        except OSError as problem:
            self._lost = f"connection lost: {problem.strerror or problem}"
            self._last_words()
            self._refused(response)
            if not enough() and not response.done:
                raise Broken(self._lost) from None
        if response.reset == REFUSED_STREAM:
            raise Refused("the service refused the stream")

    def push(self) -> None:
        """Send what can be sent without waiting; a connection that is lost will be noticed later."""
        self._socket.settimeout(0)
        try:
            outbox = self._http2.outbox
            del outbox[:self._socket.send(outbox[:_CHUNK], MSG_NOSIGNAL)]
        except OSError:
            pass

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

    def _refused(self, response: Response) -> None:
        limit = self._http2.refused_above
        if limit is not None and response.stream > limit and not response.done:
            raise Refused(f"the service is going away: {self._http2.farewell}")

    def _last_words(self) -> None:
        """Read what came before the connection was lost: perhaps the answer, or that the request was refused."""
        self._socket.settimeout(0)
        try:
            while data := self._socket.recv(_CHUNK):
                self._http2.feed(data)
        except (OSError, ConnectionFault):
            pass  # nothing more to learn
