"""The client's side of an HTTP/2 connection (RFC 9113) as a state machine: bytes in, bytes out, no socket.

Several requests may be under way at once, each on a stream of its own.
"""

from __future__ import annotations

from shim import frames, hpack
from shim.frames import ConnectionFault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

WINDOW = 1 << 20
"""Bytes that the peer may send before we acknowledge, on the stream and on the connection."""

_LARGEST_BLOCK = 64 * 1024  # bytes of a header block, with its continuations


class Response:
    """What has arrived in answer to one request.

    Attributes:
        headers: The first header list that is not informational; empty until it arrives.
        trailers: The header list that ended the stream; for an answer without a body it is `headers`.
        body: Bytes so far.
        done: Nothing more will come.
        reset: Error code if the stream was reset, by the peer or by us.
        overflow: The body was longer than the limit, so we reset the stream.
        stream: Id of the request's stream.
        request: The request's body.
        sent: Bytes of it that the windows have let through.
        ends: There is no more of the request than `request`.
        window: Bytes that we may send on the stream; settings can make it negative.
        received: Bytes of the stream that are not yet acknowledged.
    """

    __slots__ = ("body", "done", "ends", "headers", "overflow", "received", "request", "reset", "sent", "stream",
                 "trailers", "window")

    def __init__(self, stream: int = 0, request: bytes = b"", window: int = 0, ends: bool = True) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.trailers: list[tuple[bytes, bytes]] = []
        self.body = bytearray()
        self.done = False
        self.reset: int | None = None
        self.overflow = False
        self.stream = stream
        self.request = request
        self.sent = 0
        self.ends = ends
        self.window = window
        self.received = 0


class Http2:
    """One connection.

    Attributes:
        outbox: Bytes to send; whoever sends them removes them.
        refused_above: Streams above this id will never be carried out, from the peer's GOAWAY; None before one.
        farewell: What the peer's GOAWAY said, for people.
    """

    def __init__(self, body_limit: int) -> None:
        """Start a connection; responses with a body of more than `body_limit` bytes are given up."""
        self.outbox = bytearray(
            frames.PREFACE
            + frames.settings((frames.SETTINGS_ENABLE_PUSH, 0), (frames.SETTINGS_INITIAL_WINDOW_SIZE, WINDOW))
            + frames.window_update(0, WINDOW - frames.DEFAULT_WINDOW))
        self.refused_above: int | None = None
        self.farewell = ""
        self._body_limit = body_limit
        self._inbox = bytearray()
        self._decoder = hpack.Decoder()
        self._stream = -1
        self._under_way: dict[int, Response] = {}  # by stream, oldest first
        self._window = frames.DEFAULT_WINDOW  # what we may send on the connection
        self._first_window = frames.DEFAULT_WINDOW
        self._frame_size = frames.DEFAULT_FRAME_SIZE
        self._received = 0                    # not yet acknowledged on the connection
        self._block = bytearray()             # a header block in the making,
        self._block_stream = 0                # of this stream,
        self._block_ends = False              # which it ends; 0 if there is none

    def open(self, headers: Iterable[tuple[bytes, bytes]], body: bytes, ends: bool = True) -> Response:
        """Begin a request, whose body goes on with `more` unless it ends. The response fills as bytes are fed."""
        self._stream += 2
        response = self._under_way[self._stream] = Response(self._stream, body, self._first_window, ends)
        block, kind = hpack.encode(headers), frames.HEADERS
        while kind == frames.HEADERS or block:
            piece, block = block[:self._frame_size], block[self._frame_size:]
            self.outbox += frames.frame(kind, 0 if block else frames.END_HEADERS, self._stream, piece)
            kind = frames.CONTINUATION
        self._pump(response)
        return response

    def more(self, response: Response, body: bytes) -> None:
        """Go on with the body of a request that has not ended; nothing happens if the response is done."""
        if not response.done:
            response.request = response.request[response.sent:] + body
            response.sent = 0
            self._pump(response)

    def cancel(self, response: Response, code: int = frames.CANCEL) -> None:
        """Give a request up, if it is not done."""
        if not response.done:
            self.outbox += frames.reset(response.stream, code)
            response.reset = code
            self._finish(response)

    def feed(self, data: bytes) -> None:
        """Take in what the peer sent.

        Raises:
            ConnectionFault: it broke the protocol; the outbox tells it so.
        """
        self._inbox += data
        try:
            while (taken := frames.take(self._inbox)) is not None:
                self._frame(*taken)
        except hpack.BadHeaders as problem:
            self.outbox += frames.goaway(frames.COMPRESSION_ERROR)
            raise ConnectionFault(frames.COMPRESSION_ERROR, str(problem)) from None
        except ConnectionFault as fault:
            self.outbox += frames.goaway(fault.code)
            raise

    def _pump(self, response: Response) -> None:
        """Send as much of a request as the windows let through."""
        while (left := len(response.request) - response.sent) > 0:
            size = min(left, self._frame_size, self._window, response.window)
            if size <= 0:
                return
            self.outbox += frames.frame(frames.DATA, frames.END_STREAM if size == left and response.ends else 0,
                                        response.stream,
                                        response.request[response.sent:response.sent + size])
            response.sent += size
            self._window -= size
            response.window -= size

    def _pump_all(self) -> None:
        for response in self._under_way.values():
            self._pump(response)

    def _finish(self, response: Response) -> None:
        response.done = True
        del self._under_way[response.stream]
        if response.sent < len(response.request) and response.reset is None:
            self.outbox += frames.reset(response.stream, frames.CANCEL)  # answered before all was sent
        response.request, response.sent = b"", 0

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self._block_stream and (kind != frames.CONTINUATION or stream != self._block_stream):
            raise _fault(f"frame {kind} inside a header block")
        if (kind in _OF_STREAM) != bool(stream) and kind in _HANDLERS and kind != frames.WINDOW_UPDATE:
            raise _fault(f"frame {kind} on stream {stream}")
        if handler := _HANDLERS.get(kind):
            handler(self, flags, stream, payload)

    def _on_data(self, flags: int, stream: int, payload: bytes) -> None:
        self._received += len(payload)  # padding counts, and so does what comes for a stream that we gave up
        if self._received >= WINDOW // 2:
            self.outbox += frames.window_update(0, self._received)
            self._received = 0
        content = frames.unpadded(flags, payload)
        response = self._expected(stream)
        if response is None:
            return
        if not response.headers:
            raise _fault("a body before its headers")
        response.body += content
        if len(response.body) > self._body_limit:
            response.overflow = True
            self.cancel(response)
        elif flags & frames.END_STREAM:
            self._finish(response)
        else:
            response.received += len(payload)
            if response.received >= WINDOW // 2:
                self.outbox += frames.window_update(stream, response.received)
                response.received = 0

    def _on_headers(self, flags: int, stream: int, payload: bytes) -> None:
        content = frames.unpadded(flags, payload)
        if flags & frames.WITH_PRIORITY:
            if len(content) < 5:
                raise ConnectionFault(frames.FRAME_SIZE_ERROR, "a HEADERS frame too short for its priority")
            content = content[5:]
        self._expected(stream)
        self._block_ends = bool(flags & frames.END_STREAM)
        self._block_part(flags, stream, content)

    def _on_continuation(self, flags: int, stream: int, payload: bytes) -> None:
        if not self._block_stream:
            raise _fault("CONTINUATION without HEADERS")
        self._block_part(flags, stream, payload)

    def _block_part(self, flags: int, stream: int, content: bytes) -> None:
        self._block += content
        if len(self._block) > _LARGEST_BLOCK:
            raise ConnectionFault(frames.ENHANCE_YOUR_CALM, "an endless header block")
        self._block_stream = stream
        if flags & frames.END_HEADERS:
            headers = self._decoder.decode(bytes(self._block))  # also of a stream we gave up: the table must follow
            self._block.clear()
            self._block_stream = 0
            if response := self._under_way.get(stream):
                self._header_list(response, headers)

    def _header_list(self, response: Response, headers: list[tuple[bytes, bytes]]) -> None:
        informational = any(name == b":status" and value.startswith(b"1") for name, value in headers)
        if informational and not response.headers and not self._block_ends:
            return
        if response.headers and not self._block_ends:
            raise _fault("trailers that do not end the stream")
        if not response.headers:
            response.headers = headers
        if self._block_ends:
            response.trailers = headers
            self._finish(response)

    def _on_reset(self, flags: int, stream: int, payload: bytes) -> None:
        _length(payload, 4, "RST_STREAM")
        if response := self._expected(stream):
            response.reset = int.from_bytes(payload, "big")
            self._finish(response)

    def _on_settings(self, flags: int, stream: int, payload: bytes) -> None:
        if flags & frames.ACK:
            _length(payload, 0, "SETTINGS acknowledgement")
            return
        for key, value in frames.read_settings(payload):
            if key == frames.SETTINGS_INITIAL_WINDOW_SIZE:
                if value > frames.LARGEST_WINDOW:
                    raise ConnectionFault(frames.FLOW_CONTROL_ERROR, f"an initial window of {value} bytes")
                for response in self._under_way.values():
                    response.window += value - self._first_window
                self._first_window = value
            elif key == frames.SETTINGS_MAX_FRAME_SIZE:
                if not frames.DEFAULT_FRAME_SIZE <= value <= frames.LARGEST_FRAME_SIZE:
                    raise _fault(f"frames of {value} bytes")
                self._frame_size = value
        self.outbox += frames.frame(frames.SETTINGS, frames.ACK, 0, b"")
        self._pump_all()

    def _on_push(self, flags: int, stream: int, payload: bytes) -> None:
        raise _fault("PUSH_PROMISE, which we forbade")

    def _on_ping(self, flags: int, stream: int, payload: bytes) -> None:
        _length(payload, 8, "PING")
        if not flags & frames.ACK:
            self.outbox += frames.frame(frames.PING, frames.ACK, 0, payload)

    def _on_goaway(self, flags: int, stream: int, payload: bytes) -> None:
        if len(payload) < 8:
            raise ConnectionFault(frames.FRAME_SIZE_ERROR, "a GOAWAY frame too short")
        self.refused_above = int.from_bytes(payload[:4], "big") & frames.LARGEST_WINDOW
        why = payload[8:208].decode("utf-8", "replace")
        self.farewell = f"error {int.from_bytes(payload[4:8], 'big')} {why}".strip()

    def _on_window_update(self, flags: int, stream: int, payload: bytes) -> None:
        _length(payload, 4, "WINDOW_UPDATE")
        increment = int.from_bytes(payload, "big") & frames.LARGEST_WINDOW
        response = self._expected(stream) if stream else None
        if stream == 0:
            self._window += increment
        elif response:
            response.window += increment
        else:
            return
        if not increment:
            raise _fault("a WINDOW_UPDATE by nothing")
        if max(self._window, response.window if response else 0) > frames.LARGEST_WINDOW:
            raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "a window beyond all bounds")
        self._pump_all()

    def _expected(self, stream: int) -> Response | None:
        """The response of a stream; None if it is done or was given up: what comes after is to be ignored."""
        if stream > self._stream or not stream % 2:
            raise _fault(f"a frame on stream {stream}, which was never opened")
        return self._under_way.get(stream)


def _length(payload: bytes, length: int, what: str) -> None:
    if len(payload) != length:
        raise ConnectionFault(frames.FRAME_SIZE_ERROR, f"a {what} frame of {len(payload)} bytes")


def _fault(message: str) -> ConnectionFault:
    return ConnectionFault(frames.PROTOCOL_ERROR, message)


_OF_STREAM = (frames.DATA, frames.HEADERS, frames.RST_STREAM, frames.PUSH_PROMISE, frames.CONTINUATION)
_HANDLERS: dict[int, Callable[[Http2, int, int, bytes], None]] = {
    frames.DATA: Http2._on_data,
    frames.HEADERS: Http2._on_headers,
    frames.RST_STREAM: Http2._on_reset,
    frames.SETTINGS: Http2._on_settings,
    frames.PUSH_PROMISE: Http2._on_push,
    frames.PING: Http2._on_ping,
    frames.GOAWAY: Http2._on_goaway,
    frames.WINDOW_UPDATE: Http2._on_window_update,
    frames.CONTINUATION: Http2._on_continuation,
}
