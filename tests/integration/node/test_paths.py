"""Ways of packets: other hosts, the host itself, translated destinations, SCTP and ICMP; with real packets."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from muslin import netns
from services.node.counters import drops_of
from services.node.enforce.program import Action, Policy, Rule
from tests.integration.node.world import Pod, World, echoes, listening, reaches, world
from tests.support.arena import until
from tests.support.netns import command, namespace

pytestmark = pytest.mark.root

HOST, HOST_6 = "10.99.0.1", "fd00:99::1"
OUTSIDE, OUTSIDE_6 = "10.99.0.2", "fd00:99::2"
SERVICE = "10.96.0.10"
TCP_80 = Rule(Action.ALLOW, 6, ports=((80, 80),), path="spec.ingress[0]")
REPLACED = f"""
table ip lb {{
  chain translate {{
    ip daddr {HOST} tcp dport 30080 dnat to %(b)s:80
    ip daddr {HOST} tcp dport 30081 dnat to %(b)s:81
    ip daddr {SERVICE} tcp dport 8000 dnat to %(b)s:80
    ip daddr {SERVICE} tcp dport 10250 dnat to {HOST}:10250
  }}
  chain prerouting {{ type nat hook prerouting priority dstnat; jump translate; }}
  chain output {{ type nat hook output priority -100; jump translate; }}
}}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Two pods, and another host on the uplink; the first host translates addresses of services and of its own."""
    with world("a", "b", ipv6=True) as built, namespace("outside") as outside, ExitStack() as stack:
        host = built.host
        command(host, "ip", "link", "add", "uplink", "type", "veth", "peer", "name", "eth0", "netns", outside.name)
        for where, device, addresses in ((host, "uplink", (HOST, HOST_6)), (outside, "eth0", (OUTSIDE, OUTSIDE_6))):
            command(where, "ip", "address", "add", f"{addresses[0]}/24", "dev", device)
            command(where, "ip", "address", "add", f"{addresses[1]}/64", "dev", device, "nodad")
            command(where, "ip", "link", "set", device, "up")
        command(outside, "ip", "route", "add", "192.168.7.0/24", "via", HOST)
        command(outside, "ip", "route", "add", "fd00:7::/64", "via", HOST_6)
        command(host, "sysctl", "-q", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        rules = tmp_path_factory.mktemp("lb") / "rules.nft"
        rules.write_text(REPLACED % {"b": built.pods["b"].address})
        command(host, "nft", "-f", str(rules))
        for pod in built.pods.values():
            for port in (80, 81):
                pod.listen(port)
            pod.listen(53, socket.SOCK_DGRAM)
        for where, port, kind in ((host, 10250, socket.SOCK_STREAM), (outside, 443, socket.SOCK_STREAM),
                                  (outside, 53, socket.SOCK_DGRAM)):
            stack.enter_context(listening(where, port, kind, ipv6=True))
        built.outside = outside  # type: ignore[attr-defined]  # of this module
        yield built


@pytest.fixture
def outside(made: World) -> Path:
    return made.outside  # type: ignore[attr-defined, no-any-return]  # as above


def closed(made: World, *, a: tuple[Rule, ...] | None = None, b: tuple[Rule, ...] | None = None) -> None:
    """Egress of pod a and ingress of pod b, by these rules; None: not isolated."""
    policies = ([] if a is None else [Policy("t/a", "t/a", egress=a)]) + (
        [] if b is None else [Policy("t/b", "t/b", ingress=b)])
    made.enforce(made.pods["a"].endpoint(egress=[["t/a"]] if a is not None else []),
                 made.pods["b"].endpoint(ingress=[["t/b"]] if b is not None else []), policies=policies)


def nets(*cidrs: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(map(ipaddress.ip_network, cidrs))


@pytest.mark.parametrize("version", [4, 6])
def test_another_host_is_policed_and_our_own_is_not(made: World, outside: Path, version: int) -> None:
    b = made.pods["b"]
    address = b.address if version == 4 else b.address6
    closed(made, b=(TCP_80,))
    assert (reaches(outside, address, 80), reaches(outside, address, 81, timeout=0.3)) == (True, False)
    assert (reaches(made.host, address, 80), reaches(made.host, address, 81)) == (True, True)
    closed(made, b=(Rule(Action.ALLOW, nets=nets(f"{OUTSIDE}/32", f"{OUTSIDE_6}/128")),))
    assert reaches(outside, address, 81)
    closed(made)
    assert reaches(outside, address, 81)


@pytest.mark.parametrize("version", [4, 6])
def test_a_pod_reaches_other_hosts_and_its_own_as_its_egress_says(made: World, version: int) -> None:
    a = made.pods["a"]
    host, outer = (HOST, OUTSIDE) if version == 4 else (HOST_6, OUTSIDE_6)
    closed(made, a=())
    assert not reaches(a.netns, host, 10250, timeout=0.3)
    assert not reaches(a.netns, outer, 443, timeout=0.3)
    closed(made, a=(Rule(Action.ALLOW, nets=nets(f"{outer}/{32 if version == 4 else 128}")),))
    assert not reaches(a.netns, host, 10250, timeout=0.3)
    assert reaches(a.netns, outer, 443)
    assert echoes(a.netns, outer, 53)
    closed(made)
    assert reaches(a.netns, host, 10250)


def test_a_port_of_the_host_is_judged_as_the_pods_it_leads_to(made: World, outside: Path) -> None:
    """By the sender's own address and the pod's own port, whatever it was sent to; our own host is let through."""
    closed(made, b=(Rule(Action.ALLOW, 6, nets=nets(f"{OUTSIDE}/32"), ports=((80, 80),)),))
    assert (reaches(outside, HOST, 30080), reaches(outside, HOST, 30081, timeout=0.3)) == (True, False)
    assert reaches(made.host, HOST, 30081)
    closed(made, b=(Rule(Action.ALLOW, 6, ports=((30080, 30081),)),))
    assert not reaches(outside, HOST, 30080, timeout=0.3), "the translated port counts"


def test_a_pods_way_through_a_service_is_judged_by_where_it_ends(made: World) -> None:
    """At another pod by both policies, at the host by its egress; the service's own address opens nothing."""
    a, b = made.pods.values()
    closed(made, a=(Rule(Action.ALLOW, 6, nets=nets(f"{b.address}/32"), ports=((80, 80),)),), b=(TCP_80,))
    assert reaches(a.netns, SERVICE, 8000)
    assert reaches(a.netns, HOST, 30080), "and through a port of the host"
    assert not reaches(a.netns, SERVICE, 10250, timeout=0.3)
    closed(made, a=(Rule(Action.ALLOW, nets=nets(f"{SERVICE}/32", f"{HOST}/32")),))
    assert not reaches(a.netns, SERVICE, 8000, timeout=0.3)
    assert reaches(a.netns, SERVICE, 10250)
    closed(made, b=())
    assert not reaches(a.netns, SERVICE, 8000, timeout=0.3)


def crc32c(data: bytes) -> int:
    """SCTP's checksum (RFC 9260, appendix A)."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def sctp_init(source_port: int, port: int) -> bytes:
    """The first packet of an association: INIT."""
    chunk = struct.pack(">BBHIIHHI", 1, 0, 20, 0x12345678, 65535, 1, 1, 1)
    header = struct.pack(">HHI", source_port, port, 0)
    return header + struct.pack("<I", crc32c(header + bytes(4) + chunk)) + chunk


def test_sctp_by_port(made: World) -> None:
    """Of two packets one arrives and the other is counted as dropped."""
    a, b = made.pods.values()
    closed(made, b=(Rule(Action.ALLOW, 132, ports=((7000, 7010),)),))
    with netns.open_socket(b.netns, socket.AF_INET, socket.SOCK_RAW, 132) as receiver, \
            netns.open_socket(a.netns, socket.AF_INET, socket.SOCK_RAW, 132) as sender:
        receiver.settimeout(20)
        before = dropped(made, b)
        for source_port, port in ((4001, 6999), (4002, 7005)):
            sender.sendto(sctp_init(source_port, port), (b.address, 0))
        got = receiver.recv(2048)
        assert struct.unpack_from(">HH", got, 20) == (4002, 7005)
        until(lambda: dropped(made, b) == before + 1)


def echo_request(kind: int, protocol: int, identifier: int) -> bytes:
    """Of ICMP with its checksum (RFC 1071); that of ICMPv6 is the kernel's to fill in."""
    words = (kind << 8, 0, identifier, 1)
    total = sum(words)
    checksum = 0xFFFF ^ (total & 0xFFFF) + (total >> 16) if protocol == 1 else 0
    return struct.pack(">HHHH", words[0], checksum, *words[2:])


@pytest.mark.parametrize(("version", "protocol", "kind"), [(4, 1, 8), (6, 58, 128)])
def test_echo_requests_by_protocol(made: World, version: int, protocol: int, kind: int) -> None:
    """A rule of that protocol lets them in, one of TCP does not; the answer needs none."""
    a, b = made.pods.values()
    address = b.address if version == 4 else b.address6

    def pinged(identifier: int, timeout: float) -> bool:
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        with netns.open_socket(a.netns, family, socket.SOCK_RAW, protocol) as raw:
            raw.settimeout(timeout)
            raw.sendto(echo_request(kind, protocol, identifier), (address, 0))
            try:
                while True:  # of IPv6 it also gets neighbours' messages
                    if raw.recvfrom(2048)[1][0] == address:
                        return True
            except TimeoutError:
                return False

    closed(made, b=(Rule(Action.ALLOW, protocol),))
    assert pinged(1, timeout=20)
    assert not reaches(a.netns, address, 80, timeout=0.3)
    closed(made, b=(TCP_80,))
    assert not pinged(2, timeout=0.3), "another one: that of before is a connection that was let in"


def dropped(made: World, pod: Pod) -> int:
    """Packets dropped of a pod."""
    return sum(each.packets for each in drops_of(made.state, made.nft.tallies("muslin", "drops"))
               if each.interface == pod.interface)
