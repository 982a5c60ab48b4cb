"""The messages of muslin.cni.v1 and muslin.rpc.v1 as bytes (Protocol Buffers, "Encoding"; protos/muslin)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class BadMessage(ValueError):
    """The bytes are not a message."""


def call(container_id: str, netns: str, ifname: str, args: str, path: str, config: bytes, result: bytes,
         context: bytes) -> bytes:
    """A Call, its fields in the order of their numbers."""
    return b"".join(_field(number, value) for number, value in enumerate(
        (container_id.encode(), netns.encode(), ifname.encode(), args.encode(), path.encode(), config, result, context),
        1))


def request(message: bytes) -> bytes:
    """A request of any verb: a Call as its field 1, present even if empty."""
    return b"\x0a" + _varint(len(message)) + message


def add_response(message: bytes) -> tuple[bytes, bytes]:
    """Result and context of an AddResponse. Unknown fields are skipped; of a field given twice the last counts.

    Raises:
        BadMessage: it does not decode.
    """
    found = fields(message)
    return _last(found, 1), _last(found, 2)


def add_answer(result: bytes) -> bytes:
    """An AddResponse that has a result."""
    return _field(1, result)


def get_request(network: str, container_id: str, ifname: str) -> bytes:
    """A request of Endpoints.Get (protos/muslin/endpoint/v1/endpoint.proto): an Attachment as its field 1."""
    return _field(1, _field(1, network.encode("utf-8", "replace")) + _field(2, container_id.encode())
                  + _field(3, ifname.encode()))


def pod_cidrs(message: bytes) -> list[str]:
    """The pod CIDRs of a GetNodeResponse: field 3 of its field 1; none if it does not decode."""
    try:
        return [cidr.decode() for number, cidr in fields(_last(fields(message), 1))
                if number == 3 and isinstance(cidr, bytes)]
    except ValueError:
        return []


def attachment(message: bytes) -> tuple[str, str]:
    """Container id and interface name of a Call.

    Raises:
        BadMessage: it does not decode.
    """
    found = fields(message)
    return _text(found, 1), _text(found, 3)


def metadata(key: bytes, value: bytes) -> bytes:
    """A Metadata."""
    return _field(1, key) + _field(2, value)


def tunnelled(number: int, method: str, request: bytes, timeout: int, metadata: Sequence[bytes]) -> bytes:
    """A CallsRequest with one Call; several of them in a row are a CallsRequest with several. Timeout in ms."""
    return _field(1, b"\x08" + _varint(number) + _field(2, method.encode()) + _field(3, request)
                  + b"\x20" + _varint(timeout) + b"".join([_field(5, each) for each in metadata]))


def answers(message: bytes) -> list[tuple[int, int, str, bytes]]:
    """The Answers of a CallsResponse: id, status, message, response. Unknown fields are skipped.

    Raises:
        BadMessage: it does not decode.
    """
    found = []
    for number, answer in fields(message):
        if number == 1 and isinstance(answer, bytes):
            values = fields(answer)
            found.append((_number(values, 1), _number(values, 2), _text(values, 3), _last(values, 4)))
    return found


def fields(message: bytes) -> list[tuple[int, int | bytes]]:
    """Numbers and values of fields, in order: integers that are varints, and what has a length; others are skipped.

    Raises:
        BadMessage: it does not decode.
    """
    found: list[tuple[int, int | bytes]] = []
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        kind = key & 7
        if kind == _VARINT:
            number, at = _read_varint(message, at)
            found.append((key >> 3, number))
            continue
        if kind == _BYTES:
            size, at = _read_varint(message, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise BadMessage(f"wire type {kind}")
        end = at + size
        if end > len(message):
            raise BadMessage("a field that ends too early")
        if kind == _BYTES:
            found.append((key >> 3, message[at:end]))
        at = end
    return found


def _last(found: list[tuple[int, int | bytes]], number: int) -> bytes:
    value = b""
    for each, content in found:
        if each == number and isinstance(content, bytes):
            value = content
    return value


def _number(found: list[tuple[int, int | bytes]], number: int) -> int:
    value = 0
    for each, content in found:
        if each == number and isinstance(content, int):
            value = content
    return value


def _text(found: list[tuple[int, int | bytes]], number: int) -> str:
    return _last(found, number).decode("utf-8", "replace")


def _field(number: int, value: bytes) -> bytes:
    return bytes((number << 3 | _BYTES,)) + _varint(len(value)) + value if value else b""


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise BadMessage("a number that does not end")
