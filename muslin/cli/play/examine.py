"""Probing pods and asking Explain about the same flows, until the two can be compared."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from muslin.cli.console import Console
from muslin.cli.play.flows import (
    UNPROBED_PROTOCOLS,
    Answer,
    Finding,
    Flow,
    Observation,
    Packet,
    flows_between,
    judge,
)
from muslin.cli.play.listeners import raise_file_limit
from muslin.cli.play.probes import Route, probe
from muslin.cli.play.record import PlayedPod

__all__ = ["examine", "compare"]

TIMEOUTS = (0.6, 1.5, 4.0)
"""Seconds that flows get in the first round, and in those after it, where a busy machine may have been the reason."""

Explain = Callable[[Iterable[Flow]], Awaitable[Mapping[Flow, Answer]]]
Probe = Callable[[Sequence[Flow], float], Awaitable[Mapping[Flow, Observation]]]


async def examine(pods: Sequence[PlayedPod], explain: Explain, console: Console,
                  before: Mapping[Flow, Answer] | None = None, elsewhere: Probe | None = None) -> list[Finding]:
    """One finding for each flow between the pods, from real packets and from Explain.

    `before` is what Explain said the last time, if these pods were examined a moment ago; `elsewhere` sends the
    packets of pods that are not on this machine.
    """
    raise_file_limit()
    places = {pod.key: pod for pod in pods}
    flows = flows_between({pod.key: pod.played_ports for pod in pods})

    async def send(chosen: Sequence[Flow], timeout: float) -> Mapping[Flow, Observation]:
        routes = [Route(flow, places[flow.source].sandbox.netns, places[flow.destination].address) for flow in chosen]
        stop = threading.Event()
        try:
            return await asyncio.to_thread(
                probe, routes, timeout, stopped=stop.is_set,
                progress=lambda done: console.progress(f"probing flows {done}/{len(routes)}"))
        finally:
            stop.set()

    return await compare(flows, explain, elsewhere or send, before or {})


async def compare(flows: Sequence[Flow], explain: Explain, send: Probe,
                  before: Mapping[Flow, Answer]) -> list[Finding]:
    """Explain and probe all flows, and look again, a bounded number of times, where the two differ for a reason.

    There are two such reasons. Packets that were lost may have been lost to a busy machine: they are sent again with
    more patience. And policy may have changed around the packet: where Explain, asked again, answers otherwise, or its
    answer is not that of a moment ago, the flow is sent again. Packets that passed where Explain says denied all along
    are never sent again: once is a hole.
    """
    said = dict(await explain(flows))
    moved = {flow for flow in said if flow in before and before[flow].allowed != said[flow].allowed}
    seen = dict(await send([flow for flow in flows if flow.port.protocol not in UNPROBED_PROTOCOLS], TIMEOUTS[0]))
    for timeout in TIMEOUTS[1:]:
        doubtful = [finding.flow for finding in judge(seen, said) if not finding.agree]
        if not doubtful:
            break
        now = await explain(doubtful)
        changed = moved | {flow for flow in doubtful if now[flow].allowed != said[flow].allowed}
        moved = set()
        said.update(now)
        again = [finding.flow for finding in judge(seen, {flow: said[flow] for flow in doubtful})
                 if not finding.agree and (finding.seen.packet is Packet.LOST or finding.flow in changed)]
        if not again:
            break
        seen.update(await send(again, timeout))
    return judge(seen, said)
