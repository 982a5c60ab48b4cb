"""`muslin policy matrix`: who reaches whom on which ports, as text and as values."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from muslin.api.policy.v1 import policy_pb2
from muslin.cli.play.flows import Flow, PlayedPort, flows_between
from muslin.cli.play.matrix import ALLOWED, DENIED, Style, grid
from muslin.cli.policy.explaining import Explain, verdict
from muslin.cli.policy.world import World
from muslin.errors import Exhausted, InvalidArgument, NotFound
from muslin.selectors import Selector

__all__ = ["Matrix", "Selection", "matrix", "plain", "text"]

MOST_FLOWS = 200_000
"""Flows that a matrix may have: 200 pods with five ports each."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which pods a matrix is of; empty parts select all."""

    namespaces: tuple[str, ...] = ()
    selector: Selector | None = None
    ports: tuple[PlayedPort, ...] = ()
    """Asked about at every pod, instead of the ports that each is known to serve."""
    outside: tuple[str, ...] = ()
    """Addresses that are senders, too."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """Senders and receivers with their ports, and what became of each flow."""

    ports: Mapping[str, tuple[PlayedPort, ...]]
    """By pod or address, in the order that they are shown. Who has no ports only sends."""
    decided: Mapping[Flow, policy_pb2.Explanation]

    def allowed(self, flow: Flow) -> bool:
        """Whether a flow passes."""
        return self.decided[flow].verdict == policy_pb2.VERDICT_ALLOW

    @property
    def silent(self) -> list[str]:
        """Pods that nobody is asked about, because no port of theirs is known."""
        return [name for name, listed in self.ports.items() if not listed and "/" in name]


async def matrix(world: World, selection: Selection, explain: Explain) -> Matrix:
    """Ask about every pair.

    Raises:
        NotFound: no pod is selected.
        InvalidArgument: an address is none.
        Exhausted: it would be too large.
    """
    known = {f"{record.namespace}/{record.pod}": record for record in world.endpoints if record.pod}
    pods = [name for name, record in known.items() if record.addresses
            and (not selection.namespaces or record.namespace in selection.namespaces)
            and (selection.selector is None or selection.selector.matches(dict(record.labels)))]
    if not pods:
        raise NotFound("no pod is selected; see: muslin endpoint list")
    order = {space: place for place, space in enumerate(dict.fromkeys(known[name].namespace for name in pods))}
    ports: dict[str, tuple[PlayedPort, ...]] = dict.fromkeys(map(_outside, selection.outside), ())
    for name in sorted(pods, key=lambda name: order[known[name].namespace]):
        ports[name] = selection.ports or world.ports.get(name, ())
    flows = flows_between(ports)
    if len(flows) > MOST_FLOWS:
        raise Exhausted(f"{len(flows)} flows are more than {MOST_FLOWS}; select fewer pods with -n or -l, or "
                        "name --port")
    found = await explain([policy_pb2.Flow(
        source=policy_pb2.Peer(pod=flow.source) if "/" in flow.source else policy_pb2.Peer(address=flow.source),
        destination=policy_pb2.Peer(pod=flow.destination), protocol=flow.port.protocol, port=flow.port.port)
        for flow in flows])
    return Matrix(ports, dict(zip(flows, found, strict=True)))


def _outside(address: str) -> str:
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        raise InvalidArgument(f"--outside {address!r} is not an IP address") from None


def text(found: Matrix, style: Style) -> str:
    """Rows from, columns to; one mark for each port of a column."""
    marks = {flow: ALLOWED if found.allowed(flow) else DENIED for flow in found.decided}
    legend = "   ".join(f"{style.paint(mark)} {word}" for mark, word in ((ALLOWED, "allowed"), (DENIED, "denied")))
    return "\n".join([*grid(found.ports, marks, style), f"{legend}   {total(found)}"])


def total(found: Matrix) -> str:
    """The sums."""
    allowed = sum(map(found.allowed, found.decided))
    return f"{len(found.decided)} flows, {allowed} allowed, {len(found.decided) - allowed} denied"


def plain(found: Matrix) -> dict[str, object]:
    """The same for programs, each flow with the step that decided last."""
    return {
        "pods": [{"pod": name, "ports": [_port(port) for port in listed]} for name, listed in found.ports.items()],
        "flows": [{"from": flow.source, "to": flow.destination, **_port(flow.port),
                   "verdict": verdict(explanation.verdict), **_last(explanation.steps)}
                  for flow, explanation in found.decided.items()],
    }


def _port(port: PlayedPort) -> dict[str, object]:
    return {"protocol": port.protocol, "port": port.port}


def _last(steps: Sequence[policy_pb2.Step]) -> dict[str, object]:
    step = steps[-1] if steps else policy_pb2.Step()
    return {"policy": step.policy, "rule": step.rule, "reason": step.reason}
