"""Throughput of one TCP stream from pod to pod across two nodes: Muslin's ways against the same made by ip(8).

    .venv/bin/python -m bench.support.across [--quick]

Each way is a pair of pods on two nodes of one fabric of namespaces: their veths, the nodes' veths, a bridge between.
`plain` and `plain VXLAN` have routes and a device made by hand, no policy and no rule of nf_tables. All run in turn,
round by round; the figure is the median of the rounds, and a ratio that of rounds side by side.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.support.figures import row
from tests.support.fabric import Cluster, Fabric, cluster, fabric, links, until
from tests.support.netns import command, namespace

PORT = 7000
AIM = 0.9

_RECEIVE = """
import socket, sys, time
server = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
client, _ = server.accept()
buffer, total, began = bytearray(1 << 20), 0, None
while (size := client.recv_into(buffer)):
    began = began or time.perf_counter()
    total += size
print(total, time.perf_counter() - began, time.process_time(), flush=True)
"""
_SEND = """
import socket, sys, time
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as client:
    data, end = bytes(1 << 20), time.perf_counter() + float(sys.argv[3])
    while time.perf_counter() < end:
        client.sendall(data)
print(time.process_time())
"""

Pair = tuple[Path, Path, str]
"""Namespaces of sender and receiver, and the receiver's address."""


@dataclass(frozen=True, slots=True)
class Figure:
    """Bytes that arrive: in a second by the clock, and in a second of CPU of both ends, the kernel's work included.

    The second says more on a machine that does other things meanwhile.
    """

    clock: float
    cpu: float


def throughput(pair: Pair, seconds: float) -> Figure:
    """One stream."""
    source, target, address = pair
    inside = ["nsenter", f"--net={target}", sys.executable, "-c", _RECEIVE, address, str(PORT)]
    with subprocess.Popen(inside, stdout=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout is not None
        receiver.stdout.readline()
        sender = subprocess.run(["nsenter", f"--net={source}", sys.executable, "-c", _SEND, address, str(PORT),
                                 str(seconds)], check=True, stdout=subprocess.PIPE, text=True)
        total, took, cpu = map(float, receiver.stdout.readline().split())
        return Figure(total / took, total / (cpu + float(sender.stdout)))


def by_hand(made: Fabric, stack: ExitStack, *, vxlan: bool) -> Pair:
    """A pod on each of two nodes, routed with ip(8)."""
    pods = []
    nodes = [made.nodes["n1"], made.nodes["n2"]]
    under = ["198.18.2.1", "198.18.2.2"]
    mtu = 1450 if vxlan else 1500
    for number, node in enumerate(nodes):
        pod = stack.enter_context(namespace(f"hand{number}"))
        other = 1 - number
        command(node, "sh", "-ec", f"""
            sysctl -qw net.ipv4.ip_forward=1
            ip link add pod type veth peer name eth0 netns {pod.name}
            ip link set pod up mtu {mtu}
            ip route add 10.8.{number}.1/32 dev pod
            sysctl -qw net.ipv4.conf.pod.proxy_arp=1""")
        if vxlan:
            command(node, "sh", "-ec", f"""
                ip link add vx type vxlan id 77 dstport 4799 local {under[number]} nolearning
                ip link set vx address 02:00:00:00:00:0{number} mtu 1450 up
                bridge fdb add 02:00:00:00:00:0{other} dev vx dst {under[other]}
                ip neigh add {under[other]} lladdr 02:00:00:00:00:0{other} dev vx nud permanent
                ip route add 10.8.{other}.0/26 via {under[other]} dev vx onlink""")
        else:
            command(node, "ip", "route", "add", f"10.8.{other}.0/26", "via", under[other])
        command(pod, "sh", "-ec", f"""
            ip link set eth0 up mtu {mtu}
            ip address add 10.8.{number}.1/32 dev eth0
            ip route add 169.254.1.1 dev eth0
            ip route add default via 169.254.1.1""")
        pods.append(pod)
    return pods[0], pods[1], "10.8.1.1"


async def muslins(up: Cluster, mode: str) -> Pair:
    """A pod on each of two nodes, by Muslin."""
    await up.set_pool("default", encapsulation=mode)
    await until(lambda: all(("vxlan.muslin" in links(node.netns)) == (mode == "vxlan") for node in up.nodes.values()),
                "the nodes do not follow")
    pods = [await up.add(node, f"{mode}{number}") for number, node in enumerate(("n1", "n2"))]
    device = "vxlan.muslin" if mode == "vxlan" else "eth0"
    for here, there in (("n1", "198.18.2.2"), ("n2", "198.18.2.1")):
        await until(lambda: f"via {there} dev {device}" in up.nodes[here].ways().values(), "no way")  # noqa: B023
    return pods[0].netns, pods[1].netns, pods[1].v4


async def measure(rounds: int, seconds: float) -> dict[str, list[Figure]]:
    """A figure of each round, by way."""
    found: dict[str, list[Figure]] = {}
    async with AsyncExitStack() as stack:
        ways: dict[str, Pair] = {}
        for name, vxlan in (("plain", False), ("plain VXLAN", True)):
            inner = stack.enter_context(ExitStack())
            ways[name] = by_hand(inner.enter_context(fabric()), inner, vxlan=vxlan)
        for name, mode in (("muslin, none", "none"), ("muslin, vxlan", "vxlan")):
            up = await stack.enter_async_context(cluster(pool="10.9.0.0/24", nodes=("n1", "n2")))
            ways[name] = await muslins(up, mode)
        for number in range(rounds + 1):
            for name, pair in ways.items():
                figure = await asyncio.to_thread(throughput, pair, seconds)
                if number:  # the first round is for warming up
                    found.setdefault(name, []).append(figure)
    return found


def main() -> None:
    """Run, print the table, then one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    quick = parser.parse_args().quick
    if os.geteuid():
        sys.exit("needs root, for network namespaces and nf_tables")
    found = asyncio.run(measure(5 if quick else 15, 0.4 if quick else 1.0))
    pairs = (("muslin, none", "plain"), ("muslin, vxlan", "plain VXLAN"))
    ratios = {f"{ours} / {theirs}{what}": statistics.median(
        getattr(a, kind) / getattr(b, kind) for a, b in zip(found[ours], found[theirs], strict=True))
        for ours, theirs in pairs for kind, what in (("clock", ""), ("cpu", ", by CPU"))}
    widths = (16, 12, 12, 12, 24)
    print(row(("way", "Gbit/s min", "median", "max", "median, a CPU second"), widths))
    for name, figures in found.items():
        clock, cpu = [[getattr(figure, kind) * 8 / 1e9 for figure in figures] for kind in ("clock", "cpu")]
        shown = (f"{value:.2f}" for value in (min(clock), statistics.median(clock), max(clock), statistics.median(cpu)))
        print(row((name, *shown), widths))
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f} (aim: at least {AIM})")
    medians = {name: {kind: statistics.median(getattr(figure, kind) for figure in figures) * 8 / 1e9
                      for kind in ("clock", "cpu")} for name, figures in found.items()}
    print(json.dumps({"bench": "across", "gbit_per_s": medians, "ratios": ratios}))


if __name__ == "__main__":
    main()
