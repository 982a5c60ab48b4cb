"""Decoding of Huffman-coded strings (RFC 7541, section 5.2 and appendix B)."""

from __future__ import annotations

# The code is canonical: codes of one length are consecutive, in the order of their symbols. So the 257 lengths (256
# is the end-of-string symbol), one hexadecimal byte each, are the whole table of appendix B.
_LENGTHS = bytes.fromhex(
    "0d171c1c1c1c1c1c1c181e1c1c1e1c1c1c1c1c1c1c1c1e1c1c1c1c1c1c1c1c1c060a0a0c0d06080b0a0a080b080606060505050606060606"
    "060607080f060c0a0d06070707070707070707070707070707070707070707070807080d130d0e060f050605060506060605070706060605"
    "06070605050607070707070f0b0e0d1c14161414161616171617171717171817181816171817171717151617161717181615141616171715"
    "1716161815161717151516151716171714161616171616171a1a1413161716191a1a1a1b1b1a181913151a1b1b1a1b1815151a1a1c1b1b1b"
    "14181415161515171616191918181a171a1b1a1a1b1b1b1b1b1c1b1b1b1b1b1a1e"
)


class BadCode(ValueError):
    """The bytes are not a Huffman-coded string."""


def decode(data: bytes) -> bytes:
    """The octets behind the code.

    Raises:
        BadCode: it holds the end-of-string symbol, or its padding is longer than 7 bits or not all ones.
    """
    table = _table()
    out = bytearray()
    code, length = 0, 0
    for byte in data:
        for shift in (7, 6, 5, 4, 3, 2, 1, 0):
            code, length = code << 1 | (byte >> shift & 1), length + 1
            symbol = table.get((length, code))
            if symbol is None:
                continue
            if symbol == 256:
                raise BadCode("end-of-string symbol inside a string")
            out.append(symbol)
            code, length = 0, 0
    if length > 7 or code != (1 << length) - 1:
        raise BadCode("bad padding")
    return bytes(out)


_decoding: dict[tuple[int, int], int] = {}


def _table() -> dict[tuple[int, int], int]:
    """(length, code) to symbol; made on first use, as few answers are coded so."""
    if not _decoding:
        code, before = 0, 0
        for length, symbol in sorted((length, symbol) for symbol, length in enumerate(_LENGTHS)):
            code <<= length - before
            _decoding[length, code] = symbol
            code, before = code + 1, length
    return _decoding
