"""The commands `muslin ipam ...` as such: help, usage, errors, completion."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from muslin.cli.ipam.group import ipam
from muslin.cli.main import cli


def commands(group: click.Group, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)


ALL = dict(commands(ipam, "ipam"))


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_command_and_option_explains_itself(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, [*path, "--help"])
    assert result.exit_code == 0
    assert ALL[path].help
    assert "..." not in ALL[path].get_short_help_str(limit=60)
    for option in ALL[path].params:
        if isinstance(option, click.Option):
            assert option.help, f"{path} {option.name}"


def test_every_command_that_shows_something_does_so_for_programs_too() -> None:
    """All but groups and the two that only say that something is gone."""
    without = {path for path, command in ALL.items() if not isinstance(command, click.Group)
               and "form" not in {param.name for param in command.params}}
    assert without == {("ipam", "pool", "delete"), ("ipam", "reserve", "delete")}


def test_examples_in_help_keep_their_lines() -> None:
    lines = [line.strip() for line in CliRunner().invoke(cli, ["ipam", "--help"]).output.splitlines()]
    assert "muslin ipam show --ip 192.168.0.7        whose an address is" in lines


@pytest.mark.parametrize("arguments", [
    ["show", "--ip", "10.0.0.1", "--blocks"], ["show", "-o", "text"], ["pool", "create", "a"], ["pool", "update", "a"],
    ["pool", "create", "a", "10.0.0.0/8", "--block-size", "19"], ["pool", "update", "a", "--cool-down", "1201"],
    ["reserve", "create", "a"], ["configure", "--max-blocks", "-1"], ["release"], ["release-affinity"],
    ["release", "--from-report", "/nowhere"], ["remove-node"], ["nonsense"],
], ids=" ".join)
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(cli, ["ipam", *arguments]).exit_code == 2


def test_one_can_not_name_both_a_report_and_addresses(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{}")
    report = str(tmp_path / "report.json")
    assert CliRunner().invoke(cli, ["ipam", "release", "--from-report", report, "10.0.0.1"]).exit_code == 2


@pytest.mark.parametrize("arguments", [
    ["show"], ["show", "--ip", "10.0.0.1"], ["pool", "list"], ["pool", "create", "a", "10.0.0.0/8"], ["configure"],
    ["reserve", "delete", "a"], ["check"], ["collect"], ["rebuild"], ["release", "10.0.0.1", "--yes"],
    ["release-affinity", "node1"], ["remove-node", "node1"],
], ids=" ".join)
def test_where_nothing_runs_that_is_one_line_and_exit_code_1(arguments: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["ipam", *arguments, "--run-dir", str(tmp_path)])
    assert result.exit_code == 1
    assert result.output == (f"Error: muslin is not up on {tmp_path}; start it with: muslin up --run-dir {tmp_path} "
                             "(in another terminal, or with --detach)\n")


def test_a_target_that_does_not_answer_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["ipam", "pool", "list", "--ipam", f"unix:{tmp_path}/none.sock"])
    assert result.exit_code == 1
    assert result.output.startswith("Error: ipam: list pools: ")
    assert f"{tmp_path}/none.sock" in result.output
    assert result.output.count("\n") == 1


def test_a_damaged_report_is_named(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("nonsense")
    result = CliRunner().invoke(cli, ["ipam", "release", "--from-report", str(tmp_path / "report.json")])
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: {tmp_path}/report.json: not JSON: ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_what_the_shell_understands(shell: str) -> None:
    """Those of shells that are here are read by them; the others say for whom they complete."""
    script = CliRunner().invoke(cli, ["completion", shell])
    assert script.exit_code == 0
    assert f"_MUSLIN_COMPLETE={shell}_complete" in script.output
    if path := shutil.which(shell):
        subprocess.run([path, "-n"], input=script.output, text=True, check=True)


def test_completion_completes_and_is_quiet_where_nothing_runs(tmp_path: Path) -> None:
    def completed(words: str, number: int) -> list[str]:
        environment = {"_MUSLIN_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(number),
                       "MUSLIN_RUN_DIR": str(tmp_path)}
        done = subprocess.run([sys.executable, "-m", "muslin.cli.main"], env=environment, capture_output=True,
                              text=True, check=False)
        assert done.stderr == ""
        return [line.partition(",")[2] for line in done.stdout.split()]

    assert completed("muslin ipam re", 2) == ["rebuild", "release", "release-affinity", "remove-node", "reserve"]
    assert completed("muslin ipam show --bl", 3) == ["--blocks"]
    assert completed("muslin ipam pool delete ", 4) == []
