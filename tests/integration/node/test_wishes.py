"""What a configuration, a runtime or a pod may ask of the wiring: rates, MTU, routes."""

from __future__ import annotations

import dataclasses
import ipaddress
import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from muslin import netns
from services.node.attachment import Attachment
from services.node.netlink import network
from services.node.netlink.connection import Connection
from services.node.netlink.shaping import Bucket, rate_of
from services.node.uplink import Uplink
from services.node.wiring import wire
from services.node.wiring_plan import GATEWAY, LEAST_BURST, Wiring, bucket
from tests.support.netns import command, namespace

pytestmark = pytest.mark.root

RATE = 1_000_000
"""Bytes a second: a hundredth of what the slowest machine does without a limit."""


def plan(pod: Path, number: int, **changes: object) -> Wiring:
    plain = Wiring(Attachment("net", f"c{number}", "eth0"), str(pod), f"mus{number}", f"02:00:00:00:00:0{number}",
                   (ipaddress.IPv4Address(f"10.9.0.{number}"),))
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]  # fields of the class


def seconds(source: Path, target: Path, address: str, size: int) -> float:
    """How long so many bytes take over TCP, from the first to the last that arrives."""
    with ExitStack() as stack:
        server = stack.enter_context(netns.open_socket(target, socket.AF_INET, socket.SOCK_STREAM))
        server.bind(("0.0.0.0", 0))
        server.listen()
        client = stack.enter_context(netns.open_socket(source, socket.AF_INET, socket.SOCK_STREAM))
        client.settimeout(60)
        client.connect((address, server.getsockname()[1]))
        receiver = stack.enter_context(server.accept()[0])
        receiver.settimeout(60)
        sender = threading.Thread(target=client.sendall, args=(bytes(size),))
        began = time.monotonic()
        sender.start()
        left = size
        while left:
            left -= len(receiver.recv(1 << 20))
        spent = time.monotonic() - began
        sender.join()
        return spent


@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_a_rate_is_kept_in_its_direction(direction: str) -> None:
    """A second's worth at the rate, beyond what may go at once, takes no less; the other way a fraction of it.

    The best of many tries counts there: a machine with other work may be slow, a limit always is.
    """
    with namespace("host") as host, namespace("a") as a, namespace("b") as b, Connection(host) as links:
        limit = bucket(8 * RATE, 8 * LEAST_BURST)
        assert limit == Bucket(RATE, LEAST_BURST)
        wire(links, plan(a, 1, **{direction: limit}))
        wire(links, plan(b, 2))
        size = RATE + LEAST_BURST
        ways = ((b, a, "10.9.0.1"), (a, b, "10.9.0.2"))
        limited, free = ways if direction == "ingress" else reversed(ways)
        spent = seconds(*limited, size)
        assert spent > 0.95
        assert any(3 * seconds(*free, size) < spent for _ in range(30))


def test_rates_come_back_from_the_kernel() -> None:
    """Also beyond 32 bits."""
    with namespace("host") as host, namespace("pod") as pod, Connection(host) as links, Connection(pod) as inside:
        made = wire(links, plan(pod, 1, ingress=Bucket(125, 70_000), egress=bucket(10 ** 14, 0)))
        assert rate_of(links, made.host_index) == 125
        assert rate_of(inside, netns.run(pod, lambda: socket.if_nametoindex("eth0"))) == 10 ** 14 // 8


def test_a_bucket_holds_a_packet_and_lasts() -> None:
    assert bucket(0, 1000) is None
    assert bucket(8000, 8) == Bucket(1000, LEAST_BURST)
    assert bucket(8 * 50 * LEAST_BURST * 3, 0) == Bucket(50 * LEAST_BURST * 3, 3 * LEAST_BURST)


def test_the_mtu_follows_the_uplink() -> None:
    """The device of the default route, of either family, or the named one; less what the encapsulation takes."""
    with namespace("host") as host, namespace("out") as out, Connection(host) as links:
        assert Uplink().mtu(links) == 0
        for name, size in (("up0", 1450), ("up1", 9000), ("up2", 1380)):
            command(host, "ip", "link", "add", name, "mtu", str(size), "type", "veth", "peer", "name", name, "netns",
                    out.name)
            command(host, "ip", "link", "set", name, "up")
        assert Uplink().mtu(links) == 0
        command(host, "ip", "-6", "route", "add", "default", "dev", "up2")
        assert Uplink().mtu(links) == 1380
        command(host, "ip", "route", "add", "default", "dev", "up0")
        assert Uplink().mtu(links) == 1450
        assert Uplink(overhead=50).mtu(links) == 1400
        reserved = Uplink()
        reserved.reserve(70)
        assert reserved.mtu(links) == 1380
        assert Uplink("up1").mtu(links) == 9000
        assert Uplink("gone").mtu(links) == 0


def test_routes_of_the_address_manager_take_the_default_routes_place() -> None:
    """Of its family; all of them by our gateway, for there is no other."""
    ways = tuple(map(ipaddress.ip_network, ("10.0.0.0/8", "10.96.0.0/12")))
    with namespace("host") as host, namespace("pod") as pod, Connection(host) as links, Connection(pod) as inside:
        both = (ipaddress.ip_address("10.9.0.1"), ipaddress.ip_address("fd00:9::1"))
        wire(links, plan(pod, 1, addresses=both, routes=ways))
        found = {(r.destination, r.gateway) for r in network.routes(inside)}
        assert {(way, GATEWAY) for way in ways} <= found
        assert ipaddress.ip_network("0.0.0.0/0") not in {destination for destination, _ in found}
        assert ipaddress.ip_network("::/0") in {destination for destination, _ in found}
