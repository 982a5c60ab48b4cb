"""Who may call what: the table against all methods of all protocols."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

import pytest
from google.protobuf.descriptor import MethodDescriptor

from muslin import api
from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.api.policy.v1 import policy_pb2
from muslin.rpc.access import EVERYBODY, RULES, refusal, repeatable
from muslin.rpc.identity import Caller, Role

SERVICES = (Role.IPAM, Role.ENDPOINT, Role.POLICY)
NODE = Caller.named("node:n1")


def methods() -> Iterator[tuple[str, MethodDescriptor]]:
    """Every method of every service in protos/."""
    for module in pkgutil.walk_packages(api.__path__, f"{api.__name__}."):
        if module.name.endswith("_pb2"):
            for service in importlib.import_module(module.name).DESCRIPTOR.services_by_name.values():
                for method in service.methods:
                    yield f"/{service.full_name}/{method.name}", method


METHODS = dict(methods())


def test_the_walk_sees_all_protocols() -> None:
    """Guards the tests below against looking at nothing."""
    assert {path.split(".")[1] for path in METHODS} >= {"ipam", "endpoint", "policy", "node", "rpc"}


@pytest.mark.parametrize("path", sorted(METHODS))
def test_each_method_has_a_rule(path: str) -> None:
    """One that is missing is the operator's alone; add it to muslin/rpc/access.py once it is known whose it is."""
    assert path in RULES


def test_there_is_no_rule_for_what_is_not_there() -> None:
    assert {path for path in RULES if not path.startswith("/grpc.health.")} == set(METHODS)


@pytest.mark.parametrize("path", sorted(RULES))
def test_the_operator_and_this_host_may_everything_and_nobody_nothing(path: str) -> None:
    assert refusal(path, Caller.named("operator")) == ""
    assert refusal(path, Caller(Role.LOCAL)) == ""
    for stranger in (Caller(Role.NOBODY), Caller.named("etcd1"), Caller.named("root"), Caller.named("node:")):
        assert stranger.role is Role.NOBODY
        assert refusal(path, stranger) != ""


WRITES = ("Create", "Update", "Delete", "Set", "Apply", "Remove", "Release", "Rebuild", "Collect")


@pytest.mark.parametrize("path", sorted(path for path in METHODS if ".Plugin/" not in path))
def test_what_changes_the_cluster_is_the_operators(path: str) -> None:
    """But for a node's record of its own, whose owner the service looks at."""
    if path.rpartition("/")[2].startswith(WRITES) and path != "/muslin.endpoint.v1.Endpoints/Delete":
        for caller in (NODE, *(Caller.named(role.value) for role in SERVICES)):
            assert "it is for operator" in refusal(path, caller)


@pytest.mark.parametrize("path", sorted(path for path in METHODS if ".Plugin/" in path))
def test_the_chain_is_for_nodes_and_a_nodes_own_part_for_its_own_host(path: str) -> None:
    assert (refusal(path, NODE) == "") is not path.startswith("/muslin.node.")
    for role in SERVICES:
        assert refusal(path, Caller.named(role.value)) != ""
    assert repeatable(path) is not path.startswith("/muslin.node.")


@pytest.mark.parametrize("path", sorted(RULES))
def test_what_is_passed_on_is_for_nobody_from_elsewhere(path: str) -> None:
    """The node daemon passes calls on under its own name: another node must not act as this one through it."""
    for caller in (NODE, *(Caller.named(role.value) for role in SERVICES)):
        assert refusal(path, caller, passed_on=True) != ""
    assert refusal(path, Caller.named("operator"), passed_on=True) == ""


def test_a_method_that_nobody_knows_is_the_operators() -> None:
    assert refusal("/muslin.new.v1.New/Method", NODE) != ""
    assert refusal("/muslin.new.v1.New/Method", Caller.named("operator")) == ""
    assert not repeatable("/muslin.new.v1.New/Method")


def test_the_names_of_nodes_in_requests_are_found() -> None:
    """An empty name means all nodes where a watch is about nodes, and the caller where that is the default."""
    watch, subscribe, get, announce = (RULES[f"/muslin.{path}"].nodes for path in (
        "endpoint.v1.Endpoints/Watch", "policy.v1.Programs/Subscribe", "endpoint.v1.Endpoints/GetNode",
        "endpoint.v1.Endpoints/Announce"))
    assert watch
    assert subscribe
    assert get
    assert announce
    assert list(watch(endpoint_pb2.WatchRequest())) == [""]
    assert list(watch(endpoint_pb2.WatchRequest(node="n2"))) == ["n2"]
    assert list(subscribe(policy_pb2.SubscribeRequest(enforced_revision=7))) == []
    assert list(subscribe(policy_pb2.SubscribeRequest(node="n2"))) == ["n2"]
    assert list(get(endpoint_pb2.GetNodeRequest())) == []
    assert list(get(endpoint_pb2.GetNodeRequest(name="n2"))) == ["n2"]
    assert list(announce(endpoint_pb2.AnnounceRequest(host=endpoint_pb2.Host(node="n2")))) == ["n2"]


@pytest.mark.parametrize("path", sorted(
    path for path, method in METHODS.items()
    if "node" in method.input_type.fields_by_name and Role.NODE in RULES[path].roles))
def test_a_node_that_a_node_names_is_looked_at(path: str) -> None:
    """Every request of a node's with a field `node` has a rule about it."""
    assert RULES[path].nodes is not None


def test_tunnel_and_health_are_for_everybody_with_a_name() -> None:
    assert RULES["/muslin.rpc.v1.Tunnel/Calls"].roles == EVERYBODY
    assert Role.NOBODY not in EVERYBODY
