"""`muslin trace`: packets that policy drops, as they happen and as they are counted; and what a pod is connected to."""

from __future__ import annotations

import datetime
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from google.protobuf.json_format import MessageToDict

from muslin.api.node.v1 import node_pb2, node_pb2_grpc
from muslin.api.policy.v1 import policy_pb2
from muslin.cli.client import TIMEOUT, target_of
from muslin.cli.console import Console
from muslin.cli.ipam.output import plain, structured
from muslin.cli.ipam.table import Column, Look, table
from muslin.errors import TimedOut
from muslin.rpc import channel, translated

__all__ = ["drops", "flows", "line", "listed", "pod"]

SESSION_SECONDS = 3600.0
"""Deadline of a stream; a watcher who stays longer begins another."""

_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}
_DIRECTIONS = {policy_pb2.DIRECTION_INGRESS: "into", policy_pb2.DIRECTION_EGRESS: "out of"}


def _end(address: str, port: int) -> str:
    if not port:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def line(workload: str, drop: node_pb2.TraceResponse) -> str:
    """A packet that was dropped, for people."""
    when = datetime.datetime.fromtimestamp(drop.unix_nanos / 1e9).strftime("%H:%M:%S.%f")[:-3]
    protocol = _PROTOCOLS.get(drop.protocol, f"protocol {drop.protocol}")
    rule = f" {drop.rule}" if drop.rule else ""
    source, destination = _end(drop.source, drop.source_port), _end(drop.destination, drop.destination_port)
    return (f"{when} {protocol} {source} -> {destination} {_DIRECTIONS.get(drop.cause.direction, 'at')} {workload}: "
            f"{drop.cause.reason}{rule}")


@asynccontextmanager
async def _node(run: Path) -> AsyncIterator[node_pb2_grpc.NodeAsyncStub]:
    """The node daemon of what runs there."""
    async with channel(target_of("node", run)) as node:
        yield node_pb2_grpc.NodeStub(node)


async def _told(run: Path, workload: str) -> AsyncIterator[node_pb2.TraceResponse]:
    """What is dropped of a pod, without end; an empty message wherever a stream begins."""
    async with _node(run) as stub:
        while True:
            call = stub.Trace(node_pb2.TraceRequest(workload=workload), timeout=SESSION_SECONDS)
            try:
                with translated(f"node: trace {workload}"):
                    async for drop in call:
                        yield drop
            except TimedOut:
                pass  # the session's own end
            finally:
                call.cancel()


async def pod(run: Path, workload: str, *, count: int, output: str) -> int:
    """Print what is dropped of a pod, as it happens, until `count` packets (0: for ever). Gives the exit code."""
    console = Console()
    seen = 0
    begun = False
    async for drop in _told(run, workload):
        if not drop.HasField("cause"):
            if not begun:
                console.say(f"watching {workload}: what policy drops is shown as it happens, at most 50 packets a "
                            "second for each cause; Ctrl-C ends it")
            begun = True
            continue
        if output == "json":
            print(json.dumps(MessageToDict(drop, preserving_proto_field_name=True)), flush=True)
        else:
            if drop.missed:
                console.say(f"{drop.missed} packets more are not shown")
            print(line(workload, drop), flush=True)
        seen += 1
        if seen == count:
            break
    return 0


async def drops(run: Path, workload: str, *, output: str) -> int:
    """Print what was dropped of a pod, or of all, by what decided. Gives the exit code."""
    async with _node(run) as stub:
        with translated("node: get counters"):
            answer = await stub.GetCounters(node_pb2.GetCountersRequest(workload=workload), timeout=TIMEOUT)
    if output == "json":
        print(json.dumps(MessageToDict(answer, preserving_proto_field_name=True).get("drops", [])))
        return 0
    if not answer.drops:
        Console().say("nothing was dropped")
    width = max((len(each.workload or each.interface) for each in answer.drops), default=0)
    for each in answer.drops:
        print(f"{each.workload or each.interface:<{width}} {each.packets:>10} packets {each.bytes:>12} bytes "
              f"{_DIRECTIONS.get(each.cause.direction, 'at')} it: {each.cause.reason}")
    return 0


_FLOWS = (Column("BEGUN BY"), Column("PEER", shrink=True, least=15), Column("PORT"), Column("CONNECTIONS", right=True),
          Column("SENT", right=True), Column("ANSWERED", right=True), Column("ALLOWED BY", shrink=True, least=20))


def listed(found: node_pb2.GetFlowsResponse, look: Look) -> str:
    """What a pod is connected to, for people. Bytes are shown where they are counted."""
    rows = []
    for each in found.flows:
        protocol = _PROTOCOLS.get(each.protocol, f"protocol {each.protocol}")
        sent, answered = ((str(each.sent_bytes), str(each.answered_bytes)) if found.accounted else ("-", "-"))
        rows.append(("pod" if each.direction == policy_pb2.DIRECTION_EGRESS else "peer", each.peer,
                     f"{each.port}/{protocol}" if each.port else protocol, str(each.connections), sent, answered,
                     f"{each.policy} {each.rule}".strip() or "-"))
    return table(_FLOWS, rows, look)


async def flows(run: Path, workload: str, *, output: str) -> int:
    """Print what a pod is connected to. Gives the exit code."""
    async with _node(run) as stub:
        with translated(f"node: flows of {workload}"):
            answer = await stub.GetFlows(node_pb2.GetFlowsRequest(workload=workload), timeout=TIMEOUT)
    if output == "json":
        print(structured(plain(answer), "json"))
        return 0
    console = Console()
    if not answer.flows:
        console.say(f"{workload} is connected to nothing")
        return 0
    console.result(listed(answer, Look.of_stdout()))
    if answer.left_out:
        console.say(f"{answer.left_out} more are not shown")
    if not answer.accounted:
        console.say("bytes are not counted: sysctl net.netfilter.nf_conntrack_acct=1 counts those of new connections")
    return 0
