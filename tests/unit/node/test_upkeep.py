"""Upkeep without a kernel: what is seen again, what differs, what STATUS says, what records hold."""

from __future__ import annotations

import dataclasses
import ipaddress
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muslin.api.cni.v1 import cni_pb2
from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.cni.invocation import Invocation
from muslin.errors import FailedPrecondition, Unavailable
from muslin.rpc import Readiness
from services.node.attachment import Attachment
from services.node.netlink.attributes import u32
from services.node.netlink.connection import Reply
from services.node.netlink.links import Link
from services.node.netlink.shaping import Bucket
from services.node.upkeep.events import Gone, Kind, deletions
from services.node.upkeep.host import End, Host, compare
from services.node.upkeep.records import Record, Records, from_endpoint, of_add
from services.node.upkeep.sightings import Sightings
from services.node.upkeep.status import STALE_SECONDS, Standing
from services.node.wiring_plan import GATEWAY_6, HOST_MAC, HOST_SETTINGS, HOST_SETTINGS_6, Wiring, host_end

ATTACHMENT = Attachment("net", "c", "eth0")
WIRING = Wiring(ATTACHMENT, "/run/netns/c", "mus0", "02:00:00:00:00:01",
                (ipaddress.ip_address("10.0.0.1"), ipaddress.ip_address("fd00::1")), 1400, Bucket(1000, 2000))
LINK = Link(7, "mus0", "veth", ATTACHMENT.alias, HOST_MAC, 1400, True, 0, 2, True)


def end_of(wiring: Wiring) -> End:
    """As it should be."""
    wanted = host_end(wiring)
    return End(LINK, dict(HOST_SETTINGS), {name: str(value) for name, value in HOST_SETTINGS_6.items()},
               frozenset(route for route, _ in wanted.routes), frozenset(wanted.neighbours), frozenset({GATEWAY_6}))


def test_what_is_as_it_should_be_does_not_differ() -> None:
    assert compare(end_of(WIRING), WIRING) == []


def test_what_others_added_does_not_differ() -> None:
    end = end_of(WIRING)
    assert compare(dataclasses.replace(end, routes=end.routes | {ipaddress.ip_network("10.9.0.0/16")}), WIRING) == []


@pytest.mark.parametrize(("what", "changed"), [
    ("link", {"link": dataclasses.replace(LINK, up=False)}),
    ("link", {"link": dataclasses.replace(LINK, name="other")}),
    ("link", {"link": dataclasses.replace(LINK, alias="")}),
    ("link", {"link": dataclasses.replace(LINK, mac="02:00:00:00:00:09")}),
    ("link", {"addresses": frozenset()}),
    ("setting", {"settings": {**HOST_SETTINGS, "rp_filter": 0}}),
    ("setting", {"settings_6": {"forwarding": "0"}}),
    ("route", {"routes": frozenset({ipaddress.ip_network("10.0.0.1/32")})}),
    ("neighbour", {"neighbours": frozenset({(ipaddress.ip_address("fd00::1"), "02:00:00:00:00:01")})}),
])
def test_each_change_is_one_difference(what: str, changed: dict[str, object]) -> None:
    found = compare(dataclasses.replace(end_of(WIRING), **changed), WIRING)  # type: ignore[arg-type]  # by parameter
    assert [difference.what for difference in found] == [what]


def test_of_a_pod_without_ipv6_nothing_of_it_is_asked() -> None:
    four = dataclasses.replace(WIRING, addresses=WIRING.addresses[:1])
    assert compare(dataclasses.replace(end_of(four), settings_6={}, addresses=frozenset()), four) == []


def test_a_link_is_found_by_its_owner_before_its_index() -> None:
    """One without an owner only where nothing says that it is the attachment's; another's never."""
    mine = end_of(WIRING)
    nameless = dataclasses.replace(mine, link=dataclasses.replace(LINK, index=8, alias=""))
    other = dataclasses.replace(mine, link=dataclasses.replace(LINK, index=9, alias="muslin:net/d/eth0"))
    assert Host([nameless, mine, other]).of(ATTACHMENT, 8) is mine
    assert Host([nameless, other]).of(ATTACHMENT, 8) is nameless
    assert Host([nameless, other]).of(ATTACHMENT, 9) is None
    assert Host([nameless, mine, other]).owned.keys() == {ATTACHMENT, Attachment("net", "d", "eth0")}


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.sampled_from([1, 2]))))
def test_sure_is_what_was_there_the_same_at_the_last_two_looks(looks: list[dict[str, int]]) -> None:
    sightings: Sightings[str] = Sightings()
    before: dict[str, int] = {}
    for look in looks:
        assert set(sightings.look(look)) == {key for key, mark in look.items() if before.get(key) == mark}
        before = look


def reply(kind: int, body: bytes) -> Reply:
    return Reply(kind, 0, 0, memoryview(body))


def test_only_deletions_of_links_routes_and_neighbours_are_heard() -> None:
    """A link that left a bridge, or a route without a device, is nothing that was deleted."""
    link, bridged = struct.pack("BxHiII", 0, 0, 5, 0, 0), struct.pack("BxHiII", 7, 0, 6, 0, 0)
    route = bytes(12) + u32(4, 7)
    neighbour = struct.pack("BxxxiHBB", 2, 8, 0, 0, 0)
    assert deletions([reply(17, link), reply(17, bridged), reply(16, link), reply(25, route), reply(25, bytes(12)),
                      reply(29, neighbour), reply(28, neighbour)]) == [
        Gone(Kind.LINK, 5), Gone(Kind.ROUTE, 7), Gone(Kind.NEIGHBOUR, 8)]


class Clock:
    """A clock that goes when it is told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_status_tells_what_is_not_there_yet_from_what_has_become_old() -> None:
    """A program that is not followed for a moment is no reason to take the node out of service."""
    readiness, clock = Readiness(), Clock()
    standing = Standing(readiness, clock)
    kernel, stream = readiness.part("kernel"), readiness.part("policy stream")
    kernel.set(True)
    stream.set(False, "no program yet")
    problem = standing.problem(enforcing=False)
    assert isinstance(problem, Unavailable)
    assert "policy stream: no program yet" in problem.message
    stream.set(True)
    assert standing.problem(enforcing=True) is None
    stream.set(False, "lost")
    clock.now += STALE_SECONDS - 0.1
    assert standing.problem(enforcing=True) is None
    clock.now += 0.1
    problem = standing.problem(enforcing=True)
    assert isinstance(problem, FailedPrecondition)
    assert "policy stream: lost" in problem.message
    stream.set(False, "lost, in other words")
    assert isinstance(standing.problem(enforcing=True), FailedPrecondition), "still the same loss"
    stream.set(True)
    stream.set(False, "lost again")
    assert standing.problem(enforcing=True) is None


CALL = cni_pb2.Call(container_id="c", ifname="eth0", args="K8S_POD_NAMESPACE=ns;K8S_POD_NAME=p;K8S_POD_UID=u",
                    config=b'{"cniVersion": "1.0.0", "name": "net", "type": "muslin"}',
                    context=b'{"profiles": ["k8s_ns.ns"]}')


def test_a_record_says_how_a_pod_is_wired_and_what_the_endpoint_service_had() -> None:
    record = of_add(Invocation.parse(CALL, "n1"), WIRING, "boot")
    assert record.wiring == WIRING
    assert record.endpoint("n1") == endpoint_pb2.WorkloadEndpoint(
        attachment=ATTACHMENT.to_message(), node="n1", orchestrator="k8s", workload="ns.p", namespace="ns", pod="p",
        pod_uid="u",
        addresses=["10.0.0.1", "fd00::1"], profiles=["k8s_ns.ns"], host_interface="mus0", mac="02:00:00:00:00:01",
        netns="/run/netns/c")
    assert record.args == "K8S_POD_NAMESPACE=ns;K8S_POD_NAME=p"


def test_what_the_endpoint_service_says_later_changes_labels_and_no_wiring() -> None:
    record = of_add(Invocation.parse(CALL, "n1"), WIRING, "boot")
    said = record.endpoint("n1")
    said.labels["app"] = "web"
    said.service_account = "sa"
    said.ports.add(name="http", protocol="TCP", port=80)
    told = endpoint_pb2.WorkloadEndpoint.FromString(said.SerializeToString())
    said.addresses[:] = ["10.0.0.9"]
    after = from_endpoint(said, "boot", record)
    assert after.wiring == WIRING
    assert after.endpoint("n1") == told
    assert from_endpoint(told, "boot", None).endpoint("n1") == told


def test_records_outlive_the_process_and_not_the_boot(tmp_path: Path) -> None:
    record = of_add(Invocation.parse(CALL, "n1"), WIRING, "one")
    records = Records(tmp_path, "one")
    records.load()
    records.put(record)
    again = Records(tmp_path, "one")
    again.load()
    assert again.all() == {ATTACHMENT: record}
    rebooted = Records(tmp_path, "two")
    rebooted.load()
    assert rebooted.all() == {}
    assert list(tmp_path.iterdir()) == []


def test_a_sandbox_is_gone_with_its_path_or_when_another_is_there(tmp_path: Path) -> None:
    path = tmp_path / "netns"
    path.write_text("")
    record = Record("net", "c", "eth0", "boot", "mus0", "02:00:00:00:00:01", ("10.0.0.1",), netns=str(path),
                    netns_inode=path.stat().st_ino)
    assert not record.sandbox_gone
    other = tmp_path / "other"
    other.write_text("")
    other.replace(path)
    assert record.sandbox_gone
    path.unlink()
    assert record.sandbox_gone
    assert not Record("net", "c", "eth0", "boot", "mus0", "", ()).sandbox_gone, "not known"
