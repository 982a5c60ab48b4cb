"""What a Node should say of its network, and when: nothing is said hastily, and nothing twice."""

from __future__ import annotations

from typing import Any

import msgspec

from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.kube.kinds import Node
from services.endpoint.standing import NOT_READY, UP, Standing, Standings, condition, untainted

DOWN = Standing(False, "MuslinIsDown", "")


def host(*, present: bool = True, trouble: str = "") -> endpoint_pb2.Host:
    return endpoint_pb2.Host(node="n1", present=present, trouble=trouble)


def node(**fields: Any) -> Node:
    return msgspec.convert({"metadata": {"name": "n1"}, **fields}, Node)


def saying(status: str, reason: str = "X") -> Node:
    return node(status={"conditions": [{"type": "Ready", "status": "True"}, {
        "type": "NetworkUnavailable", "status": status, "reason": reason}]})


def test_a_node_that_serves_is_up_at_once() -> None:
    assert Standings(60.0).of(host(), 0.0) is UP


def test_silence_counts_after_its_time_and_trouble_too() -> None:
    standings = Standings(60.0)
    assert standings.of(host(present=False), 100.0) is None
    assert standings.of(host(trouble="kernel: starting"), 159.0) is None
    said = standings.of(host(present=False), 160.0)
    assert said is not None
    assert (said.available, said.reason) == (False, "MuslinIsDown")
    said = standings.of(host(trouble="kernel: starting"), 161.0)
    assert said is not None
    assert (said.available, said.reason) == (False, "MuslinIsNotReady")
    assert "kernel: starting" in said.message
    assert standings.of(host(), 162.0) is UP
    assert standings.of(host(present=False), 163.0) is None, "its time begins anew"


def test_after_a_time_in_which_nothing_was_known_everybody_gets_time() -> None:
    standings = Standings(60.0)
    standings.of(host(present=False), 0.0)
    standings.forget()
    assert standings.of(host(present=False), 60.0) is None
    assert standings.waiting == {"n1"}
    standings.drop("n1")
    assert standings.waiting == set()
    assert standings.of(host(present=False), 119.0) is None
    assert standings.of(host(present=False), 179.0) is not None


def test_a_condition_is_written_where_it_says_something_new() -> None:
    assert condition(saying("False", "RouteCreated"), UP, "now") is None
    assert condition(saying("True", "MuslinIsDown"), DOWN, "now") is None
    for before in (node(), saying("True", "NoRouteCreated")):
        change = condition(before, UP, "now")
        assert change is not None
        assert [(each["type"], each["status"], each["reason"], each["lastTransitionTime"])
                for each in change["status"]["conditions"]] == [("NetworkUnavailable", "False", "MuslinIsUp", "now")]
    for before in (node(), saying("False"), saying("True", "MuslinIsNotReady")):
        change = condition(before, DOWN, "now")
        assert change is not None
        assert change["status"]["conditions"][0]["status"] == "True"


def test_the_taint_goes_and_others_stay() -> None:
    taints = [{"key": "a", "effect": "NoSchedule"}, {"key": NOT_READY, "effect": "NoSchedule"},
              {"key": NOT_READY, "effect": "NoExecute", "value": "x"}]
    assert list(untainted(node(spec={"taints": taints}))) == [
        {"op": "test", "path": "/spec/taints/2/key", "value": NOT_READY}, {"op": "remove", "path": "/spec/taints/2"},
        {"op": "test", "path": "/spec/taints/1/key", "value": NOT_READY}, {"op": "remove", "path": "/spec/taints/1"}]
    assert list(untainted(node(spec={"taints": taints[:1]}))) == []
    assert list(untainted(node())) == []
