"""The matrix as a PNG: read back by the format's rules, it shows each flow in its place, and its letters."""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path

import pytest
from click.testing import CliRunner

from muslin.cli.console import Console
from muslin.cli.main import cli
from muslin.cli.play.flows import Flow, PlayedPort
from muslin.cli.policy import png
from muslin.cli.policy.engine import Judge
from muslin.cli.policy.letters import GLYPHS, HEIGHT, UNKNOWN, WIDTH
from muslin.cli.policy.matrix import Matrix, Selection, matrix, total
from muslin.cli.policy.svg import MARGIN, SPACE
from muslin.cli.policy.world import of_manifest
from muslin.errors import Exhausted, InvalidArgument
from muslin.kube.manifest import load

EXAMPLE = Path(__file__).parents[3] / "examples/three-tier"
PAPER, ALLOW, DENY, ITSELF = b"\xff\xff\xff", b"\x1a\x7f\x5a", b"\xf3\xdc\xd8", b"\xea\xee\xf2"


def read(data: bytes) -> list[list[bytes]]:
    """Rows of pixels, RGB, of a PNG that is a byte a pixel, unfiltered (https://www.w3.org/TR/png-3/)."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    chunks: dict[bytes, bytes] = {}
    at = 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4:at + 8], data[at + 8:at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length) == (zlib.crc32(kind + body),)
        chunks[kind] = body
        at += 12 + length
    assert list(chunks) == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]
    width, height, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert rest == [8, 3, 0, 0, 0]
    palette = [chunks[b"PLTE"][at:at + 3] for at in range(0, len(chunks[b"PLTE"]), 3)]
    lines = zlib.decompress(chunks[b"IDAT"])
    assert len(lines) == height * (width + 1)
    assert all(lines[y * (width + 1)] == 0 for y in range(height))
    return [[palette[index] for index in lines[y * (width + 1) + 1:(y + 1) * (width + 1)]] for y in range(height)]


def runs(row: list[bytes]) -> list[bytes]:
    """Colours of a row from left to right, each run once, without the paper and what is written on it."""
    found = [colour for before, colour in zip([b"", *row], row, strict=False) if colour != before]
    return [colour for colour in found if colour in (ALLOW, DENY, ITSELF)]


async def example() -> Matrix:
    world = of_manifest(load([str(EXAMPLE)]))
    return await matrix(world, Selection(), Judge(world).explain)


async def test_each_flow_is_where_it_belongs() -> None:
    found = await example()
    expected = []
    for source in found.ports:
        row: list[bytes] = []
        for destination, ports in found.ports.items():
            if source == destination:
                row.append(ITSELF)
            else:
                row += [ALLOW if found.allowed(Flow(source, destination, port)) else DENY for port in ports]
        expected.append(row)
    seen: list[list[bytes]] = []
    for line in map(runs, read(png.picture(found))):
        if len(line) >= len(found.ports) and (not seen or line != seen[-1]):
            seen.append(line)
    # Rows that are alike stand below each other as one here.
    assert seen == [row for before, row in zip([[], *expected], expected, strict=False) if row != before]


async def test_what_is_written_can_be_read() -> None:
    """The sum at the bottom, dot by dot."""
    found = await example()
    pixels = read(png.picture(found))
    words = total(found)
    dots = {(n * png.STEP + x * png.DOT, y * png.DOT) for n, letter in enumerate(words)
            for y, row in enumerate(GLYPHS[letter]) for x, dot in enumerate(row) if dot == "#"}
    top = len(pixels) - MARGIN - SPACE - png.TALL
    for y in range(top - 20, top + 20):
        for x in range(len(pixels[0]) - len(words) * png.STEP):
            if all(y + b < len(pixels) and pixels[y + b][x + a] != PAPER for a, b in dots):
                return
    raise AssertionError(f"{words!r} is not written below")


def test_letters_are_of_one_size_and_no_two_alike() -> None:
    assert set("abcdefghijklmnopqrstuvwxyz0123456789-./:,_\\ ") == set(GLYPHS)
    assert all(len(rows) == HEIGHT and all(len(row) == WIDTH and set(row) <= {"#", "."} for row in rows)
               for rows in (*GLYPHS.values(), UNKNOWN))
    assert len({*GLYPHS.values(), UNKNOWN}) == len(GLYPHS) + 1


def test_what_is_too_large_is_refused_before_it_is_drawn() -> None:
    ports = {f"a/{number}": (PlayedPort("TCP", 1),) for number in range(400)}
    with pytest.raises(Exhausted, match="select fewer pods"):
        png.picture(Matrix(ports, {}))


def test_it_is_not_written_to_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with pytest.raises(InvalidArgument, match="> FILE"):
        Console().binary(b"x")


def test_the_command_makes_it() -> None:
    done = CliRunner().invoke(cli, ["policy", "matrix", "-f", str(EXAMPLE), "-o", "png"])
    assert done.exit_code == 0
    assert len(read(done.stdout_bytes)) > 300
