"""The command line as such: help, usage, exit codes, and a quick start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from muslin.cli.main import cli


def commands(group: click.Group, *path: str) -> dict[str, click.Command]:
    """All commands, those of groups included, by the words that call them."""
    found: dict[str, click.Command] = {}
    for name, command in sorted(group.commands.items()):
        found[" ".join((*path, name))] = command
        if isinstance(command, click.Group):
            found |= commands(command, *path, name)
    return found


COMMANDS = commands(cli)


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_and_option_explains_itself(words: str) -> None:
    result = CliRunner().invoke(cli, [*words.split(), "--help"])
    assert result.exit_code == 0
    assert COMMANDS[words].help
    for option in COMMANDS[words].params:
        if isinstance(option, click.Option) and not option.hidden:
            assert option.help, f"{words} {option.name}"


def test_there_are_commands_in_groups() -> None:
    assert {"trace flows", "policy explain", "ipam show"} <= set(COMMANDS)


@pytest.mark.parametrize("arguments", [
    ["play"], ["apply"], ["explain", "a/b"], ["explain", "a/b", "c/d", "--port", "0"], ["nonsense"],
    ["up", "--log-level", "x"],
])
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(cli, arguments).exit_code == 2


def test_an_error_is_one_line_and_exit_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    result = CliRunner().invoke(cli, ["probe", "--run-dir", str(tmp_path)])
    assert result.exit_code == 1
    assert result.output == (f"Error: muslin is not up on {tmp_path}; start it with: muslin up --run-dir {tmp_path} "
                             "(in another terminal, or with --detach)\n")


def test_without_rights_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    result = CliRunner().invoke(cli, ["status"])
    assert result.exit_code == 1
    assert result.output == "Error: needs root, for network namespaces and nf_tables; try it with sudo\n"


def test_help_does_not_wait_for_what_only_commands_need() -> None:
    heavy = ("grpc", "asyncio", "yaml", "msgspec", "google.protobuf", "etcd3")
    code = f"import sys, muslin.cli.main; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
