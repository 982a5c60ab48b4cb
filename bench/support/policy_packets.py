"""What 1,000 policies that select a pod cost its packets, in turn with none; needs root.

    .venv/bin/python -m bench.support.policy_packets [--quick]

Two pods of one host, wired and enforced by the node daemon's code. Of the 1,000 policies the last one lets the traffic
in, so that a new connection meets all of them. Throughput is iperf3's where it is installed, else a program of ours
that sends as much as it can. Prints a JSON object: medians, and the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from muslin import netns
from services.node.enforce.program import Action, Kind, Policy, Rule
from tests.integration.node.world import Pod, World, group, world

__all__ = ["POLICIES", "measure"]

POLICIES = 1_000
_PORT, _BULK, _ANSWERS = 5201, 5202, 5203
_REQUEST = b"r" * 64


def enforce(made: World, *, policies: bool) -> None:
    """Put 1,000 policies on the receiver, or none."""
    listed = tuple(Policy(f"default/p{n:04}", f"p{n}", ingress=(
        Rule(Action.ALLOW, 6, f"g{n % 100}" if n < POLICIES - 1 else "", ports=((_PORT, _ANSWERS),)
             if n == POLICIES - 1 else ((8000, 8000),)),)) for n in range(POLICIES))
    groups = tuple(group(f"g{n}", Kind.ADDRESS, f"10.9.{n}.1") for n in range(100))
    sender, receiver = made.pods["from"], made.pods["to"]
    ingress = [[policy.id for policy in listed]] if policies else []
    made.enforce(sender.endpoint(), receiver.endpoint(ingress=ingress), policies=listed if policies else (),
                 groups=groups if policies else ())


@contextmanager
def served(pod: Pod, port: int, answer: Callable[[socket.socket], None]) -> Iterator[None]:
    """A process in a pod that hands each connection to `answer`."""
    with netns.open_socket(pod.netns, socket.AF_INET, socket.SOCK_STREAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("", port))
        server.listen(64)

        def serve() -> None:
            while True:
                with server.accept()[0] as connection:
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    answer(connection)

        child = multiprocessing.get_context("fork").Process(target=serve, daemon=True)
        child.start()
        try:
            yield
        finally:
            child.terminate()
            child.join()


def echo(connection: socket.socket) -> None:
    """Answer each request until the sender ends."""
    while data := connection.recv(65536):
        connection.sendall(data)


def swallow(connection: socket.socket) -> None:
    """Read until the sender ends."""
    buffer = bytearray(1 << 20)
    while connection.recv_into(buffer):
        pass


def connected(made: World, port: int) -> socket.socket:
    """A connection from the sending pod to the receiving one."""
    client = netns.open_socket(made.pods["from"].netns, socket.AF_INET, socket.SOCK_STREAM)
    client.settimeout(10)
    client.connect((made.pods["to"].address, port))
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def requests(made: World, seconds: float) -> float:
    """Requests a second, one after the other on one connection."""
    with connected(made, _ANSWERS) as client:
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            client.sendall(_REQUEST)
            client.recv(65536)
            count += 1
        return count / (time.perf_counter() - began)


def connections(made: World, seconds: float) -> float:
    """Requests a second, each on a connection of its own."""
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        with connected(made, _ANSWERS) as client:
            client.sendall(_REQUEST)
            client.recv(65536)
        count += 1
    return count / (time.perf_counter() - began)


def stream(made: World, seconds: float) -> float:
    """Gbit/s of a program of ours."""
    data, sent = bytes(1 << 17), 0
    with connected(made, _BULK) as client:
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            sent += client.send(data)
        return sent * 8e-9 / (time.perf_counter() - began)


def iperf3(made: World, seconds: float) -> float:
    """Gbit/s as iperf3 has it, one stream."""
    done = subprocess.run(["ip", "netns", "exec", made.pods["from"].netns.name, "iperf3", "-J", "-t",
                           str(max(1, round(seconds))), "-c", made.pods["to"].address, "-p", str(_PORT)],
                          capture_output=True, text=True, check=True, timeout=60)
    return float(json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]) / 1e9


@contextmanager
def bulk(made: World) -> Iterator[tuple[str, Callable[[World, float], float]]]:
    """What measures throughput, and its name."""
    if not shutil.which("iperf3"):
        with served(made.pods["to"], _BULK, swallow):
            yield "own sockets", stream
        return
    command = ["iperf3", "-s", "--forceflush", "-p", str(_PORT)]
    server = subprocess.Popen(["ip", "netns", "exec", made.pods["to"].netns.name, *command], stdout=subprocess.PIPE,
                              text=True)
    try:
        assert server.stdout
        while "listening" not in server.stdout.readline():
            assert server.poll() is None, "iperf3 -s has ended"
        yield "iperf3", iperf3
    finally:
        server.kill()
        server.communicate()


def measure(*, quick: bool) -> dict[str, object]:
    """Rates with 1,000 policies and with none, in turn. Raises what wiring and nf_tables raise."""
    rounds, seconds = (3, 1.0) if quick else (8, 3.0)
    rates: dict[str, tuple[list[float], list[float]]] = {}
    with world("from", "to") as made, served(made.pods["to"], _ANSWERS, echo), bulk(made) as (tool, throughput):
        for _ in range(rounds):
            for with_policies in (False, True):
                enforce(made, policies=with_policies)
                for kind, rate in (("throughput", throughput), ("requests", requests), ("connections", connections)):
                    rates.setdefault(kind, ([], []))[with_policies].append(rate(made, seconds))
    return {"tool": tool, "policies": POLICIES, **{kind: {
        "none": statistics.median(none), "policies": statistics.median(some),
        "ratio": statistics.median(b / a for a, b in zip(none, some, strict=True))}
        for kind, (none, some) in rates.items()}}


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few, short rounds")
    options = parser.parse_args()
    if os.geteuid():
        sys.exit("needs root, for network namespaces and nf_tables")
    print(json.dumps(measure(quick=options.quick)))


if __name__ == "__main__":
    main()
