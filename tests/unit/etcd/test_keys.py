"""The layout of keys: building and parsing are inverse, and nothing else passes for a key of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muslin.errors import Corrupt, InvalidArgument
from muslin.etcd import keys

NAME = st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), min_size=1, max_size=20)
CIDR = st.one_of(
    st.builds(lambda address, length: f"{address}/{length}", st.ip_addresses(v=4), st.integers(0, 32)),
    st.builds(lambda address, length: f"{address}/{length}", st.ip_addresses(v=6), st.integers(0, 128)))

KINDS: list[tuple[Callable[..., str], Callable[[str], Any], tuple[st.SearchStrategy[str], ...]]] = [
    (keys.pool, keys.parse_pool, (NAME,)),
    (keys.block, keys.parse_block, (CIDR,)),
    (keys.affinity, keys.parse_affinity, (NAME, CIDR)),
    (keys.handle, keys.parse_handle, (NAME, NAME, NAME)),
    (keys.endpoint, keys.parse_endpoint, (NAME, NAME, NAME)),
    (keys.pod, keys.parse_pod, (NAME, NAME)),
    (keys.namespace, keys.parse_namespace, (NAME,)),
    (keys.node, keys.parse_node, (NAME,)),
    (keys.host, keys.parse_host, (NAME,)),
    (keys.presence, keys.parse_presence, (NAME,)),
    (keys.policy_object, keys.parse_policy_object, (NAME, NAME.filter(lambda name: name != keys.CLUSTER), NAME)),
    (keys.profile, keys.parse_profile, (NAME,)),
]


@pytest.mark.parametrize(("build", "parse", "parts"), KINDS, ids=lambda value: getattr(value, "__name__", ""))
@given(data=st.data())
def test_parsing_a_key_gives_the_parts_it_was_built_from(build: Callable[..., str], parse: Callable[[str], Any],
                                                         parts: tuple[st.SearchStrategy[str], ...],
                                                         data: st.DataObject) -> None:
    values = tuple(data.draw(part) for part in parts)
    expected = values if len(values) > 1 else values[0]
    assert parse(build(*values)) == expected


@pytest.mark.parametrize(("build", "parse", "parts"), KINDS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_part_that_would_change_the_layout_is_refused(build: Callable[..., str], parse: Callable[[str], Any],
                                                        parts: tuple[st.SearchStrategy[str], ...]) -> None:
    """A slash or nothing at all in any place: it would be another record's key, or another layout's."""
    good = ["10.0.0.0/26" if part is CIDR else "x" for part in parts]
    parse(build(*good))
    for place in range(len(parts)):
        for bad in ("a/b/c", "/"):
            with pytest.raises(InvalidArgument, match="can not be part of an etcd key"):
                build(*[*good[:place], bad, *good[place + 1:]])


@pytest.mark.parametrize(("build", "parse", "parts"), KINDS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_foreign_key_does_not_parse(build: Callable[..., str], parse: Callable[[str], Any],
                                      parts: tuple[st.SearchStrategy[str], ...]) -> None:
    good = build(*["10.0.0.0/26" if part is CIDR else "x" for part in parts])
    for bad in ("", "/registry/pods/x", good + "/more", good.rpartition("/")[0], good.rpartition("/")[0] + "/",
                "/other" + good):
        with pytest.raises(Corrupt, match="nothing of ours wrote it"):
            parse(bad)


def test_the_written_layout_is_stable() -> None:
    """Keys outlive the program that wrote them."""
    assert keys.pool("default") == "/muslin/ipam/v1/pools/default"
    assert keys.block("10.0.0.64/26") == "/muslin/ipam/v1/blocks/10.0.0.64-26"
    assert keys.block("fd00::/122") == "/muslin/ipam/v1/blocks/fd00::-122"
    assert keys.affinity("node-1", "10.0.0.64/26") == "/muslin/ipam/v1/affinities/node-1/10.0.0.64-26"
    assert keys.handle("net", "c1", "eth0") == "/muslin/ipam/v1/handles/net/c1/eth0"
    assert keys.endpoint("net", "c1", "eth0") == "/muslin/endpoint/v1/endpoints/net/c1/eth0"
    assert keys.pod("default", "web-0") == "/muslin/endpoint/v1/pods/default/web-0"
    assert keys.namespace("default") == "/muslin/endpoint/v1/namespaces/default"
    assert keys.node("worker-1") == "/muslin/endpoint/v1/nodes/worker-1"
    assert keys.policy_object("Namespace", "", "default") == "/muslin/policy/v1/objects/Namespace/_/default"
    assert keys.profile("k8s_ns.default") == "/muslin/policy/v1/profiles/k8s_ns.default"


def test_cluster_wide_objects_come_back_without_a_namespace() -> None:
    assert keys.parse_policy_object(keys.policy_object("Namespace", "", "default")) == ("Namespace", "", "default")


def test_prefixes_of_a_part_end_where_the_part_ends() -> None:
    """The prefix for node "a" must not take in node "ab"."""
    assert not keys.affinity("ab", "10.0.0.0/26").startswith(keys.affinities_of("a"))
    assert keys.affinity("a", "10.0.0.0/26").startswith(keys.affinities_of("a"))
    assert not keys.handle("net", "c10", "eth0").startswith(keys.handles_of("net", "c1"))
    assert keys.handle("net", "c1", "eth0").startswith(keys.handles_of("net", "c1"))
    assert keys.endpoint("net", "c1", "eth0").startswith(keys.endpoints_of("net"))
    assert keys.pod("default", "web").startswith(keys.pods_in("default"))
    assert keys.policy_object("Pod", "", "web").startswith(keys.policy_objects("Pod"))


def test_no_layout_lies_inside_another() -> None:
    """A watch on one kind of record must not see another kind."""
    layouts = [keys.IPAM_POOLS, keys.IPAM_BLOCKS, keys.IPAM_AFFINITIES, keys.IPAM_HANDLES, keys.ENDPOINTS, keys.PODS,
               keys.POLICY_OBJECTS, keys.POLICY_PROFILES]
    assert not [(one, other) for one in layouts for other in layouts if one != other and one.startswith(other)]
