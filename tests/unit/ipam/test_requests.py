"""What a call asks for: who is listened to first, what is resolved, and what each mistake is called."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from muslin.api.cni.v1 import cni_pb2
from muslin.api.ipam.v1 import ipam_pb2
from muslin.cni import netconf
from muslin.errors import Exhausted, InvalidArgument, MuslinError, Unsupported
from services.ipam import handles, requests
from services.ipam.annotations import ADDRESSES, NO_IPAM, POOLS, STICKY
from services.ipam.handles import Address, Handle, Request
from services.ipam.inventory import Namespace, Node, Pod
from services.ipam.pools import Pool, make

HANDLE = Handle("net", "c1", "eth0", "n1", "prod", "web")
BARE = Handle("net", "c1", "eth0", "n1")
CALICO, OURS = 0, 1

EXISTING = (
    make("a", "10.0.0.0/16"), make("b", "10.1.0.0/16"), make("off", "10.2.0.0/16", disabled=True),
    make("six", "fd00::/64"),
)
ZONES = (
    make("east", "10.0.0.0/16", node_selector="zone == 'east'"),
    make("west", "10.1.0.0/16", node_selector="zone == 'west'"),
    make("gold", "10.2.0.0/16", namespace_selector="tier == 'gold'"),
)


def ask(annotations: dict[str, str] | None = None, ours: dict[str, str] | None = None, *, ipam: Any = None,
        ips: Any = (), args: dict[str, str] | None = None, existing: tuple[Pool, ...] = EXISTING,
        handle: Handle = HANDLE, node: Node | None = None, labels: dict[str, str] | None = None) -> Request:
    conf = netconf.parse(json.dumps(
        {"name": "net", "type": "muslin", "ipam": ipam or {}, "runtimeConfig": {"ips": list(ips)}}).encode())
    pod = None if annotations is None else Pod(annotations=annotations)
    namespace = None if ours is None and labels is None else Namespace(labels or {}, ours or {})
    return requests.of_call(handle, conf, args or {}, pod, namespace, node, existing)


def array(*texts: str) -> str:
    return json.dumps(texts)


def test_nothing_in_particular_is_one_ipv4_address_of_any_pool() -> None:
    assert ask() == Request(HANDLE, (4,))
    assert ask({}, {}) == Request(HANDLE, (4,))
    assert ask(handle=BARE) == Request(BARE, (4,))


@pytest.mark.parametrize(("ipam", "families"), [
    ({"assign_ipv6": "true"}, (4, 6)), ({"assign_ipv4": False, "assign_ipv6": True}, (6,)),
    ({"assign_ipv4": "true", "assign_ipv6": "false"}, (4,))])
def test_families(ipam: Any, families: tuple[int, ...]) -> None:
    assert ask(ipam=ipam).families == families


def test_pools_of_the_pod_go_before_those_of_its_namespace_before_those_of_the_configuration() -> None:
    """For each family by itself; by name or by range; in their order, each once."""
    conf = {"assign_ipv6": "true", "ipv4_pools": ["a", "10.1.0.0/16", "a"], "ipv6_pools": ["fd00::/64"]}
    assert ask(ipam=conf).pools == {4: ("a", "b"), 6: ("six",)}
    namespace = {POOLS[4][CALICO]: array("10.1.0.0/16")}
    assert ask({}, namespace, ipam=conf).pools == {4: ("b",), 6: ("six",)}
    pod = {POOLS[4][OURS]: array("b", "a")}
    assert ask(pod, namespace, ipam=conf).pools == {4: ("b", "a"), 6: ("six",)}
    assert ask(pod, namespace).pools == {4: ("b", "a")}


def test_both_spellings_of_an_annotation_may_be_there_if_they_agree() -> None:
    both = dict.fromkeys(POOLS[4], array("a"))
    assert ask(both).pools == {4: ("a",)}
    with pytest.raises(InvalidArgument, match=r"ipv4pools of pod prod/web and annotation muslin.dev/ipv4-pools differ"):
        ask(both | {POOLS[4][OURS]: array("b")})


def test_what_concerns_a_family_that_is_not_assigned_does_not_matter() -> None:
    """A namespace may say something for IPv6 before its nodes assign any."""
    assert ask({}, {POOLS[6][CALICO]: "nonsense"}, ipam={"ipv6_pools": ["absent"]}).pools == {}


@pytest.mark.parametrize(("pod", "ips", "args", "addresses"), [
    ({ADDRESSES[CALICO]: array("10.0.0.7")}, [], {}, ("10.0.0.7",)),
    ({ADDRESSES[OURS]: array("10.0.0.7", "FD00:0::7")}, [], {}, ("10.0.0.7", "fd00::7")),
    ({}, ["10.0.0.7/24"], {}, ("10.0.0.7",)),
    ({}, [], {"IP": "10.0.0.7"}, ("10.0.0.7",)),
    ({}, [], {"IP": "fd00::7/64, 10.0.0.7/24"}, ("10.0.0.7", "fd00::7")),
    ({ADDRESSES[CALICO]: array("10.0.0.7")}, ["10.0.0.7"], {"IP": "10.0.0.7"}, ("10.0.0.7",)),
    ({ADDRESSES[CALICO]: array("10.0.0.7")}, ["fd00::7"], {}, ("10.0.0.7", "fd00::7")),
    ({}, [], {"IP": ""}, ()),
])
def test_specific_addresses(pod: dict[str, str], ips: list[str], args: dict[str, str],
                            addresses: tuple[str, ...]) -> None:
    """Written in one place or in several that agree; the family that has none is given any."""
    asked = ask(pod, ips=ips, args=args, ipam={"assign_ipv6": "true"})
    assert (asked.addresses, asked.families) == (addresses, (4, 6))


def test_a_specific_address_goes_before_pools() -> None:
    """Which may then even be wrong: Calico does not look at them either."""
    asked = ask({ADDRESSES[CALICO]: array("10.0.0.7"), POOLS[4][CALICO]: array("absent")},
                ipam={"assign_ipv6": "true", "ipv6_pools": ["six"]})
    assert (asked.addresses, asked.pools) == (("10.0.0.7",), {6: ("six",)})


@pytest.mark.parametrize(("text", "seconds"), [
    ("10m", 600), ("90", 90), ("90s", 90), ("1h30m", 5400), ("1h 30m", None), ("24h", 86400), ("24h1s", None),
    ("0", 0), (" 5m ", 300), ("", None), ("-1", None), ("m", None), ("1.5h", None), ("٣", None), ("9" * 400, None)])
def test_sticky_addresses(text: str, seconds: int | None) -> None:
    if seconds is None:
        with pytest.raises(InvalidArgument, match=r"^annotation muslin.dev/sticky-addresses of pod prod/web: "):
            ask({STICKY: text})
    else:
        assert ask({STICKY: text}).sticky_seconds == seconds


def test_pools_serve_the_nodes_and_namespaces_that_their_selectors_match() -> None:
    east = Node({"zone": "east"})
    assert ask(existing=ZONES, node=east, labels={"tier": "gold"}).pools == {4: ("east", "gold")}
    assert ask(existing=ZONES, node=east, labels={"tier": "iron"}).pools == {4: ("east",)}
    assert ask(existing=ZONES, node=east).pools == {4: ("east",)}
    assert ask(existing=ZONES[2:], handle=HANDLE, labels={"tier": "gold"}).pools == {}, "all of them serve"


def test_of_the_pools_that_were_asked_for_those_serve_whose_selectors_match() -> None:
    """A namespace may name a pool for each zone."""
    conf = {"ipv4_pools": ["west", "east"]}
    assert ask(existing=ZONES, node=Node({"zone": "east"}), ipam=conf).pools == {4: ("east",)}
    with pytest.raises(InvalidArgument) as raised:
        ask(existing=ZONES, node=Node({"zone": "north"}), ipam=conf)
    assert raised.value.message.startswith("ipam.ipv4_pools: pool west does not serve node n1 (node selector ")


def test_that_no_pool_serves_says_why() -> None:
    with pytest.raises(Exhausted) as raised:
        ask(existing=ZONES)
    assert "pool east (10.0.0.0/16) does not serve node n1, whose labels are not known" in raised.value.message
    assert "pool gold (10.2.0.0/16) does not serve namespace prod, whose labels are not known" in raised.value.message
    with pytest.raises(Exhausted, match=r"pool gold .* does not serve what is in no namespace"):
        ask(existing=ZONES[2:], handle=BARE)


def test_nodes_and_namespaces_can_be_selected_by_name_before_anything_is_known_of_them() -> None:
    """By the labels that Kubernetes always gives them; a namespace can not call itself otherwise."""
    named = (make("n", "10.0.0.0/16", node_selector="kubernetes.io/hostname == 'n1'"),
             make("ns", "10.1.0.0/16", namespace_selector="kubernetes.io/metadata.name == 'prod'"),
             make("other", "10.2.0.0/16", namespace_selector="kubernetes.io/metadata.name == 'other'"))
    assert ask(existing=named).pools == {4: ("n", "ns")}
    assert ask(existing=named, labels={"kubernetes.io/metadata.name": "other"}).pools == {4: ("n", "ns")}


POD, SPACE = "of pod prod/web", "of namespace prod"


@pytest.mark.parametrize(("asked", "message"), [
    ({"ipam": {"assign_ipv4": "false"}}, "ipam.assign_ipv4 and ipam.assign_ipv6 are both false"),
    ({"annotations": {POOLS[4][0]: "a"}}, f"annotation {POOLS[4][0]} {POD} is not JSON"),
    ({"annotations": {POOLS[4][0]: "[" * 100_000}}, f"annotation {POOLS[4][0]} {POD} is nested too deeply"),
    ({"annotations": {POOLS[4][1]: '"a"'}}, f"annotation {POOLS[4][1]} {POD} must be a JSON array of strings"),
    ({"annotations": {POOLS[4][1]: '["a", 1]'}}, f"annotation {POOLS[4][1]} {POD} must be a JSON array of strings"),
    ({"annotations": {POOLS[4][0]: "[]"}}, f"annotation {POOLS[4][0]} {POD} is empty: remove it"),
    ({"annotations": {}, "ours": {POOLS[4][0]: "["}}, f"annotation {POOLS[4][0]} {SPACE} is not JSON"),
    ({"annotations": {POOLS[4][0]: '["absent"]'}}, f"annotation {POOLS[4][0]} {POD}: there is no pool 'absent'; "),
    ({"ipam": {"ipv4_pools": ["absent"]}}, "pools are a (10.0.0.0/16); b (10.1.0.0/16); off"),
    ({"annotations": {POOLS[4][0]: '[""]'}}, "there is no pool ''"),
    ({"ipam": {"ipv4_pools": ["10.0.0.0/24"]}}, "ipam.ipv4_pools: there is no pool '10.0.0.0/24'; pools are a"),
    ({"ipam": {"ipv4_pools": ["10.0.0.1/16"]}}, "ipam.ipv4_pools: '10.0.0.1/16' is not a range with all host bits"),
    ({"ipam": {"ipv4_pools": ["six"]}}, "ipam.ipv4_pools: pool six (fd00::/64) has IPv6 addresses, and IPv4 is asked"),
    ({"ipam": {"assign_ipv6": True, "ipv6_pools": ["a"]}}, "ipam.ipv6_pools: pool a (10.0.0.0/16) has IPv4 addresses"),
    ({"ipam": {"ipv4_pools": ["a", "off"]}}, "ipam.ipv4_pools: pool off (10.2.0.0/16) is disabled; enable it or"),
    ({"existing": ()} | {"ipam": {"ipv4_pools": ["a"]}}, "there is no pool 'a'; pools are not made yet"),
    ({"annotations": {ADDRESSES[0]: '["10.0.0.300"]'}}, f"annotation {ADDRESSES[0]} {POD}: '10.0.0.300' is not an"),
    ({"annotations": {ADDRESSES[0]: '["10.0.0.3/32"]'}}, f"{POD}: '10.0.0.3/32' is not an address"),
    ({"annotations": {ADDRESSES[0]: '["fd00::7%eth0"]'}}, f"{POD}: 'fd00::7%eth0' is not an address"),
    ({"ips": ["10.0.0.3/33"]}, "runtimeConfig.ips: '10.0.0.3/33' is not an address"),
    ({"args": {"IP": "web"}}, "IP in CNI_ARGS: 'web' is not an address"),
    ({"annotations": {ADDRESSES[0]: '["10.0.0.3", "10.0.0.4"]'}},
     f"annotation {ADDRESSES[0]} {POD} asks for 10.0.0.3 and 10.0.0.4: a pod has one IPv4 address"),
    ({"annotations": {ADDRESSES[0]: '["10.0.0.3"]'}, "args": {"IP": "10.0.0.4"}},
     f"annotation {ADDRESSES[0]} {POD} asks for 10.0.0.3, and IP in CNI_ARGS for 10.0.0.4"),
    ({"ips": ["10.0.0.3"], "args": {"IP": "10.0.0.4"}},
     "runtimeConfig.ips asks for 10.0.0.3, and IP in CNI_ARGS for 10.0.0.4"),
    ({"annotations": {ADDRESSES[1]: '["fd00::7"]'}},
     f"annotation {ADDRESSES[1]} {POD} asks for fd00::7, and ipam.assign_ipv6 is false: set it to"),
])
def test_a_mistake_is_named_with_its_place_and_the_fix(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        ask(**asked)
    assert message in raised.value.message


def test_a_pool_that_is_being_deleted_gives_nothing() -> None:
    going = Pool("going", "10.0.0.0/16", deleting=True)
    with pytest.raises(InvalidArgument, match="is being deleted"):
        ask(ipam={"ipv4_pools": ["going"]}, existing=(going,))


def test_addresses_that_no_pool_knows_of_are_not_supported() -> None:
    with pytest.raises(Unsupported, match="ipAddrsNoIpam of pod prod/web is not supported"):
        ask({NO_IPAM: array("10.0.0.3")})


def test_errors_stay_short_whatever_was_written() -> None:
    """They travel in a header of a few kilobytes."""
    many = tuple(make(f"p{number}", f"10.{number}.0.0/16", node_selector=f"has({'x' * 200})") for number in range(200))
    for asked in ({"annotations": {POOLS[4][0]: array("x" * 100_000)}}, {"ipam": {"ipv4_pools": ["x"]}}, {},
                  {"annotations": {ADDRESSES[0]: array("x" * 100_000)}},
                  {"annotations": {STICKY: "x" * 100_000}}, {"ipam": {"ipv4_pools": [pool.name for pool in many]}}):
        with pytest.raises(MuslinError) as raised:
            ask(**asked, existing=many)
        assert len(raised.value.message) < 4096


def test_what_is_held_already_is_what_asking_again_is_about() -> None:
    """If it can not be asked for any more; unless it is only kept for the pod's return."""
    def refused() -> Request:
        raise InvalidArgument("the pool is disabled")

    addresses = (Address("10.0.0.1", "10.0.0.0/26", 1), Address("fd00::1", "fd00::/122", 2))
    held = replace(HANDLE, addresses=addresses, sticky=60)
    again = requests.repeatable(HANDLE, lambda: held, refused)
    assert again == Request(HANDLE, (4, 6), ("10.0.0.1", "fd00::1"), {}, 60)
    assert requests.repeatable(HANDLE, lambda: held, ask) == ask()
    for nothing in (lambda: None, lambda: replace(held, kept_until_ms=1)):
        with pytest.raises(InvalidArgument, match="the pool is disabled"):
            requests.repeatable(HANDLE, nothing, refused)


ATTACHMENT = cni_pb2.Attachment(network="net", container_id="c1", ifname="eth0")


def of_message(asked: ipam_pb2.AssignRequest) -> Request:
    handle = handles.of(asked.attachment, asked.node, asked.namespace, asked.pod)
    return requests.of_message(asked, handle, None, None, EXISTING)


def test_the_api_asks_likewise() -> None:
    asked = ipam_pb2.AssignRequest(attachment=ATTACHMENT, node="n1", namespace="prod", pod="web", families=[6, 4],
                                   ipv4_pools=["10.1.0.0/16", "a"], sticky_seconds=60)
    assert of_message(asked) == Request(HANDLE, (4, 6), (), {4: ("b", "a")}, 60)
    specific = ipam_pb2.AssignRequest(attachment=ATTACHMENT, node="n1", addresses=["fd00:0::7"])
    assert of_message(specific) == Request(BARE, (6,), ("fd00::7",))
    plain = ipam_pb2.AssignRequest(attachment=ATTACHMENT, node="n1")
    assert of_message(plain) == Request(BARE, (4,))


@pytest.mark.parametrize(("fields", "message"), [
    ({"families": [5]}, "families [5] must be of 4 and 6"),
    ({"families": [4], "addresses": ["fd00::7"]}, "addresses: fd00::7 is IPv6, which families [4] lacks; add 6"),
    ({"addresses": ["10.0.0.1", "10.0.0.2"]}, "addresses asks for 10.0.0.1 and 10.0.0.2"),
    ({"addresses": ["10.0.0.1/16"]}, "addresses: '10.0.0.1/16' is not an address"),
    ({"ipv4_pools": ["absent"]}, "ipv4_pools: there is no pool 'absent'"),
    ({"families": [6], "ipv6_pools": ["a"]}, "ipv6_pools: pool a (10.0.0.0/16) has IPv4 addresses"),
    ({"sticky_seconds": 86_401}, "sticky_seconds 86401 must be 0 to 86400"),
    ({"node": ""}, "node '' must not be empty"),
])
def test_mistakes_of_the_api_are_named_by_its_fields(fields: dict[str, Any], message: str) -> None:
    whole: dict[str, Any] = {"attachment": ATTACHMENT, "node": "n1"}
    with pytest.raises(InvalidArgument) as raised:
        of_message(ipam_pb2.AssignRequest(**(whole | fields)))
    assert message in raised.value.message


KEYS = [*POOLS[4], *POOLS[6], *ADDRESSES, STICKY]
LIKELY = st.sampled_from(["a", "b", "off", "six", "10.0.0.0/16", "10.0.0.5", "fd00::5", "10.9.9.9", "fd00::/64", "/"])
VALUES = (st.lists(LIKELY, max_size=3).map(json.dumps) | st.lists(st.text(max_size=5), max_size=2).map(json.dumps)
          | st.recursive(st.none() | st.booleans() | st.integers() | LIKELY, st.lists).map(json.dumps)
          | st.text(max_size=20) | st.from_regex(r"[0-9]{0,12}[hms]?", fullmatch=True))
NOTES = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4)


@given(pod=st.none() | NOTES, ours=NOTES, six=st.booleans(), ips=st.lists(LIKELY | st.text(max_size=5), max_size=2),
       argument=LIKELY | st.text(max_size=8), labels=st.dictionaries(st.sampled_from(["zone", "tier"]), LIKELY))
def test_any_annotation_gives_a_request_or_an_error_of_ours(pod: dict[str, str] | None, ours: dict[str, str], six: bool,
                                                            ips: list[str], argument: str,
                                                            labels: dict[str, str]) -> None:
    """And a request names only pools that exist, serve, and have addresses of the family."""
    try:
        asked = ask(pod, ours, ipam={"assign_ipv6": six}, ips=ips, args={"IP": argument}, labels=labels)
    except MuslinError:
        return
    enabled = {4: {"a", "b"}, 6: {"six"}}
    assert asked.families == ((4, 6) if six else (4,))
    for family, names in asked.pools.items():
        assert names
        assert set(names) <= enabled[family]
    found = [6 if ":" in address else 4 for address in asked.addresses]
    assert sorted(set(found)) == found
    assert set(found) <= set(asked.families)
    assert not set(found) & set(asked.pools)
    assert 0 <= asked.sticky_seconds <= 86_400
