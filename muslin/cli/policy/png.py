"""The matrix as a PNG, for where no SVG is shown: the same cells, names of columns upright.

Made of rectangles and drawn letters, so that no library and no font is needed. Format: https://www.w3.org/TR/png-3/
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from muslin.cli.play.flows import Flow
from muslin.cli.policy.letters import GLYPHS, HEIGHT, UNKNOWN, WIDTH
from muslin.cli.policy.matrix import Matrix, total
from muslin.cli.policy.svg import CELL, MARGIN, SPACE, STRIPE, places
from muslin.errors import Exhausted

__all__ = ["picture"]

DOT = 2
"""Pixels of a dot of a letter."""
STEP = DOT * (WIDTH + 1)
"""Pixels from one letter to the next."""
TALL = DOT * HEIGHT
MOST_PIXELS = 100_000_000
"""As many bytes are in memory while it is drawn."""

WHITE, INK, SMALL, ALLOW, DENY, SELF = range(6)
_COLOURS = ((255, 255, 255), (36, 41, 47), (87, 96, 106), (26, 127, 90), (243, 220, 216), (234, 238, 242))
"""White, and those of the SVG."""


def picture(found: Matrix) -> bytes:
    """The PNG of a matrix. Raises Exhausted if it would be too large."""
    rows, columns = list(found.ports), [name for name, ports in found.ports.items() if ports]
    titles = {name: f"{name}  {' '.join(map(str, found.ports[name]))}" for name in columns}
    left = MARGIN + STEP * max(map(len, rows)) + SPACE
    top = MARGIN + max(TALL + SPACE, STEP * max(map(len, titles.values()), default=0)) + SPACE
    across = places(columns, left, [max(CELL, STRIPE * len(found.ports[name])) for name in columns])
    down = places(rows, top, [CELL] * len(rows))
    right = max((x + wide for x, wide in across.values()), default=left)
    bottom = max(y + high for y, high in down.values())
    canvas = _Canvas(max(right, left + STEP * len(total(found))) + MARGIN, bottom + 2 * (TALL + SPACE) + MARGIN)
    canvas.write(MARGIN, MARGIN, "from \\ to", SMALL)
    for name, (x, wide) in across.items():
        canvas.write_up(x + (wide - TALL) // 2, top - SPACE, titles[name], INK)
    for name, (y, _) in down.items():
        canvas.write(left - SPACE - STEP * len(name), y + (CELL - TALL) // 2, name, INK)
        for to, (x, wide) in across.items():
            for begin, end, colour in _stripes(found, name, to, wide):
                canvas.fill(x + begin, y, end - begin, CELL, colour)
    x, y = left, bottom + SPACE
    for colour, word in ((ALLOW, "allowed"), (DENY, "denied"), (SELF, "itself")):
        canvas.fill(x, y, TALL, TALL, colour)
        canvas.write(x + TALL + 5, y, word, SMALL)
        x += TALL + 5 + STEP * (len(word) + 1)
    canvas.write(left, y + TALL + SPACE, total(found), SMALL)
    return canvas.png()


def _stripes(found: Matrix, source: str, destination: str, wide: int) -> Iterator[tuple[int, int, int]]:
    """Beginning, end and colour of each stripe of a cell."""
    if source == destination:
        yield 0, wide, SELF
        return
    ports = found.ports[destination]
    for number, port in enumerate(ports):
        begin, end = wide * number // len(ports), wide * (number + 1) // len(ports)
        colour = ALLOW if found.allowed(Flow(source, destination, port)) else DENY
        yield begin, end - (number + 1 < len(ports)), colour


class _Canvas:
    """Rows of pixels, each the number of a colour."""

    def __init__(self, width: int, height: int) -> None:
        if width * height > MOST_PIXELS:
            raise Exhausted(f"the picture would have {width} x {height} pixels, more than {MOST_PIXELS}; select fewer "
                            "pods with -n or -l, or make an SVG")
        self.width, self.height = width, height
        self._rows = [bytearray(width) for _ in range(height)]

    def fill(self, x: int, y: int, wide: int, high: int, colour: int) -> None:
        for row in self._rows[y:y + high]:
            row[x:x + wide] = bytes([colour]) * wide

    def write(self, x: int, y: int, text: str, colour: int) -> None:
        """To the right from its upper left corner."""
        for number, letter in enumerate(text):
            for dx, dy in _dots(letter):
                self.fill(x + number * STEP + dx * DOT, y + dy * DOT, DOT, DOT, colour)

    def write_up(self, x: int, y: int, text: str, colour: int) -> None:
        """Upwards from its lower left corner, letters lying on their backs."""
        for number, letter in enumerate(text):
            for dx, dy in _dots(letter):
                self.fill(x + dy * DOT, y - number * STEP - (dx + 1) * DOT, DOT, DOT, colour)

    def png(self) -> bytes:
        header = struct.pack(">IIBBBBB", self.width, self.height, 8, 3, 0, 0, 0)  # a byte a pixel, from a palette
        lines = zlib.compress(b"".join(b"\0" + row for row in self._rows), 9)
        return b"\x89PNG\r\n\x1a\n" + b"".join((
            _chunk(b"IHDR", header), _chunk(b"PLTE", bytes(part for colour in _COLOURS for part in colour)),
            _chunk(b"IDAT", lines), _chunk(b"IEND", b"")))


def _dots(letter: str) -> Iterator[tuple[int, int]]:
    """Places of a letter's ink."""
    for y, row in enumerate(GLYPHS.get(letter, UNKNOWN)):
        for x, dot in enumerate(row):
            if dot == "#":
                yield x, y


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
