"""CHECK against a real kernel: every kind of damage is named, and what later plugins add is none."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from muslin.api.cni.v1 import cni_pb2
from muslin.cni import result as results
from muslin.cni.context import Context
from muslin.cni.context import render as render_context
from muslin.cni.invocation import Invocation
from muslin.cni.result import Interface, IPConfig, Result, Route
from muslin.errors import Corrupt, InvalidArgument
from services.node.check import differences, expected_of
from services.node.netlink.shaping import Bucket
from services.node.plugin import answer
from tests.integration.node.world import World, world
from tests.support.netns import command

pytestmark = pytest.mark.root


@pytest.fixture
def made() -> Iterator[World]:
    with world("a", ipv6=True) as built:
        built.enforce(built.pods["a"].endpoint())
        yield built


def found(made: World, **changes: object) -> list[str]:
    wiring = dataclasses.replace(made.pods["a"].wiring, mtu=1500)
    return differences(made.links, dataclasses.replace(wiring, **changes))  # type: ignore[arg-type]  # fields of it


def test_what_was_just_wired_is_as_it_was_wired(made: World) -> None:
    assert found(made) == []


def test_what_others_add_is_no_difference(made: World) -> None:
    """As route-override, tuning and bandwidth do behind us in a chain."""
    pod = made.pods["a"].netns
    command(pod, "ip", "route", "add", "10.96.0.0/12", "via", "169.254.1.1", "dev", "eth0", "onlink")
    command(pod, "ip", "address", "add", "10.9.9.9/32", "dev", "eth0")
    command(pod, "ip", "link", "add", "extra", "type", "bridge")
    command(pod, "sh", "-c", "tc qdisc add dev eth0 root tbf rate 1mbit burst 10kb latency 50ms")
    command(made.host, "sysctl", "-qw", "net.ipv4.conf.musa.log_martians=1")
    assert found(made) == []


DAMAGE = [
    ("pod", "ip link set eth0 down", "eth0 is down"),
    ("pod", "ip link set lo down", "lo is down"),
    ("pod", "ip link set eth0 name eth9", "interface eth0 is gone"),
    ("pod", "ip link set eth0 mtu 1400", "eth0 has MTU 1400, not 1500"),
    ("pod", "ip link set eth0 address 02:00:00:00:00:99", "eth0 has MAC 02:00:00:00:00:99, not 02:00:00:00:00:01"),
    ("pod", "ip address del 192.168.7.1/32 dev eth0", "address 192.168.7.1 of eth0 is missing"),
    ("pod", "ip address del fd00:7::1/128 dev eth0", "address fd00:7::1 of eth0 is missing"),
    ("pod", "ip route del default", "route 0.0.0.0/0 via 169.254.1.1 of eth0 is missing"),
    ("pod", "ip -6 route del default", "route ::/0 via fe80::ecee:eeff:feee:eeee of eth0 is missing"),
    ("pod", "ip neighbour del 169.254.1.1 dev eth0", "permanent neighbour 169.254.1.1 of eth0 is missing"),
    ("pod", "ip neighbour replace 169.254.1.1 lladdr 02:00:00:00:00:98 nud permanent dev eth0",
     "neighbour 169.254.1.1 of eth0 has MAC 02:00:00:00:00:98, not ee:ee:ee:ee:ee:ee"),
    ("host", "ip link del musa", "host interface musa is gone"),
    ("host", "ip link set musa down", "musa is down"),
    ("host", "ip link set musa alias muslin:net/other/eth0", "host interface musa belongs to muslin:net/other/eth0"),
    ("host", "ip link set musa address 02:00:00:00:00:97", "musa has MAC 02:00:00:00:00:97, not ee:ee:ee:ee:ee:ee"),
    ("host", "ip link set musa mtu 1300", "musa has MTU 1300, not 1500"),
    ("host", "ip route del 192.168.7.1", "route 192.168.7.1/32 of musa is missing"),
    ("host", "ip -6 route del fd00:7::1", "route fd00:7::1/128 of musa is missing"),
    ("host", "ip neighbour del 192.168.7.1 dev musa", "permanent neighbour 192.168.7.1 of musa is missing"),
    ("host", "sysctl -qw net.ipv4.conf.musa.rp_filter=0", "net.ipv4.conf.musa.rp_filter is 0, not 1"),
    ("host", "sysctl -qw net.ipv4.neigh.musa.proxy_delay=80", "net.ipv4.neigh.musa.proxy_delay is 80, not 0"),
    ("host", "sysctl -qw net.ipv6.conf.musa.proxy_ndp=0", "net.ipv6.conf.musa.proxy_ndp is 0, not 1"),
    ("host", "nft delete table inet muslin", "table muslin is gone"),
    ("host", "nft delete element inet muslin from_pod '{ \"musa\" }'", "rules: musa is not in from_pod"),
    ("host", "nft flush set inet muslin sources6", "rules: musa is not in sources6"),
]


@pytest.mark.parametrize(("where", "line", "said"), DAMAGE, ids=[line for _, line, _ in DAMAGE])
def test_damage_is_named(made: World, where: str, line: str, said: str) -> None:
    command(made.host if where == "host" else made.pods["a"].netns, "sh", "-c", line)
    differing = found(made)
    assert any(each.removeprefix("in the pod: ") == said for each in differing), differing
    assert all(each.startswith("in the pod: ") == (where == "pod") for each in differing if said in each)


def test_a_limit_of_ours_that_is_gone_is_named(made: World) -> None:
    assert found(made, egress=Bucket(1000, 65536)) == ["in the pod: eth0 is held to no bytes a second, not 1000"]


def test_another_veth_in_its_place_is_named(made: World) -> None:
    """One of the same name, made by hand."""
    pod = made.pods["a"].netns
    command(pod, "ip", "link", "set", "eth0", "name", "was")
    command(pod, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other")
    assert "in the pod: eth0 is not the other end of musa" in found(made)


def test_a_namespace_that_is_gone_is_named(made: World) -> None:
    with pytest.raises(InvalidArgument, match="CNI_NETNS /run/netns/none"):
        found(made, netns="/run/netns/none")


def checked(prev: Result | None, version: str = "1.1.0", **changes: object) -> Invocation:
    config: dict[str, object] = {"cniVersion": version, "name": "net", "type": "muslin"}
    if prev is not None:
        config["prevResult"] = json.loads(results.render(prev, version))
    return Invocation.parse(cni_pb2.Call(
        container_id="container-a", netns="/run/netns/x", ifname="eth0", config=json.dumps(config | changes).encode(),
        context=render_context(Context())), "n1")


@pytest.mark.parametrize("version", ["0.4.0", "1.0.0", "1.1.0"])
def test_what_add_answered_is_what_check_expects(made: World, version: str) -> None:
    """Through the result in each version that has CHECK; only 1.1.0 tells the MTU."""
    wiring = made.pods["a"].wiring
    answered = answer(Result(ips=(IPConfig("192.168.7.1/32"), IPConfig("fd00:7::1/128"))), wiring, 1500)
    expected = expected_of(checked(answered, version), "musa")
    assert expected.mtu == (1500 if version == "1.1.0" else 0)
    assert expected.addresses == wiring.addresses
    assert differences(made.links, dataclasses.replace(expected, netns=wiring.netns)) == []


def test_routes_that_a_later_plugin_took_out_are_not_expected(made: World) -> None:
    """The chain's result no longer has the default route, so CHECK does not miss it."""
    wiring = made.pods["a"].wiring
    answered = answer(Result(ips=(IPConfig("192.168.7.1/32"), IPConfig("fd00:7::1/128"))), wiring, 1500)
    routes = (Route("10.0.0.0/8", "169.254.1.1"), Route("::/0", "fe80::ecee:eeff:feee:eeee"))
    expected = expected_of(checked(dataclasses.replace(answered, routes=routes)), "musa")
    pod = Path(wiring.netns)
    command(pod, "ip", "route", "del", "default")
    command(pod, "ip", "route", "add", "10.0.0.0/8", "via", "169.254.1.1", "dev", "eth0", "onlink")
    assert differences(made.links, dataclasses.replace(expected, netns=wiring.netns)) == []


def test_a_result_without_any_route_expects_none(made: World) -> None:
    """A later plugin took them all out, of both families: no default is put in their place."""
    wiring = made.pods["a"].wiring
    answered = answer(Result(ips=(IPConfig("192.168.7.1/32"), IPConfig("fd00:7::1/128"))), wiring, 1500)
    expected = expected_of(checked(dataclasses.replace(answered, routes=())), "musa")
    pod = Path(wiring.netns)
    command(pod, "ip", "route", "del", "default")
    command(pod, "ip", "-6", "route", "del", "default")
    assert differences(made.links, dataclasses.replace(expected, netns=wiring.netns)) == []


def test_a_result_that_can_not_be_compared_is_refused_by_name() -> None:
    with pytest.raises(InvalidArgument, match="prevResult is missing"):
        expected_of(checked(None), "musa")
    with pytest.raises(InvalidArgument, match="has no eth0 in a sandbox"):
        expected_of(checked(Result()), "musa")
    with pytest.raises(InvalidArgument, match="no host interface musb"):
        expected_of(checked(Result((Interface("musa"), Interface("eth0", sandbox="/run/netns/x")))), "musb")
    with pytest.raises(InvalidArgument, match="no host interface with MAC ee:"):
        expected_of(checked(Result((Interface("br0"), Interface("eth0", sandbox="/run/netns/x")))))
    with pytest.raises(Corrupt):
        expected_of(checked(None, prevResult={"cniVersion": "1.0.0", "ips": [{}]}), "musa")
