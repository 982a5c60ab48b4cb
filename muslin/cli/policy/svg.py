"""The matrix as a picture: an SVG of rectangles and texts, which every browser shows and every repository renders.

A cell is a pair, and has a stripe for each port of the receiver. What is allowed stands out; what is denied is pale. Of
every stripe the tip says the flow and what decided it.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import escape

from muslin.cli.play.flows import Flow
from muslin.cli.policy.matrix import Matrix, total

__all__ = ["CELL", "MARGIN", "SPACE", "STRIPE", "picture", "places"]

CELL, GAP, SPACE = 26, 2, 10
"""Pixels: of a cell's height and least width, between cells, and between namespaces."""
STRIPE = 11
"""Least width of a stripe."""
LETTER = 6.7
"""Width of a letter, at most, in the font and size of the names."""
MARGIN = 16

_STYLE = """\
text{font:11px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;fill:#24292f}
.small{fill:#57606a}
.allow{fill:#1a7f5a}.deny{fill:#f3dcd8}.self{fill:#eaeef2}"""


def picture(found: Matrix) -> str:
    """The SVG of a matrix."""
    return "\n".join(_Picture(found).lines()) + "\n"


class _Picture:
    """Where everything is."""

    def __init__(self, found: Matrix) -> None:
        self.found = found
        self.rows = list(found.ports)
        self.columns = [name for name, ports in found.ports.items() if ports]
        self.titles = {name: f"{name}  {' '.join(map(str, found.ports[name]))}" for name in self.columns}
        self.left = MARGIN + round(max(map(len, self.rows)) * LETTER) + 8
        slanted = max((len(title) for title in self.titles.values()), default=0) * LETTER
        self.top = MARGIN + 18 + round(slanted * 0.71)  # sine and cosine of 45 degrees
        self.x = places(self.columns, self.left, [max(CELL, STRIPE * len(found.ports[name])) for name in self.columns])
        self.y = places(self.rows, self.top, [CELL] * len(self.rows))
        right = max((x + wide for x, wide in self.x.values()), default=self.left)
        self.width = max(right + round(slanted * 0.71), self.left + round(len(total(found)) * LETTER)) + MARGIN
        self.bottom = max(y + high for y, high in self.y.values())

    def lines(self) -> Iterator[str]:
        height = self.bottom + 34 + MARGIN
        yield (f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" height="{height}" '
               f'viewBox="0 0 {self.width} {height}" role="img">')
        yield f"<title>Who reaches whom: {escape(total(self.found))}</title>"
        yield f"<style>{_STYLE}</style>"
        yield f'<rect width="{self.width}" height="{height}" fill="#ffffff"/>'
        yield _text(MARGIN, MARGIN + 8, "from \\ to", "small")
        for name, (x, wide) in self.x.items():
            yield (f'<text transform="translate({x + wide // 2},{self.top - 7}) rotate(-45)">'
                   f"{escape(self.titles[name])}</text>")
        for name, (y, high) in self.y.items():
            yield _text(self.left - 8, y + high // 2 + 4, name, "", end=True)
            for to, place in self.x.items():
                yield from self.cell(name, to, place, y)
        yield from self.legend()
        yield "</svg>"

    def cell(self, source: str, destination: str, place: tuple[int, int], y: int) -> Iterator[str]:
        x, wide = place
        if source == destination:
            yield f'<rect class="self" x="{x}" y="{y}" width="{wide}" height="{CELL}"/>'
            return
        ports = self.found.ports[destination]
        for number, port in enumerate(ports):
            flow = Flow(source, destination, port)
            begin, end = x + wide * number // len(ports), x + wide * (number + 1) // len(ports)
            kind = "allow" if self.found.allowed(flow) else "deny"
            steps = self.found.decided[flow].steps
            why = f"{steps[-1].policy} {steps[-1].rule}".strip() if steps else ""
            tip = f"{source} to {destination} {port}: {kind}{f' ({why})' if why else ''}"
            yield (f'<rect class="{kind}" x="{begin}" y="{y}" width="{end - begin - (number + 1 < len(ports))}" '
                   f'height="{CELL}"><title>{escape(tip)}</title></rect>')

    def legend(self) -> Iterator[str]:
        x, y = self.left, self.bottom + 14
        for kind, word in (("allow", "allowed"), ("deny", "denied"), ("self", "itself")):
            yield f'<rect class="{kind}" x="{x}" y="{y}" width="12" height="12"/>'
            yield _text(x + 17, y + 10, word, "small")
            x += 84
        yield _text(self.left, y + 28, total(self.found), "small")


def places(names: list[str], begin: int, sizes: list[int]) -> dict[str, tuple[int, int]]:
    """Beginning and size of each row or column; a wider gap lies between namespaces."""
    places: dict[str, tuple[int, int]] = {}
    before = None
    for name, size in zip(names, sizes, strict=True):
        space = name.partition("/")[0] if "/" in name else ""
        if before is not None:
            begin += SPACE if space != before else GAP
        places[name] = begin, size
        begin, before = begin + size, space
    return places


def _text(x: int, y: int, content: str, kind: str, *, end: bool = False) -> str:
    more = (f' class="{kind}"' if kind else "") + (' text-anchor="end"' if end else "")
    return f'<text x="{x}" y="{y}"{more}>{escape(content)}</text>'
