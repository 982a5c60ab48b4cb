"""The commands `muslin policy ...` as such: help, usage, where nothing runs, completion."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from muslin.api.policy.v1 import policy_pb2
from muslin.cli.main import cli
from muslin.cli.policy import complete
from muslin.cli.policy.group import policy
from muslin.cli.policy.live import written
from muslin.cli.policy.world import World
from muslin.kube.convert import policy_object
from muslin.kube.manifest import load
from tests.unit.cli.policy_world import SHOP, muslin, write


@pytest.mark.parametrize("name", policy.commands)
def test_every_command_and_option_explains_itself(name: str) -> None:
    command = policy.commands[name]
    assert "Usage: " in muslin(name, "--help")
    assert command.help
    assert all(option.help for option in command.params if isinstance(option, click.Option))
    assert "form" in {param.name for param in command.params}, "for programs, too"


@pytest.mark.parametrize("arguments", [
    ["explain", "a/b"], ["explain", "a/b", "c/d", "--port", "0"], ["explain", "a/b", "c/d", "--proto", "icmp"],
    ["matrix", "x"], ["matrix", "-o", "jpeg"], ["test"], ["test", "a", "b"], ["status", "x"], ["nonsense"],
], ids=" ".join)
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    muslin(*arguments, code=2)


@pytest.mark.parametrize("arguments", [["explain", "a/b", "c/d"], ["matrix"], ["lint", "--live"], ["status"]],
                         ids=" ".join)
def test_where_nothing_runs_that_is_one_line_and_exit_code_1(arguments: list[str], tmp_path: Path) -> None:
    message = muslin(*arguments, "--run-dir", str(tmp_path), code=1)
    assert message.startswith(f"Error: muslin is not up on {tmp_path}; start it with: ")


def test_completion_names_commands_and_options_and_is_silent_where_nothing_runs(tmp_path: Path) -> None:
    def completed(words: str, number: int) -> list[str]:
        result = CliRunner().invoke(cli, prog_name="muslin", env={
            "_MUSLIN_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(number)})
        return [line.partition(",")[2] for line in result.output.splitlines() if line]
    assert completed("muslin policy ", 2) == sorted(policy.commands)
    assert "--port" in completed("muslin policy explain --p", 3)
    assert "svg" in completed("muslin policy matrix -o s", 4)
    assert completed(f"muslin policy explain --run-dir {tmp_path} sh", 5) == []
    assert complete.pods(tmp_path) == []


def test_lines_are_told_only_while_the_file_says_what_is_in_force(tmp_path: Path) -> None:
    file = write(tmp_path)
    stored = [policy_object(item) for item in load([file]).policies]
    for message in stored:  # as they come back from the store, written in another way
        message.manifest = json.dumps(json.loads(message.manifest), indent=1).encode()
    assert [item.line_of("spec.ingress[1]") for item in written(stored)] == [28]
    assert written(stored)[0].place("spec") == f"{file}, document 4, line 21, column 1"
    write(tmp_path, SHOP.replace("endPort: 5440", "endPort: 5441"), "other.yaml")
    changed = policy_pb2.Object()
    changed.CopyFrom(stored[0])
    changed.origin = f"{tmp_path}/other.yaml, document 4"
    gone = policy_pb2.Object()
    gone.CopyFrom(stored[0])
    gone.origin = f"{tmp_path}/none.yaml, document 4"
    assert [(item.origin, item.place("spec")) for item in written([changed, gone])] == [
        (None, changed.origin), (None, gone.origin)]


@pytest.mark.parametrize(("policy_name", "tier", "key"), [
    ("knp.default.shop.web.v2", "default", ("NetworkPolicy", "shop", "web.v2")),
    ("shop/web", "security", ("NetworkPolicy.projectcalico.org", "shop", "web")),
    ("baseline", "security", ("GlobalNetworkPolicy", "", "baseline")),
    ("k8s_ns.shop", "", ("Namespace", "", "shop")), ("mynet", "", ("Profile", "", "mynet")),
    ("serviceaccount/shop/seller", "", ("ServiceAccount", "shop", "seller")),
])
def test_what_decided_is_traced_to_its_object(policy_name: str, tier: str, key: tuple[str, str, str]) -> None:
    kind, namespace, name = key
    objects = written([policy_pb2.Object(kind=kind, namespace=namespace, name=name, manifest=b"{}"),
                       policy_pb2.Object(kind="NetworkPolicy", namespace="x", name="y", manifest=b"{}")])
    assert World((), tuple(objects)).owner(policy_name, tier) is objects[0]
    assert World((), tuple(objects)).owner("other", tier) is None
