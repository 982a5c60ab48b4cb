"""Calls of all services over one gRPC stream (muslin.rpc.v1.Tunnel; gRPC, "gRPC over HTTP2").

A call of its own costs the daemon four events and the shim two header lists; a message on an open stream costs one.
"""

from __future__ import annotations

from shim import frames, messages
from shim.errors import (
    CANCELLED,
    DENIED,
    INTERNAL,
    RESOURCE_EXHAUSTED,
    UNAUTHENTICATED,
    UNAVAILABLE,
    UNIMPLEMENTED,
    UNKNOWN,
    RpcError,
)
from shim.transport import Broken, Refused, Transport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from shim.deadline import Deadline
    from shim.http2 import Response

LARGEST_MESSAGE = 16 << 20
"""Bytes of answers that are taken in at once: four times what services send by default, and no way to fill the host."""

_HEADERS = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/muslin.rpc.v1.Tunnel/Calls"),
    (b":authority", b"localhost"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
    (b"user-agent", b"muslin-shim"),
)

_HEX = frozenset(b"0123456789abcdefABCDEF")

# gRPC, "HTTP to gRPC Status Code Mapping"; all others UNKNOWN
_HTTP_STATUS = {b"400": INTERNAL, b"401": UNAUTHENTICATED, b"403": DENIED, b"404": UNIMPLEMENTED, b"429": UNAVAILABLE,
                b"502": UNAVAILABLE, b"503": UNAVAILABLE, b"504": UNAVAILABLE}
# gRPC, "gRPC over HTTP2", "Errors"; all others INTERNAL
_RESET = {frames.REFUSED_STREAM: UNAVAILABLE, frames.CANCEL: CANCELLED, frames.ENHANCE_YOUR_CALM: RESOURCE_EXHAUSTED,
          frames.INADEQUATE_SECURITY: DENIED}


class Tunnel:
    """A connection with one stream, that is opened anew when it has ended."""

    def __init__(self, path: str, traceparent: str, deadline: Deadline, invocation: str = "") -> None:
        """Connect to a unix socket.

        Raises:
            transport.Unreachable, TimeoutError: as Transport says.
        """
        self.transport = Transport(path, LARGEST_MESSAGE + 5, deadline)
        self._metadata = [messages.metadata(b"traceparent", traceparent.encode())]
        if invocation:
            self._metadata.append(messages.metadata(b"muslin-invocation", invocation.encode()))
        self._stream: Response | None = None
        self._last = 0
        self._answers: dict[int, bytes | RpcError] = {}

    def ask(self, calls: Sequence[tuple[str, bytes]], deadline: Deadline) -> list[int]:
        """Make calls, each a method such as `/muslin.ipam.v1.Plugin/Add` and a request; their ids, for `collect`.

        Raises:
            transport.Refused: the peer carries out no more on this connection; on a new one it may.
            TimeoutError: the deadline has passed.
        """
        if self._stream is None or self._stream.done:
            self._stream = self.transport.begin(_HEADERS)
        first, limit = self._last + 1, int(deadline.remaining() * 1000) + 1
        self._last += len(calls)
        numbers = list(range(first, self._last + 1))
        message = b"".join([messages.tunnelled(number, method, request, limit, self._metadata)
                            for number, (method, request) in zip(numbers, calls)])  # noqa: B905  made of it above
        self.transport.more(self._stream, b"\0" + len(message).to_bytes(4, "big") + message)
        return numbers

    def collect(self, numbers: Sequence[int], deadline: Deadline) -> list[bytes | Exception]:
        """Wait for the answers to calls: the response's bytes each, or what came instead.

        That is RpcError with the service's own status or what the end of the stream amounts to, or TimeoutError,
        transport.Refused or transport.Broken as Transport.wait() says.
        """
        stream = self._stream
        assert stream is not None
        missing: Exception
        try:
            self.transport.wait(stream, lambda: self._take(stream) and self._answers.keys() >= set(numbers), deadline)
            missing = _end(stream)
        except (TimeoutError, Refused, Broken, RpcError) as problem:
            missing = problem
        return [self._answers.pop(number, missing) for number in numbers]

    def _take(self, stream: Response) -> bool:
        """Read the messages that are there.

        Raises:
            RpcError: what is there is none.
        """
        body = stream.body
        while len(body) >= 5 and len(body) >= (end := 5 + int.from_bytes(body[1:5], "big")):
            if body[0]:
                raise RpcError(INTERNAL, "a compressed answer, which was not asked for")
            try:
                for number, status, text, response in messages.answers(bytes(body[5:end])):
                    self._answers[number] = RpcError(status if status <= 16 else UNKNOWN, text,
                                                     answered=True) if status else response
            except messages.BadMessage as problem:
                raise RpcError(INTERNAL, f"an answer that does not decode: {problem}") from None
            del body[:end]
        return True


def _end(stream: Response) -> Exception:
    """What the end of a stream means for calls that it did not answer."""
    if stream.overflow:
        return RpcError(RESOURCE_EXHAUSTED, f"an answer of more than {LARGEST_MESSAGE} bytes")
    status = _field(stream.headers, b":status")
    if status and status != b"200":
        return RpcError(_HTTP_STATUS.get(status, UNKNOWN), f"HTTP status {status.decode('ascii', 'replace')}")
    number = _field(stream.trailers, b"grpc-status")
    if number.isdigit() and len(number) < 4 and int(number):
        code = int(number) if int(number) <= 16 else UNKNOWN
        return RpcError(code, text(_field(stream.trailers, b"grpc-message")), answered=True)
    if stream.reset is not None and not number:
        return RpcError(_RESET.get(stream.reset, INTERNAL), f"the stream was reset with error {stream.reset}")
    if number != b"0":
        return RpcError(UNKNOWN, "an answer without a gRPC status")
    if stream.body:
        return RpcError(INTERNAL, "half an answer")
    # A server that shuts down ends its tunnels so, when all that it has begun is answered (muslin.rpc.tunnel).
    return Refused("the service is shutting down")


def _field(headers: list[tuple[bytes, bytes]], name: bytes) -> bytes:
    return next((value for key, value in headers if key == name), b"")


def text(message: bytes) -> str:
    """Decode `grpc-message`: percent-encoded UTF-8. What is not properly encoded stands as it is."""
    first, *rest = message.split(b"%")
    out = bytearray(first)
    for part in rest:
        digits = part[:2]
        if len(digits) == 2 and _HEX.issuperset(digits):
            out += bytes.fromhex(digits.decode()) + part[2:]
        else:
            out += b"%" + part
    return out.decode("utf-8", "replace")
