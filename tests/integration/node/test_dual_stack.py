"""Pods with an IPv4 and an IPv6 address, or with IPv6 alone: real packets of both, and what is set for them."""

from __future__ import annotations

import ipaddress
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from muslin import netns
from services.node.attachment import Attachment
from services.node.enforce.program import Action, Kind, Policy, Rule
from services.node.netlink import links, network
from services.node.netlink.connection import Connection
from services.node.netlink.network import Neighbour, Route
from services.node.wiring import wire
from services.node.wiring_plan import GATEWAY_6, HOST_MAC, HOST_SETTINGS_6, Wiring
from tests.integration.node.world import Pod, World, echoes, group, listening, reaches, world
from tests.support.netns import command, namespace

pytestmark = pytest.mark.root

HOST = {4: "10.1.0.1", 6: "fd00:1::1"}
FAMILIES = pytest.mark.parametrize("version", [4, 6])


@pytest.fixture(scope="module")
def made() -> Iterator[World]:
    with world("a", "b", ipv6=True) as built:
        for address in HOST.values():
            command(built.host, "ip", "address", "add", address, "dev", "lo")
        listener = listening(built.host, 10250, ipv6=True)
        for pod in built.pods.values():
            pod.listen(80)
            pod.listen(53, socket.SOCK_DGRAM)
        yield built
        listener.close()


@pytest.fixture
def pods(made: World) -> tuple[Pod, Pod]:
    a, b = made.pods.values()
    made.enforce(a.endpoint(), b.endpoint())
    return a, b


def of(pod: Pod, version: int) -> str:
    return pod.address if version == 4 else pod.address6


@FAMILIES
def test_pods_and_their_host_reach_each_other(made: World, pods: tuple[Pod, Pod], version: int) -> None:
    a, b = pods
    for source, target, port in ((a.netns, of(b, version), 80), (b.netns, of(a, version), 80),
                                 (a.netns, HOST[version], 10250), (made.host, of(a, version), 80)):
        assert reaches(source, target, port, timeout=5), f"{source.name} to {target}"
    assert echoes(a.netns, of(b, version), 53, timeout=5)


@FAMILIES
def test_policy_tells_addresses_of_both_families_apart(made: World, pods: tuple[Pod, Pod], version: int) -> None:
    """The one allows the other by the one of its addresses that is in the group."""
    a, b = pods
    allow = Policy("t/a", "a", ingress=(Rule(Action.ALLOW, peer_group="g"),))
    made.enforce(a.endpoint(), b.endpoint(ingress=[["t/a"]]), policies=[allow],
                 groups=[group("g", Kind.ADDRESS, of(a, version))])
    assert reaches(a.netns, of(b, version), 80, timeout=5)
    assert not reaches(a.netns, of(b, 10 - version), 80)


@FAMILIES
def test_nobody_sends_from_an_address_that_is_not_its_own(made: World, pods: tuple[Pod, Pod], version: int) -> None:
    """IPv4's strict reverse path filter would do as well; for IPv6 there is none, only our rules."""
    a, b = pods
    forged = {4: "192.168.7.99", 6: "fd00:7::99"}[version]
    length = {4: 32, 6: 128}[version]
    options = ("nodad",) if version == 6 else ()
    command(a.netns, "ip", "address", "add", f"{forged}/{length}", "dev", "eth0", *options)
    command(made.host, "ip", "route", "add", f"{forged}/{length}", "dev", a.interface)
    try:
        assert not reaches(a.netns, of(b, version), 80, bind=forged)
        assert not reaches(a.netns, HOST[version], 10250, bind=forged)
        assert reaches(a.netns, of(b, version), 80, timeout=5, bind=of(a, version))
    finally:
        command(a.netns, "ip", "address", "del", f"{forged}/{length}", "dev", "eth0")
        command(made.host, "ip", "route", "del", f"{forged}/{length}", "dev", a.interface)


def test_neighbour_discovery_passes_whatever_the_policy(made: World, pods: tuple[Pod, Pod]) -> None:
    """A pod that forgot its gateway finds it again, though its egress policy allows nothing."""
    a, b = pods
    made.enforce(a.endpoint(egress=[["t/none"]]), b.endpoint(), policies=[Policy("t/none")])
    with Connection(a.netns) as inside:
        index = netns.run(a.netns, lambda: socket.if_nametoindex("eth0"))
        command(a.netns, "ip", "-6", "neighbour", "flush", "dev", "eth0", "nud", "permanent")
        assert not any(n.address == GATEWAY_6 for n in network.neighbours(inside, index))
        assert not reaches(a.netns, b.address6, 80, timeout=2)
        found = [n for n in network.neighbours(inside, index) if n.address == GATEWAY_6]
        assert found == [Neighbour(index, GATEWAY_6, HOST_MAC, False)]
        inside.request([network.add_neighbour(index, GATEWAY_6, HOST_MAC)])
    made.enforce(a.endpoint(), b.endpoint())
    assert reaches(a.netns, b.address6, 80, timeout=5)


@FAMILIES
def test_a_pod_reaches_itself_through_a_translated_address(made: World, pods: tuple[Pod, Pod], version: int) -> None:
    """As through a Service whose only endpoint it is: out, and in again by the same interface."""
    a, _ = pods
    service, word = {4: ("10.96.0.1", "ip"), 6: ("fd00:96::1", "ip6")}[version]
    target = a.address if version == 4 else f"[{a.address6}]"
    command(made.host, "nft", f"""table {word} hairpin {{
        chain before {{ type nat hook prerouting priority dstnat;
                      {word} daddr {service} tcp dport 80 dnat to {target}:80; }}
        chain after {{ type nat hook postrouting priority srcnat;
                            {word} saddr {of(a, version)} {word} daddr {of(a, version)} masquerade; }}
        }}""")
    try:
        assert reaches(a.netns, service, 80, timeout=5)
        made.enforce(a.endpoint(ingress=[["t/none"]]), policies=[Policy("t/none")])
        assert not reaches(a.netns, service, 80), "its own policy applies to what comes back to it"
    finally:
        command(made.host, "nft", "delete", "table", word, "hairpin")


@FAMILIES
def test_packets_of_the_mtu_pass_whole_and_larger_ones_do_not(version: int) -> None:
    with world("m", "n", ipv6=True) as built:
        for pod, size in zip(built.pods.values(), (1400, 1400), strict=True):
            command(built.host, "ip", "link", "set", pod.interface, "mtu", str(size))
            command(pod.netns, "ip", "link", "set", "eth0", "mtu", str(size))
            pod.listen(53, socket.SOCK_DGRAM)
        m, n = built.pods.values()
        built.enforce(m.endpoint(), n.endpoint())
        header = {4: 28, 6: 48}[version]
        with netns.open_socket(m.netns, {4: socket.AF_INET, 6: socket.AF_INET6}[version], socket.SOCK_DGRAM) as client:
            # IP_MTU_DISCOVER and IPV6_MTU_DISCOVER to DO: never in pieces.
            client.setsockopt(*{4: (socket.IPPROTO_IP, 10), 6: (socket.IPPROTO_IPV6, 23)}[version], 2)
            client.settimeout(5)
            client.connect((of(n, version), 53))
            client.send(bytes(1400 - header))
            assert len(client.recv(2000)) == 1400 - header
            with pytest.raises(OSError, match="too long"):
                client.send(bytes(1400 - header + 1))


def test_both_ends_are_as_calico_has_them() -> None:
    """An IPv6 address can be used when wiring is done: the pod's is not being tested for duplicates."""
    address = ipaddress.IPv6Address("fd00:9::1")
    with namespace("host") as host, namespace("pod") as pod, Connection(host) as outside, Connection(pod) as inside:
        wire(outside, Wiring(Attachment("net", "c", "eth0"), str(pod), "mus1", "02:00:00:00:00:09", (address,)))
        inner, outer = links.get(inside, "eth0"), links.get(outside, "mus1")
        assert inner
        assert outer
        assert "tentative" not in command(pod, "ip", "-6", "address", "show", "dev", "eth0", "to", "fd00::/16")
        assert address in {each.address.ip for each in network.addresses(inside, inner.index)}
        assert Route(inner.index, ipaddress.ip_network("::/0"), GATEWAY_6, False) in network.routes(inside)
        assert Neighbour(inner.index, GATEWAY_6, HOST_MAC, True) in network.neighbours(inside, inner.index)
        assert GATEWAY_6 in {each.address.ip for each in network.addresses(outside, outer.index)}
        assert Neighbour(outer.index, address, "02:00:00:00:00:09", True) in network.neighbours(outside, outer.index)
        assert ipaddress.ip_network(address) in {r.destination for r in network.routes(outside, outer.index)}
        assert {r.destination.version for r in network.routes(inside)} == {6}, "nothing of IPv4 in a pod without it"
        conf = "/proc/sys/net/ipv6/conf/mus1/"
        there = command(host, "ls", conf).split()
        assert {k: command(host, "cat", conf + k) for k in HOST_SETTINGS_6 if k in there} == {
            k: f"{v}\n" for k, v in HOST_SETTINGS_6.items() if k in there}


def test_ipv6_that_is_switched_off_in_the_pod_is_switched_on() -> None:
    """As container runtimes do to all namespaces they make."""
    with namespace("host") as host, namespace("pod") as pod, Connection(host) as outside, Connection(pod) as inside:
        command(pod, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
        address = ipaddress.IPv6Address("fd00:9::1")
        wire(outside, Wiring(Attachment("net", "c", "eth0"), str(pod), "mus1", "02:00:00:00:00:09", (address,)))
        assert address in {each.address.ip for each in network.addresses(inside)}


def test_a_second_interfaces_way_out_comes_second() -> None:
    """Of IPv6, two of the same metric would share the traffic."""
    with namespace("host") as host, namespace("pod") as pod, Connection(host) as outside, Connection(pod) as inside:
        for number, name in enumerate(("eth0", "net1"), 1):
            wire(outside, Wiring(Attachment("net", "c", name), str(pod), f"mus{number}", f"02:00:00:00:00:0{number}",
                                 (ipaddress.IPv6Address(f"fd00:9::{number}"),)))
        first = links.get(inside, "eth0")
        assert first
        way = command(pod, "ip", "-6", "route", "get", "2001:db8::1")
        assert "dev eth0" in way
        assert len([r for r in network.routes(inside) if r.destination == ipaddress.ip_network("::/0")]) == 2


READ_ONLY = """
import ipaddress, sys
from muslin.errors import MuslinError
from services.node.attachment import Attachment
from services.node.check import differences
from services.node.netlink.connection import Connection
from services.node.wiring import wire
from services.node.wiring_plan import Wiring
planned = Wiring(Attachment("net", "c", "eth0"), sys.argv[2], "mus1", "02:00:00:00:00:09",
                 tuple(map(ipaddress.ip_address, sys.argv[3:])))
with Connection(sys.argv[1]) as host:
    try:
        wire(host, planned)
    except MuslinError as problem:
        sys.exit(problem.message)
    print([each for each in differences(host, planned) if "sources" not in each and "table" not in each])
"""


def read_only(host: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Wire a pod and check it where /proc/sys may only be read, as in a container."""
    mounts = "mount --make-rprivate / && mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys"
    return subprocess.run(["unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh", sys.executable, "-c",
                           READ_ONLY, str(host), *arguments], capture_output=True, text=True, check=False, timeout=60)


def test_where_proc_may_not_be_written_it_works_or_says_what_is_missing() -> None:
    """IPv4 needs nothing of it; IPv6 needs a host that forwards, and names what else is not as intended."""
    with namespace("host") as host, namespace("four") as four, namespace("six") as six, Connection(host) as outside:
        done = read_only(host, str(four), "10.9.0.1")
        assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
        command(host, "ip", "link", "del", "mus1")
        done = read_only(host, str(six), "fd00:9::1")
        assert done.returncode == 1
        assert "set net.ipv6.conf.all.forwarding=1" in done.stderr
        assert links.get(outside, "mus1") is None
        command(host, "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
        done = read_only(host, str(six), "fd00:9::1")
        assert (done.returncode, done.stdout) == (0, "[]\n"), done
        assert "net.ipv6.conf.mus1: can not set" in done.stderr
        assert "accept_ra=0 (Read-only file system)" in done.stderr
