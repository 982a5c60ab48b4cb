"""`python -m tests.integration.node.measure`: what wiring, deletion and transactions cost here; needs root.

Each figure is the minimum, median and maximum of some tries in milliseconds; trust the ratios.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import grpc

from muslin.api.cni.v1 import cni_pb2
from muslin.api.ipam.v1 import ipam_pb2_grpc
from services.node import actual
from services.node.attachment import Attachment
from services.node.enforce import table
from services.node.enforce.parts import Owner
from services.node.enforce.program import Action, Endpoint, Group, Kind, Policy, Rule, Update, member
from services.node.enforce.state import Claim, Event, Release, State, applied
from services.node.netlink.connection import Connection
from services.node.nft.connection import Nftables
from services.node.nft.messages import Message
from services.node.wiring import Wiring, unwire, wire
from tests.support.netns import namespace, namespaces

PREFIXES = ("cali", "mus")


def say(what: str, seconds: Iterable[float]) -> None:
    values = sorted(1000 * s for s in seconds)
    print(f"{what:<72} {values[0]:8.2f} {statistics.median(values):8.2f} {values[-1]:8.2f}", flush=True)  # noqa: T201


def timed(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def wiring(count: int) -> None:
    """Pods one after the other; deletion alone and together."""
    with namespace("host") as host, Connection(host) as connection, namespaces(count, "pod") as pods:
        planned = [Wiring(Attachment("net", f"c{n}", "eth0"), str(pod), f"mus{n}", f"02:00:00:00:00:{n:02x}",
                          (ipaddress.IPv4Address("10.0.0.1") + n,)) for n, pod in enumerate(pods)]
        say("wire one pod", [timed(partial(wire, connection, w)) for w in planned])
        owned = [(w.attachment, w.host_interface) for w in planned]
        say("delete one veth", [timed(partial(unwire, connection, [o])) for o in owned[:5]])
        say(f"delete {count - 5} veths together", [timed(lambda: unwire(connection, owned[5:]))])


def program(groups: int, members: int, policies: int, rules: int, endpoints: int) -> list[Event]:
    """Endpoints with five policies each, whose rules refer to one group after the other."""
    made = tuple(Group(f"g{g}", Kind.ADDRESS, frozenset((10 << 24 | g << 10 | m).to_bytes(4, "big")
                                                        for m in range(members))) for g in range(groups))
    listed = tuple(Policy(f"default/p{p}", f"p{p}", ingress=tuple(
        Rule(Action.ALLOW, 6, f"g{(p + r) % groups}" if groups else "", ports=((8000 + r, 8000 + r),),
             path=f"spec.ingress[{r}]") for r in range(rules))) for p in range(policies))
    return [*(Claim(pod(n).attachment, f"mus{n}") for n in range(endpoints)),
            Update(1, True, made, (), listed, tuple(pod(n, policies) for n in range(endpoints)))]


def pod(number: int, policies: int = 0) -> Endpoint:
    tier = tuple(f"default/p{(number + i) % policies}" for i in range(5)) if policies else ()
    return Endpoint(Attachment("net", f"c{number}", "eth0"), f"mus{number}",
                    (ipaddress.IPv4Address("172.16.0.0") + number,), ingress=(tier,) if tier else ())


@contextmanager
def kernel() -> Iterator[Nftables]:
    with namespace("nft") as path, Nftables(path) as nft:
        yield nft


def transactions(groups: int, members: int, policies: int, rules: int, endpoints: int) -> None:
    """The whole, a restart, and small changes of it: computed and committed."""
    print(f"\n{groups} groups x {members} members, {policies} policies x {rules} rules, {endpoints} pods")  # noqa: T201
    events = program(groups, members, policies, rules, endpoints)
    state = State()

    def take(*taken: Event) -> list[list[Message]]:
        nonlocal state
        old = state
        changed: set[Owner] = set()
        for event in taken:
            state, owners = applied(state, event)
            changed |= owners
        return table.transition((old.parts[o] for o in changed if o in old.parts),
                                (state.parts[o] for o in changed if o in state.parts))

    with kernel() as nft:
        def enforce(*taken: Event) -> float:
            def body() -> None:
                for messages in take(*taken):
                    nft.commit(messages)
            return timed(body)

        say("compute the whole", [timed(lambda: take(*events))])
        whole = table.replacement(state.parts.values(), PREFIXES)
        say(f"commit the whole: {len(whole)} messages", [timed(lambda: nft.commit(whole)) for _ in range(3)])

        def repair() -> None:
            there = actual.read(nft)
            assert there is not None
            for messages in table.repair(there, state.parts.values(), PREFIXES):
                nft.commit(messages)
        say("read and repair the whole, as at a restart", [timed(repair) for _ in range(3)])
        if groups:
            say("one member more in one group", [
                enforce(Update(2, members=(("g0", frozenset({member(f"192.168.0.{n}")}), frozenset()),)))
                for n in range(1, 20)])
        say("one policy rewritten", [
            enforce(Update(3, policies=(Policy("default/p0", "p0", ingress=(Rule(Action.ALLOW, 6),) * (1 + n % 2)),)))
            for n in range(20)])
        say("one pod gone", [enforce(Release(pod(n).attachment)) for n in range(10)])
        say("one pod back, its stage known or not", [enforce(Claim(pod(n).attachment, f"mus{n}")) for n in range(10)])


SERVICE = """
import asyncio, sys, grpc, uvloop
from muslin import rpc
from muslin.api.cni.v1 import cni_pb2
from muslin.api.ipam.v1 import ipam_pb2_grpc
from services.node.forward import Forwarder

class Plugin(ipam_pb2_grpc.PluginServicer):
    async def Add(self, request, context):
        return cni_pb2.AddResponse(result=request.call.config)

async def main():
    server = grpc.aio.server(interceptors=[rpc.interceptor.Around()] if len(sys.argv) > 2 else [])
    if len(sys.argv) > 2:
        server.add_generic_rpc_handlers((Forwarder("n1", {"muslin.ipam.v1": rpc.channel(sys.argv[2])}),))
    else:
        ipam_pb2_grpc.add_PluginServicer_to_server(Plugin(), server)
    server.add_insecure_port(sys.argv[1])
    await server.start()
    await server.wait_for_termination()

uvloop.run(main())
"""


def used(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def passing(directory: str) -> None:
    """A call to a service, and the same passed on by the node's forwarder with all that surrounds it, in turn."""
    print()  # noqa: T201
    direct, through = (f"unix:{directory}/{name}.sock" for name in ("service", "node"))
    processes = [await asyncio.create_subprocess_exec(sys.executable, "-c", SERVICE, *arguments)
                 for arguments in ((direct,), (through, direct))]
    channels = {"direct": grpc.aio.insecure_channel(direct), "passed on": grpc.aio.insecure_channel(through)}
    request = cni_pb2.AddRequest(call=cni_pb2.Call(container_id="c", config=bytes(400)))
    spent: dict[str, list[float]] = {name: [] for name in channels}
    try:
        for number in range(2500):
            for name, channel in channels.items():
                stub: ipam_pb2_grpc.PluginAsyncStub = ipam_pb2_grpc.PluginStub(channel)
                began = time.perf_counter()
                await stub.Add(request, timeout=10, wait_for_ready=True)
                if number >= 500:
                    spent[name].append(time.perf_counter() - began)
        for name, seconds in spent.items():
            say(f"a call, {name}", seconds)
        say("CPU of the daemon for each call, its start included", [used(processes[1].pid) / 2500])
    finally:
        for channel in channels.values():
            await channel.close()
        for process in processes:
            process.terminate()
            await process.wait()


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(passing(directory))
    print(f"{'milliseconds':<72} {'min':>8} {'median':>8} {'max':>8}")  # noqa: T201
    wiring(45)
    transactions(0, 0, 100, 5, 100)
    transactions(1, 10_000, 100, 5, 100)
    for size, members in ((100, 20), (500, 50), (2000, 100)):
        transactions(size, members, size, 10, 100)


if __name__ == "__main__":
    main()
