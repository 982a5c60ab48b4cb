"""One unary gRPC call over a connection (gRPC, "gRPC over HTTP2")."""

from __future__ import annotations

from shim import frames
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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from shim.deadline import Deadline
    from shim.http2 import Response
    from shim.transport import Transport

LARGEST_MESSAGE = 16 << 20
"""Bytes of a response that are taken in: four times what services send by default, and no way to fill the host."""

_HEX = frozenset(b"0123456789abcdefABCDEF")

# gRPC, "HTTP to gRPC Status Code Mapping"; all others UNKNOWN
_HTTP_STATUS = {b"400": INTERNAL, b"401": UNAUTHENTICATED, b"403": DENIED, b"404": UNIMPLEMENTED, b"429": UNAVAILABLE,
                b"502": UNAVAILABLE, b"503": UNAVAILABLE, b"504": UNAVAILABLE}
# gRPC, "gRPC over HTTP2", "Errors"; all others INTERNAL
_RESET = {frames.REFUSED_STREAM: UNAVAILABLE, frames.CANCEL: CANCELLED, frames.ENHANCE_YOUR_CALM: RESOURCE_EXHAUSTED,
          frames.INADEQUATE_SECURITY: DENIED}


def begin(transport: Transport, method: str, message: bytes, traceparent: str, deadline: Deadline) -> Response:
    """Call a method, such as `/muslin.ipam.v1.Plugin/Add`; `finish` waits for the answer.

    Raises:
        TimeoutError: the deadline has passed.
        transport.Refused: as Transport.begin() says.
    """
    return transport.begin((
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", method.encode()),
        (b":authority", b"localhost"),
        (b"te", b"trailers"),
        (b"grpc-timeout", timeout(deadline.remaining())),
        (b"content-type", b"application/grpc"),
        (b"user-agent", b"muslin-shim"),
        (b"traceparent", traceparent.encode()),
    ), b"\0" + len(message).to_bytes(4, "big") + message)


def finish(transport: Transport, response: Response, deadline: Deadline) -> bytes:
    """Wait for the answer to a call and return the bytes of its message.

    Raises:
        RpcError: the service's own status, or what the answer amounts to if it breaks the protocol.
        TimeoutError, transport.Refused, transport.Broken: as Transport.finish() says.
    """
    return _message(transport.finish(response, deadline))


def timeout(seconds: float) -> bytes:
    """The value of `grpc-timeout`: at most eight digits and a unit, never zero."""
    milliseconds = int(seconds * 1000) + 1
    return b"%dm" % milliseconds if milliseconds < 100_000_000 else b"%dS" % min(99_999_999, milliseconds // 1000)


def _message(response: Response) -> bytes:
    """The message of a response.

    Raises:
        RpcError: it has a status other than OK, or is none that gRPC knows.
    """
    if response.overflow:
        raise RpcError(RESOURCE_EXHAUSTED, f"an answer of more than {LARGEST_MESSAGE} bytes")
    status = _field(response.headers, b":status")
    if status and status != b"200":
        raise RpcError(_HTTP_STATUS.get(status, UNKNOWN), f"HTTP status {status.decode('ascii', 'replace')}")
    number = _field(response.trailers, b"grpc-status")
    if number.isdigit() and len(number) < 4 and int(number):
        code = int(number) if int(number) <= 16 else UNKNOWN
        raise RpcError(code, text(_field(response.trailers, b"grpc-message")), answered=True)
    if response.reset is not None and not number:
        raise RpcError(_RESET.get(response.reset, INTERNAL), f"the stream was reset with error {response.reset}")
    if number != b"0":
        raise RpcError(UNKNOWN, "an answer without a gRPC status")
    body = response.body
    if len(body) < 5 or len(body) != 5 + int.from_bytes(body[1:5], "big"):
        raise RpcError(INTERNAL, "an answer that is not exactly one message")
    if body[0]:
        raise RpcError(INTERNAL, "a compressed answer, which was not asked for")
    return bytes(body[5:])


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
