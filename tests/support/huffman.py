"""Huffman coding of header strings, the direction that the shim never needs."""

from __future__ import annotations

from shim import huffman


def encode(text: bytes) -> bytes:
    """RFC 7541, section 5.2."""
    codes = {symbol: (length, code) for (length, code), symbol in huffman._table().items()}
    bits = "".join(f"{codes[byte][1]:0{codes[byte][0]}b}" for byte in text)
    bits += "1" * (-len(bits) % 8)
    return bytes(int(bits[at:at + 8], 2) for at in range(0, len(bits), 8))
