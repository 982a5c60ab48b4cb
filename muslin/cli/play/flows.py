"""What is probed, what was seen, what Explain says, and whether the two agree. Values without I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

__all__ = ["Flow", "Packet", "Observation", "Answer", "Finding", "Totals", "PlayedPort", "flows_between", "judge"]

UNPROBED_PROTOCOLS = frozenset({"SCTP"})
"""Protocols whose sockets many kernels lack: their flows are explained, and not probed."""


@dataclass(frozen=True, slots=True, order=True)
class PlayedPort:
    """A port that a played pod listens on."""

    protocol: str
    port: int

    def __str__(self) -> str:
        return str(self.port) if self.protocol == "TCP" else f"{self.port}/{self.protocol.lower()}"


@dataclass(frozen=True, slots=True, order=True)
class Flow:
    """A question: may `source` reach `port` of `destination`? Pods are named `namespace/name`."""

    source: str
    destination: str
    port: PlayedPort

    def __str__(self) -> str:
        return f"{self.source} -> {self.destination} port {self.port.port}/{self.port.protocol}"


class Packet(Enum):
    """What became of the packets of a flow."""

    PASSED = "allowed"
    LOST = "denied"
    BROKEN = "broken"  # neither: refused, or answered by somebody else
    UNPROBED = "not probed"


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen of a flow, and a detail for people."""

    packet: Packet
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What Explain says of a flow: the verdict, and its reason in a sentence."""

    allowed: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A flow with what was seen and what was said."""

    flow: Flow
    seen: Observation
    said: Answer

    @property
    def agree(self) -> bool:
        """Whether packets and Explain say the same. What broke agrees with nothing; what was not probed, with all."""
        match self.seen.packet:
            case Packet.PASSED:
                return self.said.allowed
            case Packet.LOST:
                return not self.said.allowed
            case Packet.BROKEN:
                return False
            case Packet.UNPROBED:
                return True

    def __str__(self) -> str:
        verdict = "allowed" if self.said.allowed else "denied"
        detail = f" ({self.seen.detail})" if self.seen.detail else ""
        return f"{self.flow}: packets {self.seen.packet.value}{detail}, Explain says {verdict}: {self.said.reason}"


@dataclass(frozen=True, slots=True)
class Totals:
    """The sums of a matrix."""

    probed: int
    allowed: int
    denied: int
    disagree: int
    unprobed: int

    def __str__(self) -> str:
        broken = self.probed - self.allowed - self.denied
        extra = f", {broken} broken" if broken else ""
        return (f"{self.probed} flows probed, {self.allowed} allowed, {self.denied} denied{extra}, "
                f"{self.disagree} disagree with Explain")

    @staticmethod
    def of(findings: Iterable[Finding]) -> Totals:
        """The sums of these findings."""
        items = list(findings)
        count = {packet: sum(item.seen.packet is packet for item in items) for packet in Packet}
        return Totals(len(items) - count[Packet.UNPROBED], count[Packet.PASSED], count[Packet.LOST],
                      sum(not item.agree for item in items), count[Packet.UNPROBED])


def flows_between(ports: Mapping[str, Sequence[PlayedPort]]) -> list[Flow]:
    """Every ordered pair of different pods, with each port of the second. A pod's traffic to itself never leaves it."""
    return [Flow(source, destination, port)
            for source in ports for destination, open_ports in ports.items() if source != destination
            for port in open_ports]


def judge(seen: Mapping[Flow, Observation], said: Mapping[Flow, Answer]) -> list[Finding]:
    """One finding for each flow that was explained; a flow nobody probed is marked so."""
    unprobed = Observation(Packet.UNPROBED)
    return [Finding(flow, seen.get(flow, unprobed), answer) for flow, answer in said.items()]
