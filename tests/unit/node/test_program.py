"""Messages of the policy service as values."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from muslin.api.cni.v1 import cni_pb2
from muslin.api.policy.v1 import policy_pb2 as pb
from muslin.errors import Corrupt
from services.node.attachment import Attachment
from services.node.enforce.program import Action, Endpoint, Group, Kind, Policy, Rule, Update, from_message, member

ATTACHMENT = cni_pb2.Attachment(network="net", container_id="c1", ifname="eth0")


def test_every_field_arrives() -> None:
    message = pb.SubscribeResponse(
        revision=7, snapshot=True,
        groups=[pb.Group(id="g", kind=pb.Group.KIND_ADDRESS, members=["10.0.0.1", "fd00::1"], selector="app == 'x'"),
                pb.Group(id="p", kind=pb.Group.KIND_PORT, members=["10.0.0.1,6,8080"])],
        group_changes=[pb.GroupChange(id="g", added=["10.0.0.2"], removed=["10.0.0.1"])],
        policies=[pb.Policy(id="default/a", name="a", ingress=[pb.Rule(
            action=pb.ACTION_ALLOW, protocol=6, peer_group="g", nets=["10.0.0.0/8"], not_nets=["10.1.0.0/16"],
            ports=[pb.PortRange(first=80, last=90)], port_group="p", path="spec.ingress[0]")],
            egress=[pb.Rule(action=pb.ACTION_PASS)])],
        endpoints=[pb.Endpoint(attachment=ATTACHMENT, interface="mus1", addresses=["10.0.0.1"],
                               ingress=[pb.TierPolicies(tier="default", policies=["default/a"]),
                                        pb.TierPolicies(tier="empty")],
                               egress=[pb.TierPolicies(tier="default", policies=["default/a"])],
                               profiles=["profile/x"], workload="ns/web")],
        removed_groups=["r"], removed_policies=["s"], removed_endpoints=[ATTACHMENT])
    one, six, two = (frozenset({ipaddress.ip_address(a).packed}) for a in ("10.0.0.1", "fd00::1", "10.0.0.2"))
    assert from_message(message) == Update(
        7, True,
        (Group("g", Kind.ADDRESS, one, six, "app == 'x'"),
         Group("p", Kind.PORT, frozenset({b"\x0a\0\0\x01\x06\0\0\0\x1f\x90\0\0"}))),
        (("g", two, one),),
        (Policy("default/a", "a", (Rule(
            Action.ALLOW, 6, "g", (ipaddress.IPv4Network("10.0.0.0/8"),), (ipaddress.IPv4Network("10.1.0.0/16"),),
            ((80, 90),), "p", "spec.ingress[0]"),), (Rule(Action.PASS),)),),
        (Endpoint(Attachment("net", "c1", "eth0"), "mus1", (ipaddress.IPv4Address("10.0.0.1"),),
                  (("default/a",),), (("default/a",),), ("profile/x",), "ns/web"),),
        ("r",), ("s",), (Attachment("net", "c1", "eth0"),))


@pytest.mark.parametrize("value", ["", "10.0.0", "10.0.0.256", "fd00::x", "10.0.0.1,6", "10.0.0.1,256,80",
                                   "10.0.0.1,6,65536", "10.0.0.1,tcp,80", "10.0.0.1,6,80,1"])
def test_a_bad_member_is_refused(value: str) -> None:
    with pytest.raises(Corrupt, match="member"):
        member(value)


@pytest.mark.parametrize(("field", "name"), [
    ({"policies": [pb.Policy(ingress=[pb.Rule(path="r1")])]}, "r1"),  # no action
    ({"policies": [pb.Policy(ingress=[pb.Rule(action=pb.ACTION_ALLOW, nets=["10.0.0.1/8"], path="r2")])]}, "r2"),
    ({"policies": [pb.Policy(egress=[pb.Rule(action=pb.ACTION_DENY, protocol=256, path="r3")])]}, "r3"),
    ({"policies": [pb.Policy(egress=[pb.Rule(action=pb.ACTION_DENY, path="r4", protocol=6,
                                             ports=[pb.PortRange(first=2, last=1)])])]}, "r4"),
    ({"groups": [pb.Group(id="g1")]}, "g1"),
    ({"endpoints": [pb.Endpoint(attachment=ATTACHMENT, interface="x" * 16)]}, "net/c1/eth0"),
    ({"endpoints": [pb.Endpoint(attachment=ATTACHMENT, interface="mus1", addresses=["10.0.0.1/32"])]}, "net/c1/eth0"),
])
def test_what_can_not_be_enforced_is_named(field: dict[str, Any], name: str) -> None:
    with pytest.raises(Corrupt, match=name):
        from_message(pb.SubscribeResponse(revision=1, **field))
