"""The commands `muslin node ...` as such: help, usage, errors; and what they show."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.api.ipam.v1 import ipam_pb2
from muslin.api.policy.v1 import policy_pb2
from muslin.cli.ipam.table import Look
from muslin.cli.main import cli
from muslin.cli.node import views
from muslin.cli.node.group import node
from muslin.cli.node.views import Seen

FULL = Seen("n1", endpoint_pb2.Host(node="n1", addresses=["192.0.2.1"], present=True, version="1.2"),
            ipam_pb2.NodeUse(node="n1", blocks=2, addresses=70), policy_pb2.NodeStatus(node="n1", connected=True))
SILENT = Seen("n2", endpoint_pb2.Host(node="n2"), ipam_pb2.NodeUse(node="n2", draining=True))
LAGS = Seen("n3", endpoint_pb2.Host(node="n3", present=True, trouble="kernel: starting"), None,
            policy_pb2.NodeStatus(node="n3", connected=True, lag_seconds=2.25))


@pytest.mark.parametrize("name", node.commands)
def test_every_command_and_option_explains_itself(name: str) -> None:
    command = node.commands[name]
    assert CliRunner().invoke(cli, ["node", name, "--help"]).exit_code == 0
    assert command.help
    assert all(option.help for option in command.params if isinstance(option, click.Option))
    assert "form" in {param.name for param in command.params}, "for programs, too"


@pytest.mark.parametrize("arguments", [["list", "x"], ["show"], ["drain-ipam"], ["drain-ipam", "n", "--undo", "--wait"],
                                       ["drain-ipam", "n", "--timeout", "3"], ["nonsense"]], ids=" ".join)
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(cli, ["node", *arguments]).exit_code == 2


@pytest.mark.parametrize("arguments", [["list"], ["show", "n1"], ["drain-ipam", "n1"]], ids=" ".join)
def test_where_nothing_runs_that_is_one_line_and_exit_code_1(arguments: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["node", *arguments, "--run-dir", str(tmp_path)])
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: muslin is not up on {tmp_path}; start it with: ")


def test_a_table() -> None:
    assert views.listed([FULL, SILENT, LAGS], Look()).splitlines() == [
        "NODE  STATE            BLOCKS  ADDRESSES  LAG    REACHED AT  VERSION",
        "n1    ready                 2         70  none   192.0.2.1   1.2",
        "n2    silent, drained       0          0  -      -           -",
        "n3    not ready             -          -  2.2 s  -           -"]
    assert views.listed([], Look()) == "no node has announced itself, has addresses or policy"


def test_one_in_full() -> None:
    block = ipam_pb2.Block(cidr="10.0.0.0/26", used=3, size=64, cooling=1, affinity=ipam_pb2.Block.AFFINITY_CONFIRMED)
    text = views.shown(LAGS, [block])
    assert "trouble:    kernel: starting" in text
    assert text.splitlines()[-1] == "  10.0.0.0/26  3 of 64 used, 1 cooling, confirmed"
    assert views.state(Seen("n4")) == "unknown"


def test_what_draining_came_to() -> None:
    def said(released: tuple[str, ...] = (), **use: int) -> str:
        left = ipam_pb2.NodeUse(node="n1", **use)  # type: ignore[arg-type]  # a flag is a number, too
        return views.drained(ipam_pb2.DrainNodeResponse(left=left, released=released))

    assert said(draining=True, blocks=1, addresses=2) == (
        "node n1 gets no new address; addresses left: 2, blocks left: 1")
    assert said(("10.0.0.0/26",), draining=True) == (
        "node n1 is drained of addresses, and has none; released 10.0.0.0/26")
    assert said(blocks=1) == "node n1 gets addresses again; it has 0 addresses and 1 block"


def test_for_programs() -> None:
    plain = FULL.plain()
    assert (plain["node"], plain["host"]["present"], plain["use"]["addresses"]) == ("n1", True, 70)
    assert Seen("n").plain() == {"node": "n", "host": None, "use": None, "policy": None}
