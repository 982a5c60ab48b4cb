"""The cost of a change over the size of the cluster as a picture: an SVG, both axes logarithmic."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

__all__ = ["plot"]

WIDTH, HEIGHT = 780, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 240, 40, 48
"""Pixels around the plot."""
_COLOURS = ("#1a7f5a", "#0969da", "#8250df", "#bf3989", "#bc4c00", "#57606a")
_STYLE = """\
text{font:11px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;fill:#24292f}
.small{fill:#57606a}.grid{stroke:#d0d7de;stroke-width:1}.aim{stroke:#cf222e;stroke-dasharray:4 3}
polyline{fill:none;stroke-width:2}"""
_AIM = 50.0
"""Milliseconds."""


def plot(found: Sequence[Mapping[str, Any]], kinds: Mapping[str, str]) -> str:
    """The SVG: of each kind of change a line of medians, with whiskers up to the 99th percentile.

    In CPU time, which is all that the core takes, and does not depend on what else the machine does.
    """
    return "\n".join(_Plot(found, kinds).lines()) + "\n"


class _Plot:
    """Where everything is."""

    def __init__(self, found: Sequence[Mapping[str, Any]], kinds: Mapping[str, str]) -> None:
        self.found, self.kinds = sorted(found, key=lambda each: each["shape"]["pods"]), kinds
        self.sizes = [int(each["shape"]["pods"]) for each in self.found]
        values = [each[kind]["cpu"][part] for each in found for kind in kinds for part in ("p50_ms", "p99_ms")]
        self.least = math.floor(math.log10(min(values)))
        self.most = math.ceil(math.log10(max(*values, _AIM)))

    def x(self, pods: int) -> float:
        first, last = (math.log10(each) for each in (self.sizes[0], max(self.sizes[-1], self.sizes[0] * 10)))
        return LEFT + (math.log10(pods) - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (math.log10(value) - self.least) / (self.most - self.least) * (HEIGHT - TOP - BOTTOM)

    def lines(self) -> Iterator[str]:
        yield (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
               f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img">')
        yield "<title>Cost of one change over the size of the cluster</title>"
        yield f"<style>{_STYLE}</style>"
        yield f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
        title = "ms of CPU from a change to the messages for all nodes: p50, whiskers to p99"
        yield f'<text x="{LEFT}" y="20">{title}</text>'
        yield f'<text class="small" x="{WIDTH - RIGHT + 10}" y="20">(nodes with a message)</text>'
        yield from self.axes()
        ends: list[float] = []
        for colour, (kind, what) in zip(_COLOURS, self.kinds.items(), strict=True):
            yield from self.line(kind, what, colour, ends)
        yield "</svg>"

    def axes(self) -> Iterator[str]:
        right = WIDTH - RIGHT
        for power in range(self.least, self.most + 1):
            y = self.y(10.0 ** power)
            yield f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>'
            yield f'<text class="small" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{10.0 ** power:g}</text>'
        for pods, each in zip(self.sizes, self.found, strict=True):
            x = self.x(pods)
            yield f'<text class="small" x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{pods:,}</text>'
            yield (f'<text class="small" x="{x:.1f}" y="{HEIGHT - BOTTOM + 34}" text-anchor="middle">'
                   f'{each["shape"]["nodes"]:,} nodes</text>')
        y = self.y(_AIM)
        yield f'<line class="aim" x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>'
        yield f'<text class="small" x="{LEFT + 4}" y="{y - 4:.1f}">aim for p99: {_AIM:g} ms</text>'

    def line(self, kind: str, what: str, colour: str, ends: list[float]) -> Iterator[str]:
        points = [(self.x(pods), each[kind]["cpu"]) for pods, each in zip(self.sizes, self.found, strict=True)]
        nodes = [each[kind]["nodes"] for each in self.found]
        listed = " ".join(f"{x:.1f},{self.y(value['p50_ms']):.1f}" for x, value in points)
        yield f'<polyline points="{listed}" stroke="{colour}"/>'
        for (x, value), number in zip(points, nodes, strict=True):
            low, high = self.y(value["p50_ms"]), self.y(value["p99_ms"])
            tip = f"{what}: p50 {value['p50_ms']:.2f} ms, p99 {value['p99_ms']:.2f} ms, {number:,} nodes"
            yield f'<line x1="{x:.1f}" y1="{low:.1f}" x2="{x:.1f}" y2="{high:.1f}" stroke="{colour}" opacity="0.4"/>'
            yield f'<circle cx="{x:.1f}" cy="{low:.1f}" r="3" fill="{colour}"><title>{escape(tip)}</title></circle>'
        label = self.y(points[-1][1]["p50_ms"]) + 4
        while any(abs(label - other) < 13 for other in ends):  # names that would lie on each other
            label -= 1
        ends.append(label)
        yield (f'<text x="{points[-1][0] + 10:.1f}" y="{label:.1f}" style="fill:{colour}">{escape(what)} '
               f'({nodes[-1]:,})</text>')
