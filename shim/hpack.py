"""Header compression (RFC 7541): a complete decoder, and an encoder that keeps no state."""

from __future__ import annotations

from shim import huffman

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

TABLE_SIZE = 4096
"""Bytes of the decoder's dynamic table: the default, which we leave as it is."""

LARGEST_LIST = 64 * 1024
"""Bytes of one decoded header list, by the measure of RFC 9113, SETTINGS_MAX_HEADER_LIST_SIZE."""

_OVERHEAD = 32  # bytes that an entry counts beside its name and value (section 4.1)

# Section A, in order: name, or name=value.
_STATIC = tuple((name, value) for name, _, value in (entry.partition(b"=") for entry in (
    b":authority|:method=GET|:method=POST|:path=/|:path=/index.html|:scheme=http|:scheme=https|:status=200|:status=204|"
    b":status=206|:status=304|:status=400|:status=404|:status=500|accept-charset|accept-encoding=gzip, deflate|"
    b"accept-language|accept-ranges|accept|access-control-allow-origin|age|allow|authorization|cache-control|"
    b"content-disposition|content-encoding|content-language|content-length|content-location|content-range|content-type|"
    b"cookie|date|etag|expect|expires|from|host|if-match|if-modified-since|if-none-match|if-range|if-unmodified-since|"
    b"last-modified|link|location|max-forwards|proxy-authenticate|proxy-authorization|range|referer|refresh|"
    b"retry-after|server|set-cookie|strict-transport-security|transfer-encoding|user-agent|vary|via|www-authenticate"
).split(b"|")))
_NAMES = {name: index for index, (name, _) in reversed(tuple(enumerate(_STATIC, 1)))}


class BadHeaders(ValueError):
    """The block does not decode: the connection's compression state is lost."""


def encode(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A header block.

    It indexes nothing and starts by emptying the peer's table, so that it is right whatever size the peer allows and
    however many blocks came before.
    """
    block = [b"\x20"]
    for name, value in headers:
        if (name, value) in _STATIC:
            block.append(_integer(_STATIC.index((name, value)) + 1, 7, 0x80))
        elif index := _NAMES.get(name):
            block += _integer(index, 4, 0), _string(value)
        else:
            block += b"\0", _string(name), _string(value)
    return b"".join(block)


def _string(text: bytes) -> bytes:
    return _integer(len(text), 7, 0) + text


def _integer(value: int, bits: int, first: int) -> bytes:
    """An integer with a prefix of some bits, the bits above taken from `first` (section 5.1)."""
    limit = (1 << bits) - 1
    if value < limit:
        return bytes((first | value,))
    out, value = bytearray((first | limit,)), value - limit
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Decoder:
    """The receiving side of one connection; every block of it must pass through, in order."""

    __slots__ = ("_allowed", "_block", "_dynamic", "_position", "_size")

    def __init__(self) -> None:
        self._dynamic: list[tuple[bytes, bytes]] = []  # newest first
        self._size = 0
        self._allowed = TABLE_SIZE
        self._block = b""
        self._position = 0

    def decode(self, block: bytes) -> list[tuple[bytes, bytes]]:
        """The headers of a block, in order.

        Raises:
            BadHeaders: it breaks the format, or decodes to more than LARGEST_LIST.
        """
        self._block, self._position = block, 0
        headers: list[tuple[bytes, bytes]] = []
        total = 0
        while self._position < len(block):
            first = block[self._position]
            if first & 0xE0 == 0x20:
                if headers:
                    raise BadHeaders("table size update after a header")
                self._resize(self._read_integer(5))
                continue
            if first & 0x80:
                header = self._entry(self._read_integer(7))
            else:
                index = self._read_integer(6 if first & 0x40 else 4)
                header = (self._entry(index)[0] if index else self._read_string()), self._read_string()
                if first & 0x40:
                    self._add(header)
            headers.append(header)
            total += _size(header)
            if total > LARGEST_LIST:
                raise BadHeaders(f"more than {LARGEST_LIST} bytes of headers")
        return headers

    def _entry(self, index: int) -> tuple[bytes, bytes]:
        if 1 <= index <= len(_STATIC):
            return _STATIC[index - 1]
        if 0 <= index - len(_STATIC) - 1 < len(self._dynamic):
            return self._dynamic[index - len(_STATIC) - 1]
        raise BadHeaders(f"no entry {index}")

    def _add(self, header: tuple[bytes, bytes]) -> None:
        self._dynamic.insert(0, header)
        self._size += _size(header)
        self._evict()

    def _resize(self, size: int) -> None:
        if size > TABLE_SIZE:
            raise BadHeaders(f"a table of {size} bytes")
        self._allowed = size
        self._evict()

    def _evict(self) -> None:
        while self._size > self._allowed:
            self._size -= _size(self._dynamic.pop())

    def _read_integer(self, bits: int) -> int:
        limit = (1 << bits) - 1
        value = self._byte() & limit
        if value < limit:
            return value
        for shift in (0, 7, 14, 21):
            byte = self._byte()
            value += (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise BadHeaders("an integer out of range")

    def _read_string(self) -> bytes:
        coded = self._position < len(self._block) and self._block[self._position] & 0x80
        length = self._read_integer(7)
        text = self._block[self._position:self._position + length]
        if len(text) < length:
            raise BadHeaders("a string that ends too early")
        self._position += length
        if not coded:
            return text
        try:
            return huffman.decode(text)
        except huffman.BadCode as problem:
            raise BadHeaders(str(problem)) from None

    def _byte(self) -> int:
        if self._position >= len(self._block):
            raise BadHeaders("a block that ends too early")
        self._position += 1
        return self._block[self._position - 1]


def _size(header: tuple[bytes, bytes]) -> int:
    return len(header[0]) + len(header[1]) + _OVERHEAD
