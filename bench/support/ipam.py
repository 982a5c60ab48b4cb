"""Addresses: latency, throughput, and what a full store costs; beside bare transactions on the same etcd.

A bare transaction compares and puts two records of the size that an address takes: a half full block and a handle.
All that is compared runs in turn, so that other load on the machine meets all alike. Ratios of latencies are of
medians, ratios of throughput are the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from ipaddress import ip_address, ip_network
from itertools import count

import grpc
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.support.figures import row
from bench.support.ipam_store import BLOCK, fill, request
from bench.support.processes import peak
from muslin import rpc
from muslin.api.ipam.v1 import ipam_pb2, ipam_pb2_grpc
from muslin.etcd import Compare, Etcd, Put, absent, keys, unchanged
from muslin.etcd.binary import etcd_version, find_etcd
from muslin.ipam import Addresses
from muslin.rpc import Readiness
from muslin.rpc.tunnel import Tunnel
from services.ipam import handles
from services.ipam.handles import Handle, Request
from services.ipam.server import IpamApp
from tests.support.etcd import EtcdServer
from tests.support.service import Service

_MAIN, _SECOND = "10.0.0.0/12", "172.16.0.0/16"
_COMMON = "/bench/common"
_FULL = 1_000
"""Full blocks in the first pool of the full store, of 1,024."""

Operation = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Counts:
    """How much is measured."""

    rounds: int
    alone: int
    """Operations one at a time, in a round."""
    together: int
    """Operations 64 at a time, in a round: a node's blocks hold 1,280."""
    nodes: int
    """New nodes, in each of two states of the full store; 24 blocks are left in its first pool."""
    addresses: int
    """In the full store."""


FULL = Counts(rounds=6, alone=250, together=1280, nodes=20, addresses=100_000)
QUICK = Counts(rounds=2, alone=150, together=1280, nodes=20, addresses=100_000)


@dataclass(frozen=True)
class Line:
    """A line of the table."""

    what: str
    ours: str
    beside: str
    ratio: float
    target: float | None
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the target is; None if there is none."""
        if self.target is None:
            return None
        return self.ratio >= self.target if self.at_least else self.ratio <= self.target


async def timed(operation: Operation, total: int) -> list[float]:
    """Seconds that each of `total` operations takes, one at a time."""
    taken = []
    for _ in range(total):
        begun = time.perf_counter()
        await operation()
        taken.append(time.perf_counter() - begun)
    return taken


async def throughput(operation: Operation, total: int, at_once: int = 64) -> float:
    """Operations a second, with as many at any time."""
    left = iter(range(total))

    async def worker() -> None:
        for _ in left:
            await operation()

    begun = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    return total / (time.perf_counter() - begun)


class Side:
    """An etcd, its service, and their clients."""

    def __init__(self, store: EtcdServer, service: Service, etcd: Etcd, channel: grpc.aio.Channel,
                 addresses: Addresses, tunnel: Tunnel) -> None:
        self.store, self.service, self.etcd = store, service, etcd
        self._addresses, self._tunnel = addresses, tunnel
        self.stub: ipam_pb2_grpc.IpamAsyncStub = ipam_pb2_grpc.IpamStub(channel)
        self._health = health_pb2_grpc.HealthStub(channel)
        self.names = count()
        self.sizes = 0, 0
        self._common: tuple[Compare, ...] = ()

    async def assign(self, node: str) -> str:
        """One address for an attachment that had none."""
        answer = await self.stub.Assign(request(f"{next(self.names):064x}", node), timeout=30)
        return str(answer.handle.addresses[0])

    async def through(self, node: str) -> str:
        """The same call through a tunnel, as the node daemon makes them."""
        asked = request(f"{next(self.names):064x}", node).SerializeToString()
        answer = await self._tunnel.call("/muslin.ipam.v1.Ipam/Assign", asked, timeout=30)
        return str(ipam_pb2.AssignResponse.FromString(answer.response).handle.addresses[0])

    async def stream(self, node: str) -> str:
        """The same by `Ipam.Batch`: all that ask at once share one stream."""
        handle = await self._addresses.assign(request(f"{next(self.names):064x}", node), 30)
        return str(handle.addresses[0])

    @asynccontextmanager
    async def inside(self) -> AsyncIterator[Callable[[str], Awaitable[object]]]:
        """The same as `assign`, from an allocator in this process, as the bare transactions are."""
        app, readiness, ready = IpamApp([self.store.endpoint], _MAIN), Readiness(), asyncio.Event()
        readiness.listeners.append(lambda: ready.set() if readiness.ready else None)
        await app.start(readiness)
        await ready.wait()

        async def assign(node: str) -> Handle:
            attachment = request(f"{next(self.names):064x}", node).attachment
            return await app.allocator.assign(
                Request(handles.of(attachment, node, "bench", attachment.container_id)), 30)

        try:
            yield assign
        finally:
            await app.stop()

    async def call(self) -> None:
        """A call to the service that has it do nothing."""
        await self._health.Check(health_pb2.HealthCheckRequest(), timeout=30)  # type: ignore[attr-defined]  # set late

    async def measure_sizes(self) -> None:
        """Learn how large the records of a half full block and of a handle are."""
        for _ in range(BLOCK // 2):
            await self.assign("sizes")
        found = [max(len(item.value) for item in (await self.etcd.range(prefix)).items)
                 for prefix in (keys.IPAM_BLOCKS, keys.IPAM_HANDLES)]
        self.sizes = found[0], found[1]
        await self.etcd.put(_COMMON, b"")
        record = await self.etcd.get(_COMMON)
        assert record
        self._common = unchanged(_COMMON, record.mod_revision), absent(_COMMON + "/none")

    async def bare(self) -> None:
        """A transaction of the same size as an Assign's, of an address from a block that is half full.

        That compares and writes the records of a block and a handle, and compares those of pool and reservations.
        """
        name = f"/bench/{next(self.names):064x}"
        block, handle = self.sizes
        done = await self.etcd.txn([absent(name), absent(name + "/h"), *self._common],
                                   [Put(name, b"b" * block), Put(name + "/h", b"h" * handle)], timeout=30)
        assert done.succeeded


@asynccontextmanager
async def side() -> AsyncIterator[Side]:
    """Processes and clients, ended at the end."""
    with EtcdServer() as store, Service("ipam", "--etcd", store.endpoint, "--log-level", "warning",
                                        "--pool", _MAIN) as service:
        async with AsyncExitStack() as stack:
            etcd = await stack.enter_async_context(Etcd([store.endpoint]))
            channel = rpc.channel(service.target)
            stack.push_async_callback(channel.close)
            addresses = await stack.enter_async_context(Addresses(service.target))
            tunnel = Tunnel(channel)
            stack.push_async_callback(tunnel.aclose)
            yield Side(store, service, etcd, channel, addresses, tunnel)


def milliseconds(seconds: list[float]) -> float:
    """Median."""
    return statistics.median(seconds) * 1000


async def against_bare(empty: Side, counts: Counts) -> list[Line]:
    """Latency and throughput beside bare transactions."""
    alone: dict[str, list[float]] = {"bare": [], "ours": [], "stream": []}
    rates: dict[str, list[float]] = {kind: [] for kind in (
        "bare", "one", "many", "tunnel", "stream", "stream many", "inside", "inside many", "call")}
    turns = count()
    await empty.stream("sizes")  # its connection is new

    async def once(turn: int) -> None:
        alone["bare"] += await timed(empty.bare, counts.alone)
        alone["ours"] += await timed(lambda: empty.assign(f"alone{turn}"), counts.alone)
        alone["stream"] += await timed(lambda: empty.stream(f"alone-stream{turn}"), counts.alone)
        rates["stream"].append(await throughput(lambda: empty.stream(f"stream{turn}"), counts.together))
        rates["bare"].append(await throughput(empty.bare, counts.together))
        rates["stream many"].append(await throughput(
            lambda: empty.stream(f"streams{next(turns) % 64}"), counts.together))
        rates["one"].append(await throughput(lambda: empty.assign(f"one{turn}"), counts.together))
        rates["tunnel"].append(await throughput(lambda: empty.through(f"tunnel{turn}"), counts.together))
        rates["many"].append(await throughput(
            lambda: empty.assign(f"many{next(turns) % 64}"), counts.together))
        async with empty.inside() as assign:
            rates["inside"].append(await throughput(lambda: assign(f"in{turn}"), counts.together))
            rates["inside many"].append(await throughput(
                lambda: assign(f"many{next(turns) % 64}"), counts.together))
        rates["call"].append(await throughput(empty.call, counts.together))

    for turn in range(counts.rounds):
        await once(turn)
    bare, ours, stream = (milliseconds(alone[kind]) for kind in ("bare", "ours", "stream"))
    median = {kind: statistics.median(values) for kind, values in rates.items()}

    def rate(what: str, kind: str, beside: str, than: str, target: float | None) -> Line:
        ratio = statistics.median(mine / theirs for mine, theirs in zip(rates[kind], rates[than], strict=True))
        return Line(what, f"{median[kind]:.0f}/s", f"{beside} {median[than]:.0f}/s", ratio, target, at_least=True)

    return [
        Line("Assign, one at a time, p50", f"{ours:.2f} ms", f"transaction {bare:.2f} ms", ours / bare, 2),
        Line("  by stream", f"{stream:.2f} ms", f"transaction {bare:.2f} ms", stream / bare, 2),
        rate("64 at once by stream, one node", "stream", "transactions", "bare", 2),
        rate("64 at once by stream, 64 nodes", "stream many", "transactions", "bare", 0.8),
        rate("  one node, a call each", "one", "transactions", "bare", None),
        rate("  one node, a call each, by tunnel", "tunnel", "transactions", "bare", None),
        rate("  64 nodes, a call each", "many", "transactions", "bare", None),
        rate("  one node, a call each, of what gRPC can", "one", "health checks", "call", None),
        rate("  one node, inside the process", "inside", "transactions", "bare", None),
        rate("  64 nodes, inside the process", "inside many", "transactions", "bare", None)]


async def full_store(empty: Side, full: Side, counts: Counts) -> list[Line]:
    """Start, memory and latency with many addresses given."""
    await full.stub.CreatePool(ipam_pb2.CreatePoolRequest(pool=ipam_pb2.Pool(name="a", cidr=_SECOND)), timeout=10)
    await fill(full.etcd, full.stub, {"a": _FULL, "default": -(-counts.addresses // BLOCK) - _FULL})
    starts = []
    for _ in range(3):
        full.service.terminate()
        begun = time.perf_counter()
        await asyncio.to_thread(full.service.start)
        starts.append(time.perf_counter() - begun)
    taken: dict[str, list[float]] = {kind: [] for kind in ("empty", "some", "none", "alone", "alone full")}
    numbers = count()

    async def first(where: Side) -> str:
        return await where.assign(f"new{next(numbers)}")

    async def compare(kind: str) -> None:
        for _ in range(counts.nodes):
            taken["empty"] += await timed(lambda: first(empty), 1)
            taken[kind] += await timed(lambda: first(full), 1)

    await first(full)  # its connection is new
    await compare("some")
    while ip_address(await first(full)) in ip_network(_SECOND):
        pass
    await compare("none")
    for _ in range(counts.rounds):
        taken["alone"] += await timed(lambda: empty.assign("alone"), counts.alone)
        taken["alone full"] += await timed(lambda: full.assign("alone"), counts.alone)
    memory, start = peak(full.service.pid), statistics.median(starts)
    p50 = {kind: milliseconds(values) for kind, values in taken.items()}
    base = f"empty {p50['empty']:.2f} ms"
    return [
        Line("new node, 1,000 blocks full", f"{p50['some']:.2f} ms", base, p50["some"] / p50["empty"], 5),
        Line("new node, first pool full", f"{p50['none']:.2f} ms", base, p50["none"] / p50["empty"], 5),
        Line("100,000 addresses, start to ready", f"{start:.2f} s", "", start, 3),
        Line("100,000 addresses, memory", f"{memory:.0f} MB", "", memory, 300),
        Line("100,000 addresses, Assign p50", f"{p50['alone full']:.2f} ms", f"empty {p50['alone']:.2f} ms",
             p50["alone full"] / p50["alone"], 1.3)]


async def measure(counts: Counts) -> list[Line]:
    """All lines of the table."""
    async with side() as empty, side() as full:
        await empty.measure_sizes()
        lines = await against_bare(empty, counts)
        return [*lines, *await full_store(empty, full, counts)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench/ipam.py", description="What addresses cost.")
    parser.add_argument("--quick", action="store_true", help="under a minute")
    lines = uvloop.run(measure(QUICK if parser.parse_args().quick else FULL))
    widths = (42, 12, 24, 9, 9, 8)
    print(row(("", "ours", "beside", "ratio", "target", ""), widths))
    for line in lines:
        target = "" if line.target is None else f"{'>=' if line.at_least else '<='} {line.target:g}"
        print(row((line.what, line.ours, line.beside, f"{line.ratio:.2f}", target,
                   {None: "", True: "met", False: "missed"}[line.met]), widths))
    print(json.dumps({"bench": "ipam", "etcd": ".".join(map(str, etcd_version(find_etcd()))),
                      "lines": [asdict(line) | {"met": line.met} for line in lines]}))


if __name__ == "__main__":
    main()
