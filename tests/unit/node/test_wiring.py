"""Planning of wiring: who may replace what, and what a pod gets."""

from __future__ import annotations

import dataclasses
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muslin.api.cni.v1 import cni_pb2
from muslin.cni import context as contexts
from muslin.cni import result as results
from muslin.cni.context import Context
from muslin.cni.invocation import Invocation
from muslin.cni.result import Interface, IPConfig, Result, Route
from muslin.errors import InvalidArgument
from services.node.attachment import Attachment
from services.node.netlink.links import Link
from services.node.netlink.shaping import Bucket
from services.node.plugin import answer, wiring_of
from services.node.wiring import replaceable
from services.node.wiring_plan import GATEWAY_6, HOST_MAC, Wiring, host_requests, pod_addresses, pod_requests

ME = Attachment("net", "c1", "eth0")


def link(kind: str = "veth", alias: str = "") -> Link:
    return Link(5, "mus1", kind, alias, "", 1500, True, 0, 2, True)


@pytest.mark.parametrize(("existing", "expected"), [
    (link(), True),  # interrupted before it was named
    (link(alias="muslin:net/c1/eth0"), True),  # an earlier try of this one
    (link(alias="muslin:net/c0/eth0"), True),  # the same pod's earlier container
    (link(alias="backup tunnel"), False),
    (link(kind="dummy"), False),
    (link(kind=""), False),  # hardware
    (link(kind="dummy", alias="muslin:net/c1/eth0"), False),
])
def test_only_what_is_stale_is_replaced(existing: Link, *, expected: bool) -> None:
    assert replaceable(existing, ME) is expected


names = st.text("abcXYZ019_.-", min_size=1, max_size=60)


@given(names, names, names)
def test_an_alias_names_its_attachment(network: str, container: str, ifname: str) -> None:
    attachment = Attachment(network, container, ifname)
    assert Attachment.from_alias(attachment.alias) == attachment


@pytest.mark.parametrize("alias", ["", "muslin:", "muslin:a/b", "muslin:a/b/c/d", "muslin:a//c", "other:a/b/c",
                                   "a/b/c"])
def test_other_aliases_name_none(alias: str) -> None:
    assert Attachment.from_alias(alias) is None


def test_an_identity_that_the_kernel_can_not_hold_is_refused() -> None:
    """Cut short, it would be another attachment's."""
    with pytest.raises(InvalidArgument, match="name"):
        _ = Attachment("n" * 200, "c" * 64, "eth0").alias


def test_addresses_must_be_there_and_once() -> None:
    assert pod_addresses(["10.0.0.1/32", "10.0.0.2", "fd00::1/128"]) == (
        ipaddress.IPv4Address("10.0.0.1"), ipaddress.IPv4Address("10.0.0.2"), ipaddress.IPv6Address("fd00::1"))
    with pytest.raises(InvalidArgument, match="ips"):
        pod_addresses([])
    with pytest.raises(InvalidArgument, match="10\\.0\\.0\\.300"):
        pod_addresses(["10.0.0.300/32"])
    with pytest.raises(InvalidArgument, match="twice"):
        pod_addresses(["10.0.0.1/32", "fd00::1", "10.0.0.1"])


V4, V6 = ipaddress.IPv4Address("10.0.0.1"), ipaddress.IPv6Address("fd00::1")


def test_what_host_and_pod_are_told() -> None:
    wiring = Wiring(ME, "/run/netns/x", "mus1", "02:00:00:00:00:01", (V4,))
    assert [r.what for r in host_requests(wiring, 9)] == [
        "set link 9", "set ARP parameters of link 9", "add route 10.0.0.1/32 on link 9",
        "add neighbour 10.0.0.1 on link 9"]
    assert [r.what for r in pod_requests(wiring, 2)] == [
        "set link 1", "set link 2", "add address 10.0.0.1 to link 2", "add neighbour 169.254.1.1 on link 2",
        "add route 169.254.1.1/32 on link 2", "add route 0.0.0.0/0 via 169.254.1.1 on link 2"]


def test_what_they_are_told_of_ipv6() -> None:
    """Beside IPv4, and alone: then there is nothing of IPv4."""
    both = Wiring(ME, "/run/netns/x", "mus1", "02:00:00:00:00:01", (V4, V6), egress=Bucket(1000, 2000))
    assert [r.what for r in host_requests(both, 9)] == [
        "set link 9", "set ARP parameters of link 9", "add address fe80::ecee:eeff:feee:eeee to link 9",
        "add route 10.0.0.1/32 on link 9", "add route fd00::1/128 on link 9",
        "add neighbour 10.0.0.1 on link 9", "add neighbour fd00::1 on link 9"]
    alone = dataclasses.replace(both, addresses=(V6,))
    assert [r.what for r in pod_requests(alone, 2)] == [
        "set link 1", "set link 2", "add address fd00::1 to link 2",
        "add neighbour fe80::ecee:eeff:feee:eeee on link 2",
        "add route ::/0 via fe80::ecee:eeff:feee:eeee on link 2", "limit the rate of link 2"]


def test_the_gateway_follows_from_the_mac_address_of_the_host_end() -> None:
    """RFC 4291, appendix A: the universal bit inverted, ff:fe in the middle."""
    raw = bytes.fromhex(HOST_MAC.replace(":", ""))
    identifier = bytes([raw[0] ^ 2]) + raw[1:3] + b"\xff\xfe" + raw[3:]
    assert ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + identifier) == GATEWAY_6


def invocation(**changes: object) -> Invocation:
    fields: dict[str, object] = {
        "container_id": "c1", "netns": "/run/netns/x", "ifname": "eth0",
        "config": b'{"cniVersion": "1.0.0", "name": "net", "type": "muslin", "mtu": 1400}',
        "result": results.render(Result(ips=(IPConfig("10.0.0.1/32"),)), "1.0.0"),
        "context": contexts.render(Context(host_interface="mus1", mac="02:00:00:00:00:01"))}
    return Invocation.parse(cni_pb2.Call(**(fields | changes)), "n1")  # type: ignore[arg-type]  # fields of the message


def test_an_add_becomes_wiring() -> None:
    assert wiring_of(invocation()) == Wiring(
        ME, "/run/netns/x", "mus1", "02:00:00:00:00:01", (ipaddress.IPv4Address("10.0.0.1"),), 1400)


@pytest.mark.parametrize(("changes", "field"), [
    ({"netns": ""}, "CNI_NETNS"), ({"result": b""}, "ips"), ({"context": b""}, "endpoint service")])
def test_what_is_missing_is_named(changes: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidArgument, match=field):
        wiring_of(invocation(**changes))


def test_the_result_names_both_ends_and_the_way_out() -> None:
    """Behind what earlier plugins made, which stays as it is."""
    wiring = wiring_of(invocation())
    earlier = Result((Interface("lo"),), (IPConfig("127.0.0.1/8", interface=0), IPConfig("10.0.0.1/32")))
    assert answer(earlier, wiring, 1400) == Result(
        (Interface("lo"), Interface("mus1", "ee:ee:ee:ee:ee:ee", 1400),
         Interface("eth0", "02:00:00:00:00:01", 1400, "/run/netns/x")),
        (IPConfig("127.0.0.1/8", interface=0), IPConfig("10.0.0.1/32", interface=2)),
        (Route("0.0.0.0/0", "169.254.1.1"),))


def test_the_result_names_a_way_out_for_each_family() -> None:
    """Both addresses are the new interface's."""
    dual = invocation(result=results.render(Result(ips=(IPConfig("10.0.0.1/32"), IPConfig("fd00::1/128"))), "1.0.0"))
    made = answer(dual.result, wiring_of(dual), 1500)
    assert made.ips == (IPConfig("10.0.0.1/32", interface=1), IPConfig("fd00::1/128", interface=1))
    assert made.routes == (Route("0.0.0.0/0", "169.254.1.1"), Route("::/0", "fe80::ecee:eeff:feee:eeee"))
