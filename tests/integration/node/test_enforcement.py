"""Policy against real packets between real pods of one host."""

from __future__ import annotations

import ipaddress
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from muslin import netns
from services.node.enforce.program import Action, Endpoint, Group, Kind, Policy, Rule, Update, member
from services.node.enforce.state import Release
from tests.integration.node.world import Pod, World, echoes, group, reaches, world
from tests.support.netns import command

pytestmark = pytest.mark.root

HOST = "10.99.0.1"
ALLOW = Rule(Action.ALLOW)
DATAGRAM = socket.SOCK_DGRAM


@pytest.fixture(scope="module")
def made() -> Iterator[World]:
    """Three pods that listen, and a host with an address of its own."""
    with world("a", "b", "c") as built:
        command(built.host, "ip", "address", "add", f"{HOST}/32", "dev", "lo")
        for pod in built.pods.values():
            for port in (80, 81, 443, 8080):
                pod.listen(port)
            pod.listen(53, DATAGRAM)
        listener = netns.open_socket(built.host, socket.AF_INET, socket.SOCK_STREAM)
        listener.bind(("0.0.0.0", 10250))
        listener.listen()
        with listener:
            yield built


@pytest.fixture
def pods(made: World) -> tuple[Pod, Pod, Pod]:
    return made.pods["a"], made.pods["b"], made.pods["c"]


def ingress(*rules: Rule, name: str = "t/in") -> Policy:
    return Policy(name, name, ingress=rules)


def egress(*rules: Rule, name: str = "t/out") -> Policy:
    return Policy(name, name, egress=rules)


def nets(*cidrs: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(map(ipaddress.ip_network, cidrs))


def test_profiles_decide_where_no_policy_selects(made: World, pods: tuple[Pod, Pod, Pod]) -> None:
    """In order; none, or a missing one, drops; no traffic before there is a program at all."""
    a, b, c = pods
    made.enforce()
    assert not reaches(a.netns, b.address, 80)
    made.enforce(a.endpoint(), b.endpoint(), c.endpoint(profiles=()))
    assert reaches(a.netns, b.address, 80)
    assert echoes(a.netns, b.address, 53)
    assert not reaches(a.netns, c.address, 80)
    assert not reaches(c.netns, a.address, 80)
    made.enforce(a.endpoint(), b.endpoint(profiles=("profile/gone", "profile/all")))
    assert not reaches(a.netns, b.address, 80)
    deny = Policy("profile/deny", "deny", ingress=(Rule(Action.DENY, 6),))
    made.enforce(a.endpoint(), b.endpoint(profiles=("profile/deny", "profile/all")), policies=[deny])
    assert not reaches(a.netns, b.address, 80)
    assert echoes(a.netns, b.address, 53)


def test_both_ends_must_allow(made: World, pods: tuple[Pod, Pod, Pod]) -> None:
    """Allow of egress goes on to the ingress check of a pod on the same node; replies need no rule."""
    a, b, _ = pods
    out = egress(Rule(Action.ALLOW, 6, ports=((80, 80), (81, 81))))
    in_ = ingress(Rule(Action.ALLOW, 6, ports=((80, 80),)))
    made.enforce(a.endpoint(egress=[["t/out"]]), b.endpoint(ingress=[["t/in"]]), policies=[out, in_])
    assert reaches(a.netns, b.address, 80)
    assert not reaches(a.netns, b.address, 81)
    made.enforce(a.endpoint(egress=[["t/out"]]), b.endpoint(), policies=[out])
    assert reaches(a.netns, b.address, 81)
    assert not reaches(a.netns, b.address, 443)
    assert not echoes(a.netns, b.address, 53)
    assert reaches(b.netns, a.address, 443), "the other way is not isolated"


def test_a_group_of_addresses_is_live(made: World, pods: tuple[Pod, Pod, Pod]) -> None:
    a, b, c = pods
    made.enforce(a.endpoint(), b.endpoint(ingress=[["t/in"]]), c.endpoint(),
                 policies=[ingress(Rule(Action.ALLOW, peer_group="web"))],
                 groups=[group("web", Kind.ADDRESS, a.address)])
    assert reaches(a.netns, b.address, 80)
    assert not reaches(c.netns, b.address, 80)
    swap = ("web", frozenset({member(c.address)}), frozenset({member(a.address)}))
    made.apply(Update(2, members=(swap,)))
    assert not reaches(a.netns, b.address, 80)
    assert reaches(c.netns, b.address, 80)


def test_a_block_of_addresses_with_exceptions(made: World, pods: tuple[Pod, Pod, Pod]) -> None:
    """One net and several, by mask and by set; an exception; the other family's nets match nothing."""
    a, b, c = pods

    def allowed(**match: object) -> tuple[bool, bool]:
        rule = Rule(Action.ALLOW, **match)  # type: ignore[arg-type]  # fields of the class
        made.enforce(a.endpoint(), b.endpoint(ingress=[["t/in"]]), c.endpoint(), policies=[ingress(rule)])
        return reaches(a.netns, b.address, 80), reaches(c.netns, b.address, 80)

    assert (a.address, b.address, c.address) == ("192.168.7.1", "192.168.7.2", "192.168.7.3")
    assert allowed(nets=nets("192.168.7.0/24")) == (True, True)
    assert allowed(nets=nets("192.168.7.0/31")) == (True, False)
    assert allowed(nets=nets("192.168.7.0/24"), not_nets=nets("192.168.7.3/32")) == (True, False)
    assert allowed(nets=nets("192.168.7.0/24"), not_nets=nets("192.168.7.2/31")) == (True, False)
    assert allowed(not_nets=nets("192.168.7.1/32", "10.0.0.0/8")) == (False, True)
    assert allowed(nets=nets("10.0.0.0/8", "192.168.7.3/32")) == (False, True)
    assert allowed(nets=nets("0.0.0.0/0")) == (True, True)
    assert allowed(nets=nets("0.0.0.0/0", "10.0.0.0/8")) == (True, True)
    assert allowed(nets=nets("::/0")) == (False, False)
    assert allowed(nets=nets("fd00::/16", "192.168.7.1/32")) == (True, False)
    assert allowed(not_nets=nets("0.0.0.0/0")) == (False, False)


def test_an_exception_of_egress_is_the_destination(made: World, pods: tuple[Pod, Pod, Pod]) -> None:
    a, b, c = pods
    rule = Rule(Action.ALLOW, nets=nets("192.168.0.0/16"), not_nets=nets(f"{b.address}/32"))
    made.enforce(a.endpoint(egress=[["t/out"]]), b.endpoint(), c.endpoint(), policies=[egress(rule)])
    assert not reaches(a.netns, b.address, 80)
    assert reaches(a.netns, c.address, 80)


@pytest.mark.parametrize(("ports", "open_"), [
    (((80, 80),), {80}), (((80, 81),), {80, 81}), (((81, 8080),), {81, 443, 8080}),
    (((80, 80), (443, 443)), {80, 443}), (((0, 80), (8080, 65535)), {80, 8080}), (((1, 65535),), {80, 81, 443, 8080}),
])
def test_ranges_of_ports(made: World, pods: tuple[Pod, Pod, Pod], ports: tuple[tuple[int, int], ...],
                         open_: set[int]) -> None:
    a, b, _ = pods
    made.enforce(a.endpoint(), b.endpoint(ingress=[["t/in"]]), policies=[ingress(Rule(Action.ALLOW, 6, ports=ports))])
    assert {port for port in (80, 81, 443, 8080) if reaches(a.netns, b.address, port, timeout=0.2)} == open_
    assert not echoes(a.netns, b.address, 53, timeout=0.2)


def test_protocols(made: World, pods: tuple[Pod, Pod, Pod]) -> None:
    """A port without a protocol is one of each protocol that has ports."""
    a, b, _ = pods
    for rule, expected in ((Rule(Action.ALLOW, 6), (True, False)), (Rule(Action.ALLOW, 17), (False, True)),
                           (Rule(Action.ALLOW, ports=((53, 80),)), (True, True))):
        made.enforce(a.endpoint(), b.endpoint(ingress=[["t/in"]]), policies=[ingress(rule)])
        assert (reaches(a.netns, b.address, 80), echoes(a.netns, b.address, 53)) == expected


def test_named_ports_are_the_receivers(made: World, pods: tuple[Pod, Pod, Pod]) -> None:
    """Address, protocol and port together: another pod's port of that name does not open this one's."""
    a, b, c = pods
    http = group("http", Kind.PORT, f"{b.address},6,8080", f"{c.address},6,81")
    made.enforce(a.endpoint(egress=[["t/out"]]), b.endpoint(), c.endpoint(),
                 policies=[egress(Rule(Action.ALLOW, port_group="http"))], groups=[http])
    assert [(pod.name, port) for pod in (b, c) for port in (80, 81, 8080)
            if reaches(a.netns, pod.address, port, timeout=0.2)] == [("b", 8080), ("c", 81)]
    made.enforce(a.endpoint(), b.endpoint(ingress=[["t/in"]]), c.endpoint(ingress=[["t/in"]]),
                 policies=[ingress(Rule(Action.ALLOW, 6, peer_group="peers", port_group="http"))],
                 groups=[http, group("peers", Kind.ADDRESS, a.address)])
    assert reaches(a.netns, b.address, 8080)
    assert not reaches(a.netns, b.address, 81, timeout=0.2)
    assert not reaches(c.netns, b.address, 8080, timeout=0.2)


def test_tiers_and_pass(made: World, pods: tuple[Pod, Pod, Pod]) -> None:
    """Pass goes to the next tier and then to the profiles; the end of a tier drops.

    A policy shared by two endpoints passes each to its own next tier.
    """
    a, b, c = pods
    first = ingress(Rule(Action.PASS, 6, ports=((80, 81),)), Rule(Action.ALLOW, 6, ports=((443, 443),)), name="adm/1")
    second = ingress(Rule(Action.ALLOW, 6, ports=((80, 80),)), name="t/in")
    made.enforce(a.endpoint(), b.endpoint(ingress=[["adm/1"], ["t/in"]]), c.endpoint(ingress=[["adm/1"]]),
                 policies=[first, second])
    reached = [(pod.name, port) for pod in (b, c) for port in (80, 81, 443, 8080)
               if reaches(a.netns, pod.address, port, timeout=0.2)]
    assert reached == [("b", 80), ("b", 443), ("c", 80), ("c", 81), ("c", 443)]


def test_deny_and_log_in_order(made: World, pods: tuple[Pod, Pod, Pod]) -> None:
    a, b, _ = pods
    rules = (Rule(Action.LOG), Rule(Action.DENY, 6, ports=((80, 80),)), ALLOW)
    made.enforce(a.endpoint(), b.endpoint(ingress=[["t/in"]]), policies=[ingress(*rules)])
    assert not reaches(a.netns, b.address, 80)
    assert reaches(a.netns, b.address, 81)


def test_pod_and_host(made: World, pods: tuple[Pod, Pod, Pod]) -> None:
    """The host reaches its own pods whatever their policy, as kubelet's probes must.

    A pod reaches the host as its egress allows.
    """
    a, b, _ = pods
    made.enforce(a.endpoint(egress=[["t/none"]], ingress=[["t/none"]]), b.endpoint(egress=[["t/out"]]),
                 policies=[Policy("t/none"), egress(Rule(Action.ALLOW, nets=nets(f"{HOST}/32")))])
    assert reaches(made.host, a.address, 80)
    assert not reaches(a.netns, HOST, 10250)
    assert reaches(b.netns, HOST, 10250)
    assert not reaches(b.netns, a.address, 80)


def test_a_source_that_is_not_its_own_is_dropped(made: World, pods: tuple[Pod, Pod, Pod]) -> None:
    """By our rule, with the kernel's own filter off; to pods and to the host."""
    a, b, _ = pods
    made.enforce(a.endpoint(), b.endpoint())
    command(made.host, "sysctl", "-q", f"net.ipv4.conf.{a.interface}.rp_filter=0")
    command(a.netns, "ip", "address", "add", "192.168.7.99/32", "dev", "eth0")
    try:
        before = dropped(made, "not its own address")
        assert not reaches(a.netns, b.address, 80, bind="192.168.7.99", timeout=0.2)
        assert not reaches(a.netns, HOST, 10250, bind="192.168.7.99", timeout=0.2)
        assert dropped(made, "not its own address") >= before + 2
        assert reaches(a.netns, b.address, 80)
    finally:
        command(made.host, "sysctl", "-q", f"net.ipv4.conf.{a.interface}.rp_filter=1")
        command(a.netns, "ip", "address", "delete", "192.168.7.99/32", "dev", "eth0")


def dropped(made: World, comment: str) -> int:
    """Packets counted by the rules with that comment."""
    lines = [line.split() for line in made.listing().splitlines() if f'comment "{comment}"' in line]
    return sum(int(words[words.index("packets") + 1]) for words in lines)


def test_the_hosts_loopback_is_out_of_reach(made: World, pods: tuple[Pod, Pod, Pod]) -> None:
    """route_localnet lets destination-translated packets end at 127.0.0.1; a pod must not aim there itself."""
    a, _, _ = pods
    made.enforce(a.endpoint())
    before = dropped(made, "the host's loopback")
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 28, 1, 0, 64, 17, 0, socket.inet_aton(a.address),
                     socket.inet_aton("127.0.0.1"))
    total = sum(struct.unpack(">10H", ip))
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    frame = b"\xee" * 6 + b"\x02\0\0\0\0\x01" + b"\x08\x00" + ip[:10] + struct.pack(">H", checksum) + ip[12:] \
        + struct.pack(">HHHH", 4000, 10250, 8, 0)
    with netns.open_socket(a.netns, socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("eth0", 0))
        raw.send(frame)
    assert dropped(made, "the host's loopback") == before + 1


def test_an_interface_no_program_knows_is_dropped(made: World, pods: tuple[Pod, Pod, Pod]) -> None:
    """Both ways, and to the host: no packet before policy is in."""
    a, b, _ = pods
    made.enforce(b.endpoint())
    assert not reaches(a.netns, b.address, 80, timeout=0.2)
    assert not reaches(b.netns, a.address, 80, timeout=0.2)
    assert not reaches(a.netns, HOST, 10250, timeout=0.2)
    assert dropped(made, "no policy yet") >= 3


def test_ipv6_of_an_ipv4_pod(made: World, pods: tuple[Pod, Pod, Pod]) -> None:
    """Neighbour discovery passes; nothing else does, link-local or not."""
    a, _, _ = pods
    made.enforce(a.endpoint())
    outer = "fe80::ecee:eeff:feee:eeee"  # EUI-64 of ee:ee:ee:ee:ee:ee
    index = socket_index(a.netns)
    for where, device in ((made.host, a.interface), (a.netns, "eth0")):
        command(where, "sh", "-c", f"until ip -6 addr show dev {device} | grep -v tentative | grep -q fe80; "
                                   "do sleep 0.05; done")
    server = netns.open_socket(made.host, socket.AF_INET6, socket.SOCK_STREAM)
    with server:
        server.bind(("::", 10251))
        server.listen()
        before = dropped(made, "not its own address")
        with netns.open_socket(a.netns, socket.AF_INET6, socket.SOCK_STREAM) as client:
            client.settimeout(0.3)
            with pytest.raises(TimeoutError):
                client.connect((outer, 10251, 0, index))
        assert dropped(made, "not its own address") > before
    found = command(a.netns, "ip", "-6", "neighbour", "show", outer)
    assert "ee:ee:ee:ee:ee:ee" in found, "discovery was answered"


def socket_index(pod: Path) -> int:
    return netns.run(pod, lambda: socket.if_nametoindex("eth0"))


def test_established_connections_outlive_their_policy(made: World, pods: tuple[Pod, Pod, Pod]) -> None:
    """As NetworkPolicy has it of most implementations: policy decides on connections, not on packets."""
    a, b, _ = pods
    made.enforce(a.endpoint(), b.endpoint())
    with netns.open_socket(a.netns, socket.AF_INET, DATAGRAM) as client:
        client.settimeout(0.5)
        client.connect((b.address, 53))
        client.send(b"1")
        assert client.recv(8) == b"1"
        made.enforce(a.endpoint(), b.endpoint(ingress=[["t/none"]]), policies=[Policy("t/none")])
        assert not echoes(a.netns, b.address, 53)
        client.send(b"2")
        assert client.recv(8) == b"2"


def test_a_released_attachment_is_cut_at_once(made: World, pods: tuple[Pod, Pod, Pod]) -> None:
    a, b, _ = pods
    made.enforce(a.endpoint(), b.endpoint())
    assert reaches(a.netns, b.address, 80)
    state = made.state
    made.apply(Release(a.attachment))
    assert not reaches(a.netns, b.address, 80, timeout=0.2)
    assert list(made.nft.elements("muslin", "from_pod")) == [b.interface.encode().ljust(16, b"\0")]
    made.state = state
    made.replace()
    assert reaches(a.netns, b.address, 80)


def hammer(made: World, a: Pod, b: Pod, c: Pod, count: int, change: Callable[[int], None]) -> tuple[int, int]:
    """Datagrams that arrive at b, which allows them, and at c, which does not, while the table changes.

    Each is the first of its own connection.
    """
    with netns.open_socket(b.netns, socket.AF_INET, DATAGRAM) as at_b, \
            netns.open_socket(c.netns, socket.AF_INET, DATAGRAM) as at_c:
        for receiver in (at_b, at_c):
            receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
            receiver.bind(("0.0.0.0", 7777))
            receiver.setblocking(False)

        def send() -> None:
            for number in range(count):
                for target in (b.address, c.address):
                    with socket.socket(socket.AF_INET, DATAGRAM) as client:
                        client.sendto(number.to_bytes(4, "big"), (target, 7777))


        sender = threading.Thread(target=netns.run, args=(a.netns, send))
        sender.start()
        turns = 0
        while sender.is_alive():
            change(turns)
            turns += 1
        sender.join()
        assert turns > 20
        return drained(at_b), drained(at_c)


def drained(receiver: socket.socket) -> int:
    count = 0
    while True:
        try:
            receiver.recv(8)
        except BlockingIOError:
            return count
        count += 1


def test_repair_under_traffic_cuts_nothing_and_opens_nothing(made: World, pods: tuple[Pod, Pod, Pod]) -> None:
    """As when a daemon starts and knows nothing of what is there: every rule is written anew, every set read."""
    a, b, c = pods
    made.enforce(a.endpoint(), b.endpoint(), c.endpoint(ingress=[["t/none"]]), policies=[Policy("t/none")])
    assert hammer(made, a, b, c, 5000, lambda _: made.repair()) == (5000, 0)


def test_replacement_under_traffic_opens_nothing(made: World, pods: tuple[Pod, Pod, Pod]) -> None:
    """The last resort: a packet that is in the old table when it goes may be lost, none that is denied passes."""
    a, b, c = pods
    made.enforce(a.endpoint(), b.endpoint(), c.endpoint(ingress=[["t/none"]]), policies=[Policy("t/none")])
    passed, leaked = hammer(made, a, b, c, 5000, lambda _: made.replace())
    assert leaked == 0
    assert passed > 4500


def test_changes_under_traffic_cut_nothing_and_open_nothing(made: World, pods: tuple[Pod, Pod, Pod]) -> None:
    """Policies rewritten, endpoints moved between policies and groups altered, to something that means the same."""
    a, b, c = pods
    allow = [ingress(ALLOW, name="t/1"), ingress(Rule(Action.ALLOW, peer_group="g"), name="t/2")]
    deny = [Policy("t/3"), ingress(Rule(Action.DENY), name="t/4")]
    members: list[Group] = [group("g", Kind.ADDRESS, a.address),
                            group("g", Kind.ADDRESS, a.address, *(f"10.0.0.{n}" for n in range(1, 200)))]
    made.enforce(a.endpoint(), b.endpoint(ingress=[["t/1"]]), c.endpoint(ingress=[["t/3"]]), policies=[*allow, *deny],
                 groups=members[:1])

    def change(turn: int) -> None:
        odd = turn % 2
        rewritten = ingress(*[Rule(Action.DENY, 6)] * (turn % 3), ALLOW, name="t/1")
        ends: tuple[Endpoint, ...] = (b.endpoint(ingress=[[f"t/{1 + odd}"]]), c.endpoint(ingress=[[f"t/{3 + odd}"]]))
        made.apply(Update(turn + 2, groups=(members[odd],), policies=(rewritten,), endpoints=ends))

    assert hammer(made, a, b, c, 5000, change) == (5000, 0)
