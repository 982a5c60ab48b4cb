"""HTTP/2 frames as bytes (RFC 9113, sections 4 and 6)."""

from __future__ import annotations

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = range(4)
FRAME_SIZE_ERROR = 0x6
REFUSED_STREAM = 0x7
CANCEL = 0x8
COMPRESSION_ERROR = 0x9
ENHANCE_YOUR_CALM = 0xB
INADEQUATE_SECURITY = 0xC

SETTINGS_ENABLE_PUSH = 0x2
SETTINGS_INITIAL_WINDOW_SIZE = 0x4
SETTINGS_MAX_FRAME_SIZE = 0x5

LARGEST_WINDOW = 0x7FFFFFFF
DEFAULT_WINDOW = 65535
DEFAULT_FRAME_SIZE = 16384
LARGEST_FRAME_SIZE = 0xFFFFFF


class ConnectionFault(Exception):
    """The peer broke the protocol: the connection is of no more use.

    Attributes:
        code: Error code for the GOAWAY.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame."""
    return b"%b%c%c%b%b" % (len(payload).to_bytes(3, "big"), kind, flags, stream.to_bytes(4, "big"), payload)


def take(buffer: bytearray) -> tuple[int, int, int, bytes] | None:
    """Cut the first frame off: kind, flags, stream, payload. None if it has not all arrived.

    Raises:
        ConnectionFault: it is longer than we ever allowed.
    """
    if len(buffer) < 9:
        return None
    length = int.from_bytes(buffer[:3], "big")
    if length > DEFAULT_FRAME_SIZE:
        raise ConnectionFault(FRAME_SIZE_ERROR, f"a frame of {length} bytes")
    if len(buffer) < 9 + length:
        return None
    kind, flags, stream = buffer[3], buffer[4], int.from_bytes(buffer[5:9], "big") & LARGEST_WINDOW
    payload = bytes(buffer[9:9 + length])
    del buffer[:9 + length]
    return kind, flags, stream, payload


def unpadded(flags: int, payload: bytes) -> bytes:
    """The payload of a DATA or HEADERS frame without its padding.

    Raises:
        ConnectionFault: the padding is longer than the frame.
    """
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault(PROTOCOL_ERROR, "padding longer than its frame")
    return payload[1:len(payload) - payload[0]]


def settings(*pairs: tuple[int, int]) -> bytes:
    """A SETTINGS frame of identifiers and values."""
    return frame(SETTINGS, 0, 0, b"".join(key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in pairs))


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """Identifiers and values of a SETTINGS frame.

    Raises:
        ConnectionFault: it is not a whole number of them.
    """
    if len(payload) % 6:
        raise ConnectionFault(FRAME_SIZE_ERROR, "a SETTINGS frame of a broken length")
    return [(int.from_bytes(payload[at:at + 2], "big"), int.from_bytes(payload[at + 2:at + 6], "big"))
            for at in range(0, len(payload), 6)]


def window_update(stream: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def reset(stream: int, code: int) -> bytes:
    """An RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def goaway(code: int) -> bytes:
    """A GOAWAY frame: we accepted no stream of the peer's."""
    return frame(GOAWAY, 0, 0, bytes(4) + code.to_bytes(4, "big"))
