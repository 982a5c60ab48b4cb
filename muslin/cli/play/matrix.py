"""The matrix of who reaches whom, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from muslin.cli.play.flows import Finding, Flow, Packet, PlayedPort, Totals

__all__ = ["Style", "grid", "render", "summary", "as_json"]


@dataclass(frozen=True, slots=True)
class Style:
    """How marks are drawn: plain ASCII where the terminal can not do better, colour where it can."""

    unicode: bool = True
    colour: bool = False
    width: int = 0
    """Columns of the terminal, beyond which the matrix is cut into several; 0 is no limit."""

    def paint(self, mark: str) -> str:
        """The mark as it is printed."""
        text = mark if self.unicode else _ASCII[mark]
        return f"\033[{_COLOUR[mark]}m{text}\033[0m" if self.colour and mark in _COLOUR else text


MOST_SHOWN = 20
"""Disagreements that are written out."""

ALLOWED, DENIED, DISAGREES, SAID_ALLOWED, SAID_DENIED, SELF = "✓", "✗", "!", "a", "d", "·"
_ASCII = {ALLOWED: "+", DENIED: "x", DISAGREES: "!", SAID_ALLOWED: "a", SAID_DENIED: "d", SELF: "."}
_COLOUR = {ALLOWED: "32", DENIED: "31", DISAGREES: "1;37;41", SAID_ALLOWED: "2;32", SAID_DENIED: "2;31", SELF: "2"}


def mark(finding: Finding) -> str:
    """One character for a finding."""
    if not finding.agree:
        return DISAGREES
    match finding.seen.packet:
        case Packet.PASSED:
            return ALLOWED
        case Packet.UNPROBED:
            return SAID_ALLOWED if finding.said.allowed else SAID_DENIED
        case _:
            return DENIED


def render(ports: Mapping[str, Sequence[PlayedPort]], findings: Sequence[Finding], style: Style) -> str:
    """Rows from, columns to; a cell has one mark for each port of its column's pod, in the order the row names them.

    `ports` are the pods in the order they are shown. Pods without a port have no column.
    """
    marks = {finding.flow: mark(finding) for finding in findings}
    return "\n".join([*grid(ports, marks, style), legend(findings, style)])


def grid(ports: Mapping[str, Sequence[PlayedPort]], marks: Mapping[Flow, str], style: Style) -> list[str]:
    """The lines of `render`, given the mark of each flow, without the legend."""
    pods = list(ports)
    number = {pod: str(index) for index, pod in enumerate(pods, 1)}
    names = max([len("from"), *map(len, pods)])
    digits = len(str(len(pods)))
    listed = {pod: " ".join(map(str, ports[pod])) for pod in pods}
    shown = max([len("ports"), *map(len, listed.values())])
    heads = [f"{number[pod]:>{digits}} {pod:<{names}}  {listed[pod]:<{shown}}" for pod in pods]
    lines = []
    for columns in _cut([pod for pod in pods if ports[pod]], ports, number, style.width - digits - names - shown - 3):
        left = f"{'':>{digits}} {'from':<{names}}  {'ports':<{shown}}"
        lines.append(left.rstrip() if not columns else left + "".join(
            f"  {number[pod]:<{_wide(pod, ports, number)}}" for pod in columns).rstrip() + "  to")
        for pod, head in zip(pods, heads, strict=True):
            cells = (_cell(pod, to, ports[to], marks, _wide(to, ports, number), style) for to in columns)
            lines.append((head + "".join(cells)).rstrip())
        lines.append("")
    return lines


def legend(findings: Sequence[Finding], style: Style) -> str:
    """What the marks mean that occur."""
    meaning = {ALLOWED: "allowed", DENIED: "denied", DISAGREES: "packets and Explain disagree",
               SAID_ALLOWED: "allowed, says Explain (not probed)", SAID_DENIED: "denied, says Explain (not probed)"}
    used = {mark(finding) for finding in findings}
    return "   ".join(f"{style.paint(key)} {text}" for key, text in meaning.items() if key in used)


def summary(findings: Sequence[Finding]) -> str:
    """What disagrees, what was not probed, and the totals as the last line."""
    totals = Totals.of(findings)
    lines = [f"disagreement: {finding}" for finding in findings if not finding.agree]
    if len(lines) > MOST_SHOWN:
        lines[MOST_SHOWN:] = [f"and {len(lines) - MOST_SHOWN} more disagreements, which -o json lists"]
    if totals.unprobed:
        lines.append(f"{totals.unprobed} SCTP flows are shown as Explain has them; they are not probed")
    return "\n".join([*lines, str(totals)])


def as_json(ports: Mapping[str, Sequence[PlayedPort]], findings: Sequence[Finding],
            nodes: Mapping[str, str] = MappingProxyType({})) -> dict[str, object]:
    """The same for programs; `nodes` says of pods that are on several nodes on which."""
    totals = Totals.of(findings)
    return {
        "pods": [{"pod": pod, **({"node": nodes[pod]} if pod in nodes else {}),
                  "ports": [{"protocol": port.protocol, "port": port.port} for port in listed]}
                 for pod, listed in ports.items()],
        "flows": [{
            "from": item.flow.source, "to": item.flow.destination, "protocol": item.flow.port.protocol,
            "port": item.flow.port.port, "packets": item.seen.packet.value, "detail": item.seen.detail,
            "explain": "allowed" if item.said.allowed else "denied", "reason": item.said.reason, "agree": item.agree,
        } for item in findings],
        "probed": totals.probed, "allowed": totals.allowed, "denied": totals.denied, "disagree": totals.disagree,
        "not_probed": totals.unprobed,
    }


def _wide(pod: str, ports: Mapping[str, Sequence[PlayedPort]], number: Mapping[str, str]) -> int:
    return max(len(ports[pod]), len(number[pod]))


def _cut(pods: list[str], ports: Mapping[str, Sequence[PlayedPort]], number: Mapping[str, str],
         room: int) -> list[list[str]]:
    """Columns in groups that fit into the room; one group if there is no limit, never an empty one beside others."""
    groups: list[list[str]] = [[]]
    used = len("  to")
    for pod in pods:
        wide = _wide(pod, ports, number) + 2
        if room > 0 and groups[-1] and used + wide > room:
            groups.append([])
            used = len("  to")
        groups[-1].append(pod)
        used += wide
    return groups


def _cell(source: str, destination: str, ports: Sequence[PlayedPort], marks: Mapping[Flow, str], wide: int,
          style: Style) -> str:
    flows = [Flow(source, destination, port) for port in ports]
    drawn = [SELF] if source == destination else [marks.get(flow, " ") for flow in flows]
    return "  " + "".join(style.paint(one) if one != " " else one for one in drawn) + " " * (wide - len(drawn))
