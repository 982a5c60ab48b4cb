#!/opt/muslin/bin/python3 -IS
"""Asks a service on a unix socket how it is (grpc.health.v1), for the health checks of containers.

    python -IS probe.py [--alive] /run/muslin/ipam.sock

Ends with 0 if the service says SERVING, else with 1 and a line that says what it said; with --alive 0 if it says
anything: one that waits for others is not ill, and starting it anew would help nobody. It speaks the little HTTP/2 that
this takes by itself: to load gRPC costs a hundred times as much, for every container, every few seconds.
"""

from __future__ import annotations

import socket
import struct
import sys

__all__ = ["check", "main"]

PATIENCE = 2.0
"""Seconds for the connection and for each piece of the answer."""
LONGEST = 1 << 20
"""Bytes of all frames together, after which whoever answers is not believed to be a health service."""
STATUSES = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
"""grpc.health.v1.HealthCheckResponse.ServingStatus."""

_DATA, _HEADERS, _RESET, _SETTINGS, _GOAWAY = 0, 1, 3, 4, 7  # RFC 9113, section 6
_END_STREAM, _END_HEADERS = 1, 4
_STREAM = 1
_NOTHING = b"\xff"  # no message, where an empty one says UNKNOWN


def check(path: str) -> str:
    """What the service behind the socket says of itself (`SERVING`, `NOT_SERVING`), or why it does not answer."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(path)
            connection.sendall(_request())
            return _status(_answer(connection))
    except (OSError, EOFError) as problem:
        return f"{path}: {problem or 'the connection was closed'}"


def _request() -> bytes:
    # HPACK (RFC 7541): one byte for what the static table has; else 0, or the number of a name in it, and the texts.
    headers = b"".join((
        b"\x83\x86",  # :method POST, :scheme http
        b"\x04", _text(b"/grpc.health.v1.Health/Check"), b"\x01", _text(b"localhost"),  # :path, :authority
        b"\x0f\x10", _text(b"application/grpc"),  # content-type
        b"\x00", _text(b"te"), _text(b"trailers")))
    empty = bytes(5)  # not compressed, no bytes: a request for the health of all that the server serves
    return b"".join((b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", _frame(_SETTINGS, 0, 0, b""),
                     _frame(_HEADERS, _END_HEADERS, _STREAM, headers), _frame(_DATA, _END_STREAM, _STREAM, empty)))


def _text(text: bytes) -> bytes:
    return bytes((len(text),)) + text  # below 127 bytes, and not Huffman's


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return struct.pack(">I", len(body))[1:] + struct.pack(">BBI", kind, flags, stream) + body


def _answer(connection: socket.socket) -> bytes:
    """The message of our stream, `_NOTHING` if it ended without one."""
    message, read = b"", 0
    while read < LONGEST:
        head = _exactly(connection, 9)
        size = int.from_bytes(head[:3], "big")
        kind, flags, stream = struct.unpack(">BBI", head[3:])
        read += size
        body = _exactly(connection, min(size, LONGEST))
        if kind == _DATA and stream == _STREAM:
            message += body
            if len(message) >= 5 and len(message) >= 5 + int.from_bytes(message[1:5], "big"):
                return message[5:]
        if kind in (_RESET, _GOAWAY) or (stream == _STREAM and flags & _END_STREAM and kind in (_DATA, _HEADERS)):
            break
    return _NOTHING


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise EOFError("the connection was closed")
        data += piece
    return data


def _status(message: bytes) -> str:
    """The status of a HealthCheckResponse, whose one field is number 1, a varint; absent it is 0."""
    if not message:
        return STATUSES[0]
    if len(message) == 2 and message[0] == 0x08 and message[1] < len(STATUSES):
        return STATUSES[message[1]]
    return "it answered without a status of health"


def main(arguments: list[str]) -> int:
    """The exit code."""
    alive = arguments[:1] == ["--alive"]
    if len(arguments) != 1 + alive:
        sys.stderr.write("usage: probe.py [--alive] SOCKET\n")
        return 2
    answer = check(arguments[-1])
    sys.stdout.write(f"{answer}\n")
    return 0 if answer in (STATUSES if alive else STATUSES[1:2]) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
