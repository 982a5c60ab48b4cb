"""Wiring in real namespaces: what the host and the pod see, what is never touched, what is never left."""

from __future__ import annotations

import dataclasses
import ipaddress
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from muslin import netns
from muslin.errors import AlreadyExists, InvalidArgument
from services.node.attachment import Attachment
from services.node.errors import KernelError
from services.node.netlink import links, network
from services.node.netlink.connection import Connection, Reply, Request
from services.node.netlink.network import Address, Neighbour, Route
from services.node.wiring import UNFINISHED_GROUP, owned_links, remove_unfinished, unwire, wire
from services.node.wiring_plan import GATEWAY, HOST_MAC, HOST_SETTINGS, Wiring
from tests.support.netns import command, namespace, namespaces

pytestmark = pytest.mark.root

MAC = "02:00:00:00:00:01"
IP = ipaddress.IPv4Address("192.168.7.1")


@pytest.fixture
def host() -> Iterator[tuple[Path, Connection]]:
    with namespace("host") as path, Connection(path) as connection:
        yield path, connection


def wiring(pod: Path, number: int = 1, **changes: object) -> Wiring:
    plain = Wiring(Attachment("net", f"c{number}", "eth0"), str(pod), f"mus{number:011}", MAC, (IP + number - 1,))
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]  # fields of the class


def names(connection: Connection) -> set[str]:
    return {link.name for link in links.listing(connection)} - {"lo"}


def test_both_ends_are_as_calico_has_them(host: tuple[Path, Connection]) -> None:
    with namespace("pod") as pod, Connection(pod) as inside:
        made = wire(host[1], wiring(pod))
        assert made.mtu == 1500
        outer, inner = links.get(host[1], "mus00000000001"), links.get(inside, "eth0")
        assert outer
        assert inner
        assert (outer.kind, outer.mac, outer.up, outer.alias) == ("veth", HOST_MAC, True, "muslin:net/c1/eth0")
        assert (inner.mac, inner.up, inner.mtu, outer.peer_index) == (MAC, True, 1500, inner.index)
        loopback = links.get(inside, "lo")
        assert loopback
        assert loopback.up
        assert Address(inner.index, ipaddress.ip_interface("192.168.7.1/32")) in network.addresses(inside)
        default, link = ipaddress.IPv4Network("0.0.0.0/0"), ipaddress.ip_network(GATEWAY)
        assert [r for r in network.routes(inside) if r.destination.version == 4] == [
            Route(inner.index, default, GATEWAY, False), Route(inner.index, link, None, True)]
        assert Neighbour(inner.index, GATEWAY, HOST_MAC, True) in network.neighbours(inside, inner.index)
        assert network.routes(host[1], outer.index)[0] == Route(outer.index, ipaddress.ip_network(IP), None, True)
        assert Neighbour(outer.index, IP, MAC, True) in network.neighbours(host[1], outer.index)
        settings = "/proc/sys/net/ipv4/conf/mus00000000001/"
        assert {k: command(host[0], "cat", settings + k) for k in HOST_SETTINGS} == {
            k: f"{v}\n" for k, v in HOST_SETTINGS.items()}
        assert command(host[0], "cat", "/proc/sys/net/ipv4/neigh/mus00000000001/proxy_delay") == "0\n"
        assert command(host[0], "cat", "/proc/sys/net/ipv4/ip_forward") == "0\n"


def test_the_host_end_passes_packets_when_wiring_is_done(host: tuple[Path, Connection]) -> None:
    """Not a moment later, or the first answers to the pod are lost. A dump shows the state without touching it."""
    with namespaces(20, "pod") as pods:
        for number, pod in enumerate(pods, 1):
            wire(host[1], wiring(pod, number))
            assert all(link.operational for link in links.listing(host[1], "veth"))


def test_the_mtu_is_the_configurations(host: tuple[Path, Connection]) -> None:
    with namespace("pod") as pod, Connection(pod) as inside:
        assert wire(host[1], wiring(pod, mtu=1380)).mtu == 1380
        inner = links.get(inside, "eth0")
        assert inner
        assert inner.mtu == 1380


def test_an_mtu_the_kernel_refuses_is_the_configurations_fault(host: tuple[Path, Connection]) -> None:
    with namespace("pod") as pod:
        with pytest.raises(InvalidArgument, match="mtu"):
            wire(host[1], wiring(pod, mtu=40))
        assert names(host[1]) == set()


def test_an_interface_that_exists_is_left_alone(host: tuple[Path, Connection]) -> None:
    """Somebody else's, and our own of an ADD before."""
    with namespace("pod") as pod, Connection(pod) as inside:
        command(pod, "ip", "link", "add", "eth0", "type", "bridge")
        before = links.get(inside, "eth0")
        with pytest.raises(AlreadyExists, match="eth0"):
            wire(host[1], wiring(pod))
        assert links.get(inside, "eth0") == before
        assert names(host[1]) == set()
        command(pod, "ip", "link", "delete", "eth0")
        wire(host[1], wiring(pod))
        before = links.get(inside, "eth0")
        outer = links.get(host[1], "mus00000000001")
        with pytest.raises(AlreadyExists, match="eth0"):
            wire(host[1], wiring(pod))
        assert (links.get(inside, "eth0"), links.get(host[1], "mus00000000001")) == (before, outer)


def test_a_second_interface_under_another_name(host: tuple[Path, Connection]) -> None:
    """Its default route comes second, and the first one stays the pod's way out."""
    with namespace("pod") as pod, Connection(pod) as inside:
        wire(host[1], wiring(pod))
        wire(host[1], wiring(pod, 2, attachment=Attachment("net", "c1", "net1")))
        first = links.get(inside, "eth0")
        assert first
        ways = [r for r in network.routes(inside) if r.destination.prefixlen == 0]
        assert len(ways) == 2
        assert ways[0].index == first.index


@pytest.mark.parametrize("alias", ["", "muslin:net/old/eth0", "muslin:net/c1/eth0"])
def test_a_stale_host_end_gives_way(host: tuple[Path, Connection], alias: str) -> None:
    """Of an interrupted ADD, of the pod's earlier container, of an earlier try: all have the name by right no more."""
    with namespace("old") as old, namespace("pod") as pod:
        wire(host[1], wiring(old))
        command(host[0], "ip", "link", "set", "mus00000000001", "alias", alias)
        wire(host[1], wiring(pod))
        outer = links.get(host[1], "mus00000000001")
        assert outer
        assert outer.alias == "muslin:net/c1/eth0"
        with Connection(old) as gone, Connection(pod) as there:
            assert links.get(gone, "eth0") is None
            assert links.get(there, "eth0")


@pytest.mark.parametrize("make", [("type", "bridge"), ("type", "veth", "peer", "name", "far")])
def test_a_foreign_link_of_that_name_is_left_alone(host: tuple[Path, Connection], make: tuple[str, ...]) -> None:
    with namespace("pod") as pod, Connection(pod) as inside:
        command(host[0], "ip", "link", "add", "mus00000000001", *make)
        command(host[0], "ip", "link", "set", "mus00000000001", "alias", "backup tunnel")
        before = links.get(host[1], "mus00000000001")
        with pytest.raises(AlreadyExists, match="backup tunnel"):
            wire(host[1], wiring(pod))
        assert links.get(host[1], "mus00000000001") == before
        assert names(inside) == set()


def test_nothing_is_left_of_an_add_that_fails_half_way(host: tuple[Path, Connection]) -> None:
    """The second address is the first again: refused when all else is there."""
    with namespace("pod") as pod, Connection(pod) as inside:
        with pytest.raises(KernelError, match="add address"):
            wire(host[1], wiring(pod, addresses=(IP, IP)))
        assert names(host[1]) == names(inside) == set()
        assert network.routes(host[1]) == []
        wire(host[1], wiring(pod))


def test_a_namespace_that_is_gone_or_none_is_named(host: tuple[Path, Connection], tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="CNI_NETNS"):
        wire(host[1], wiring(tmp_path / "gone"))
    (tmp_path / "file").touch()
    with pytest.raises(InvalidArgument, match="file"):
        wire(host[1], wiring(tmp_path / "file"))
    assert names(host[1]) == set()


def test_only_the_owner_deletes(host: tuple[Path, Connection]) -> None:
    """A late DEL of the old container must not tear down the new one; a second DEL finds nothing."""
    with namespace("pod") as pod:
        mine = wiring(pod)
        wire(host[1], mine)
        assert unwire(host[1], [(Attachment("net", "old", "eth0"), mine.host_interface)]) == []
        assert unwire(host[1], [(mine.attachment, mine.host_interface)]) == [mine.host_interface]
        assert unwire(host[1], [(mine.attachment, mine.host_interface)]) == []
        assert names(host[1]) == set()


def test_deletion_after_the_namespace_went(host: tuple[Path, Connection]) -> None:
    with namespace("pod") as pod:
        mine = wiring(pod)
        wire(host[1], mine)
        netns.delete(pod.name)
        unwire(host[1], [(mine.attachment, mine.host_interface)])
        assert names(host[1]) == set()


def test_forty_deletions_cost_about_one(host: tuple[Path, Connection]) -> None:
    """Deleted as a group, without a link of anybody else's."""
    with namespaces(44, "pod") as pods:
        all_ = [wiring(pod, number) for number, pod in enumerate(pods, 1)]
        for each in all_:
            wire(host[1], each)
        *most, first, second, third, last = all_
        command(host[0], "ip", "link", "add", "other", "type", "bridge")
        assert set(owned_links(host[1])) == {each.attachment for each in all_}

        def spent(*some: Wiring) -> float:
            began = time.perf_counter()
            unwire(host[1], [(each.attachment, each.host_interface) for each in some])
            return time.perf_counter() - began

        alone = sorted(map(spent, (first, second, third)))[1]
        together = spent(*most)
        assert names(host[1]) == {last.host_interface, "other"}
        assert together < 10 * alone


@pytest.mark.parametrize("name", ["mus00000000001", "mus-0123456789"])
def test_what_a_killed_daemon_was_making_goes_at_the_next_start(host: tuple[Path, Connection], name: str) -> None:
    """Such a veth has no owner yet, so no DEL can find it; and the pod's next ADD would find its name taken.

    It has its final name, or one of its own where an earlier one had that.
    """
    path, connection = host
    with namespace("pod") as pod:
        command(path, "ip", "link", "add", name, "group", str(UNFINISHED_GROUP), "type", "veth", "peer", "name",
                "eth0", "netns", pod.name)
        assert remove_unfinished(connection) == [name]
        assert links.get(connection, name) is None
        wire(connection, wiring(pod))
        assert remove_unfinished(connection) == []


def test_a_link_is_unfinished_until_it_has_its_owner(host: tuple[Path, Connection],
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever request a daemon is killed before, what is there then is either removed at the start or known."""
    connection = host[1]
    seen: list[tuple[bool, bool]] = []
    ask = Connection.request

    def watched(self: Connection, requests: Sequence[Request]) -> list[list[Reply]]:
        seen.extend((link.group == UNFINISHED_GROUP, link.alias == "muslin:net/c1/eth0")
                    for link in links.listing(connection, "veth") if link.mac == HOST_MAC and "old" not in link.alias)
        return ask(self, requests)

    with namespace("old") as old, namespace("pod") as pod:
        wire(connection, wiring(old, attachment=Attachment("net", "old", "eth0")))
        with monkeypatch.context() as patch:
            patch.setattr(Connection, "request", watched)
            wire(connection, wiring(pod))
        assert {unfinished for unfinished, _ in seen} == {True, False}
        assert all(unfinished != owned for unfinished, owned in seen)


def test_of_a_train_of_requests_the_first_refusal_is_named_and_the_others_happen(host: tuple[Path, Connection]) -> None:
    """Only the last is acknowledged; a refusal of any, the last too, is an answer. The next exchange is in step."""
    path, connection = host
    command(path, "ip", "link", "set", "lo", "down")
    gone, up = links.delete(900), links.set_link(1, up=True)
    for requests, refused in (([gone, up, links.delete(901)], 0), ([up, gone], 1), ([gone, up], 0)):
        with pytest.raises(KernelError, match="delete link 900: ") as caught:
            connection.request(requests)
        assert caught.value.index == refused
        loopback = links.get(connection, "lo")
        assert loopback
        assert loopback.up
        command(path, "ip", "link", "set", "lo", "down")
    assert connection.request([]) == []
