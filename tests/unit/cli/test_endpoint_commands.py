"""The commands `muslin endpoint ...` as such: help, usage, errors; and what they show."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from muslin.api.cni.v1 import cni_pb2
from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.cli.endpoint import views
from muslin.cli.endpoint.group import endpoint
from muslin.cli.ipam.output import plain
from muslin.cli.ipam.table import Look
from muslin.cli.main import cli

POD = endpoint_pb2.WorkloadEndpoint(
    attachment=cni_pb2.Attachment(network="net", container_id="0123456789abcdef", ifname="eth0"), node="n1",
    namespace="shop", pod="web", labels={"b": "2", "a": "", "calico/k8s_ns": "shop"},
    addresses=["10.0.0.1", "fd00::1"], profiles=["k8s_ns.shop"], host_interface="cali0", mac="0a:00:00:00:00:01",
    ports=[endpoint_pb2.NamedPort(name="http", protocol="TCP", port=80)], revision=7)
PLAIN = endpoint_pb2.WorkloadEndpoint(
    attachment=cni_pb2.Attachment(network="blue", container_id="0123456789abcdef", ifname="eth1"), node="n1",
    addresses=["10.0.0.2"], host_interface="mus0", profiles=["blue", "red"])


@pytest.mark.parametrize("name", endpoint.commands)
def test_every_command_and_option_explains_itself(name: str) -> None:
    command = endpoint.commands[name]
    assert CliRunner().invoke(cli, ["endpoint", name, "--help"]).exit_code == 0
    assert command.help
    assert all(option.help for option in command.params if isinstance(option, click.Option))
    assert "form" in {param.name for param in command.params}, "for programs, too"


@pytest.mark.parametrize("arguments", [["list", "-o", "text"], ["list", "x"], ["show"], ["label", "a/b/c"],
                                       ["label", "a/b/c", "x"], ["nonsense"]], ids=" ".join)
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(cli, ["endpoint", *arguments]).exit_code == 2


@pytest.mark.parametrize("arguments", [["list"], ["show", "shop/web"], ["label", "a/b/c", "x=y"]], ids=" ".join)
def test_where_nothing_runs_that_is_one_line_and_exit_code_1(arguments: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["endpoint", *arguments, "--run-dir", str(tmp_path)])
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: muslin is not up on {tmp_path}; start it with: ")


def test_a_target_that_does_not_answer_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["endpoint", "list", "--endpoint", f"unix:{tmp_path}/none.sock"])
    assert result.exit_code == 1
    assert result.output.startswith("Error: endpoint: list: ")
    assert f"{tmp_path}/none.sock" in result.output


def test_a_table() -> None:
    assert views.listed([POD, PLAIN], Look()).splitlines() == [
        ("ENDPOINT           NODE  ADDRESSES         INTERFACE  NETWORK  PROFILES     LABELS                    "
        "CONTAINER"),
        ("shop/web           n1    10.0.0.1 fd00::1  cali0      net      k8s_ns.shop  a b=2 calico/k8s_ns=shop  "
        "0123456789ab"),
        ("0123456789ab eth1  n1    10.0.0.2          mus0       blue     blue red     -                         "
        "0123456789ab")]


def test_a_narrow_table_keeps_what_matters_most() -> None:
    lines = views.listed([POD, PLAIN], Look(width=60)).splitlines()
    assert max(map(len, lines)) <= 60
    assert lines[0].split()[:4] == ["ENDPOINT", "NODE", "ADDRESSES", "INTERFACE"]
    assert "fd00::1" in lines[1]


def test_one_in_full() -> None:
    lines = views.described(POD).splitlines()
    assert lines[:4] == ["endpoint         shop/web", "attachment       net/0123456789abcdef/eth0",
                         "node             n1", "addresses        10.0.0.1 fd00::1"]
    assert "ports            http=80/TCP" in lines
    assert not any(line.startswith(("pod uid", "namespace path")) for line in lines), "what is empty is left out"


def test_labels_are_a_mapping_for_programs() -> None:
    assert plain(POD)["labels"] == {"a": "", "b": "2", "calico/k8s_ns": "shop"}
    assert plain(PLAIN)["labels"] == {}
    assert plain(POD)["ports"] == [{"name": "http", "protocol": "TCP", "port": 80}]
