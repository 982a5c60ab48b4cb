"""Where pods of a play on several nodes go, and how nodes are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from muslin.cli.play.nodes import commands, spread
from muslin.errors import InvalidArgument
from muslin.kube.manifest import load

PODS = """
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: c}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: b}, spec: {nodeName: two, containers: [{name: c}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: c}, spec: {containers: [{name: c}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: d}, spec: {containers: [{name: c}]}}
"""


def test_pods_go_where_they_say_and_the_others_in_turn(tmp_path: Path) -> None:
    (tmp_path / "pods.yaml").write_text(PODS)
    pods = load([str(tmp_path)]).pods
    assert spread(pods, ["one", "two"]) == ["one", "two", "two", "one"]
    assert spread(pods, []) == [""] * 4
    with pytest.raises(InvalidArgument, match=r"pods.yaml.*spec.nodeName 'two' is none of the nodes one"):
        spread(pods, ["one"])


def test_nodes_and_the_commands_that_reach_them() -> None:
    assert commands(["n1=docker exec -i 'n 1'", "n2="]) == {"n1": ["docker", "exec", "-i", "n 1"], "n2": []}


@pytest.mark.parametrize("given", [["n1"], ["=x"], ["n1=a", "n1=b"], ["n1='"]])
def test_what_is_no_node_is_refused_by_its_name(given: list[str]) -> None:
    with pytest.raises(InvalidArgument, match="--node"):
        commands(given)
