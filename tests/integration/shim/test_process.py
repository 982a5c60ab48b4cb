"""The plugin's process: bad input, odd surroundings, and what it prints where."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.chain import ATTACHMENT, Chain, configuration, invoke, serving

INTERPRETER = os.path.realpath(sys.executable)
VERSIONS = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]
CONFIG = {"cniVersion": "0.4.0", "name": "net", "type": "calico", "muslin": {"socket": "/nowhere/muslin.sock"}}


def run(plugin: Path | str, command: str, stdin: bytes = b"", environment: dict[str, str] = ATTACHMENT,
        **more: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([plugin], input=None if "stdin" in more else stdin, capture_output="stdout" not in more,
                          env={"CNI_COMMAND": command, **environment}, timeout=30, check=False, **more)


def error(done: subprocess.CompletedProcess[bytes]) -> dict[str, Any]:
    """The error on stdout: JSON, nothing else; a line on stderr, no traceback; status 1."""
    assert done.returncode == 1
    assert done.stdout.endswith(b"}\n")
    assert done.stdout.count(b"\n") == 1
    assert re.fullmatch(rb"muslin: [^\n]*\n", done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    assert set(found) == {"cniVersion", "code", "msg", "details"}
    return found


@pytest.mark.parametrize(("stdin", "version"), [
    (b"", "1.1.0"), (b'{"cniVersion": "0.2.0"}', "0.2.0"), (b'{"cniVersion": "1.1.0", "name": 3}', "1.1.0"),
    (b"{}", "0.1.0")])
def test_version_is_answered_without_any_service(plugin: Path, stdin: bytes, version: str) -> None:
    done = run(plugin, "VERSION", stdin, {})
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout) == {"cniVersion": version, "supportedVersions": VERSIONS}


@pytest.mark.parametrize(("stdin", "code", "named"), [
    (b"garbage\n", 6, "is not JSON"),
    (b"", 6, "there is no network configuration on stdin"),
    (b'{"name": "\xff\xfe"}', 6, "byte 11 is not UTF-8"),
    (b"\xff\xfe{\0}\0", 6, "byte 1 is not UTF-8"),
    (b"[" * 100_000, 6, "nested deeper than 128"),
    (b'{"cniVersion": "3.0.0"}', 1, ", ".join(VERSIONS)),
    (b'{"cniVersion": 1}', 7, "cniVersion must be a string"),
    (b'{"name": "net", "type": "x", "muslin": {"timeout": "soon"}}', 7, "muslin.timeout must be a number"),
])
@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_a_bad_configuration_is_told_by_its_code(
        plugin: Path, command: str, stdin: bytes, code: int, named: str) -> None:
    found = error(run(plugin, command, stdin))
    assert found["code"] == code
    assert named in found["msg"]


def test_errors_are_in_the_version_of_the_configuration(plugin: Path) -> None:
    assert error(run(plugin, "ADD", json.dumps(CONFIG).encode()))["cniVersion"] == "0.4.0"


@pytest.mark.parametrize(("command", "environment", "named"), [
    ("ADD", {}, "CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME must be set for ADD"),
    ("DEL", {"CNI_IFNAME": "eth0"}, "CNI_CONTAINERID must be set for DEL"),
    ("ADD", {**ATTACHMENT, "CNI_IFNAME": "a b"}, "CNI_IFNAME"),
    ("NOP", ATTACHMENT, "CNI_COMMAND 'NOP'"),
])
def test_a_bad_environment_is_code_4(plugin: Path, command: str, environment: dict[str, str], named: str) -> None:
    found = error(run(plugin, command, json.dumps(CONFIG).encode(), environment))
    assert found["code"] == 4
    assert named in found["msg"]


def test_an_empty_environment_is_code_4(plugin: Path) -> None:
    done = subprocess.run([plugin], input=b"", capture_output=True, env={}, timeout=30, check=False)
    assert error(done)["msg"].startswith("CNI_COMMAND is not set")


def test_an_environment_that_is_not_utf8_is_code_4(plugin: Path) -> None:
    environment = {b"CNI_COMMAND": b"ADD", b"CNI_CONTAINERID": b"\xff", b"CNI_NETNS": b"x", b"CNI_IFNAME": b"e"}
    done = subprocess.run([plugin], input=b"", capture_output=True, timeout=30, check=False, env=environment)
    assert error(done)["msg"] == "CNI_CONTAINERID is not UTF-8"


@pytest.mark.parametrize("environment", [
    {"LANG": "C"}, {"LC_ALL": "tr_TR.ISO-8859-9"}, {"PYTHONPATH": "/nowhere", "PYTHONHOME": "/nowhere"},
    {"PYTHONVERBOSE": "1", "PYTHONSTARTUP": "/nowhere", "PYTHONIOENCODING": "utf-16", "PYTHONUTF8": "0"}],
    ids=lambda environment: next(iter(environment)))
def test_the_surroundings_do_not_matter(plugin: Path, environment: dict[str, str]) -> None:
    config = json.dumps({**CONFIG, "muslin": {"socket": "/nowhere/ünïx.sock"}}, ensure_ascii=False).encode()
    found = error(run(plugin, "ADD", config, {**ATTACHMENT, **environment}))
    assert found["msg"] == "ipam: can not connect to unix:/nowhere/ünïx.sock: No such file or directory"


@pytest.mark.parametrize("closed", [[0], [2], [0, 2]])
def test_closed_descriptors(plugin: Path, closed: list[int]) -> None:
    """A socket must not come to stand where a standard descriptor was, and no configuration is code 6."""
    redirections = " ".join(f"{descriptor}>&-" for descriptor in closed)
    done = subprocess.run(["/bin/sh", "-c", f'exec "$0" {redirections}', plugin], input=json.dumps(CONFIG).encode(),
                          capture_output=True, env={"CNI_COMMAND": "ADD", **ATTACHMENT}, timeout=30, check=False)
    assert done.returncode == 1
    assert json.loads(done.stdout)["code"] == (6 if 0 in closed else 11)
    assert (done.stderr == b"") == (2 in closed)


async def test_a_closed_stdout_does_not_get_the_answer_into_the_socket(plugin: Path, tmp_path: Path) -> None:
    chain, socket = Chain(), tmp_path / "s"
    wrapper = tmp_path / "wrapper"
    wrapper.write_text(f'#!/bin/sh\nexec "{plugin}" >&-\n')
    wrapper.chmod(0o755)
    async with serving(chain, socket):
        done = await invoke(wrapper, "ADD", configuration(socket))
    assert (done.stdout, len(chain.asked)) == (b"", 4)
    assert done.status == 0


async def test_a_reader_that_went_away_does_not_kill_the_rollback(plugin: Path, tmp_path: Path) -> None:
    """Writing to a pipe without a reader would, by its signal."""
    chain, socket = Chain(), tmp_path / "s"
    chain.fails("node.Add", grpc.StatusCode.INTERNAL, "broken")
    wrapper = tmp_path / "wrapper"
    wrapper.write_text(f'#!/bin/sh\n{{ "{plugin}"; echo $? >"{tmp_path}/status"; }} 2>&1 | true\n')
    wrapper.chmod(0o755)
    async with serving(chain, socket):
        await invoke(wrapper, "ADD", configuration(socket))
    assert len(chain.asked) == 8
    assert (tmp_path / "status").read_text() == "1\n"


def test_it_runs_under_any_name_and_in_any_place(plugin: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a folder, with spaces"
    folder.mkdir()
    copy = folder / "any-name.v1"
    copy.write_bytes(plugin.read_bytes())
    copy.chmod(0o755)
    link = tmp_path / "link"
    link.symlink_to(copy)
    for path in (copy, link):
        assert error(run(path, "ADD", b"garbage"))["code"] == 6
    assert error(run("./any-name.v1", "ADD", b"garbage", cwd=folder))["code"] == 6


def test_defects_are_cni_errors_too(plugin: Path) -> None:
    """No memory left, here: whatever goes wrong must not end in a traceback on stdout."""
    def starve() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (120 << 20, 120 << 20))

    done = run(plugin, "ADD", b'{"name": "' + b"x" * (60 << 20) + b'"}', preexec_fn=starve)
    found = error(done)
    assert found["code"] == 100
    assert found["msg"].startswith("MemoryError")
    assert "a defect of the shim at shim." in found["details"]


@pytest.fixture
def watched(script: Path, tmp_path: Path) -> Path:
    """The script, run so that the interpreter reports each import on stderr."""
    option = script.read_bytes().split(b"\n", 1)[0].decode().split(" ", 1)[1]
    wrapper = tmp_path / "watched"
    wrapper.write_text(f"#!{INTERPRETER} -IS\nimport posix\nposix.execv({INTERPRETER!r}, "
                       f"[{INTERPRETER!r}, '-Ximporttime', {option!r}, {str(script)!r}])\n")
    wrapper.chmod(0o755)
    return wrapper


@pytest.fixture
def bare() -> set[str]:
    """What the interpreter imports for itself."""
    done = subprocess.run([INTERPRETER, "-Ximporttime", "-IS", "-c", ""], capture_output=True, text=True, check=True)
    return imported(done.stderr)


async def test_nothing_is_imported_that_would_have_to_be_found(watched: Path, bare: set[str], tmp_path: Path) -> None:
    """In a whole ADD."""
    chain, socket = Chain(), tmp_path / "s"
    async with serving(chain, socket):
        done = await invoke(watched, "ADD", configuration(socket))
    assert (done.status, len(chain.asked)) == (0, 4)
    assert imported(done.stderr) - bare <= {"gc", "marshal", "posix", "time", "_socket"}
    assert "_socket" in imported(done.stderr)


def imported(report: str) -> set[str]:
    return {line.rsplit("|", 1)[1].strip() for line in report.splitlines() if line.startswith("import time:")}


@pytest.mark.root
def test_the_static_build_needs_nothing_on_the_host(plugin: Path, tmp_path: Path) -> None:
    """In a root directory with nothing else in it."""
    if not plugin.read_bytes().startswith(b"\x7fELF"):
        pytest.skip("the script needs its interpreter")
    copy = tmp_path / "muslin"
    copy.write_bytes(plugin.read_bytes())
    copy.chmod(0o755)

    def enter() -> None:
        os.chroot(tmp_path)
        os.chdir("/")

    done = subprocess.run(["/muslin"], input=json.dumps(CONFIG).encode(), capture_output=True, preexec_fn=enter,
                          env={"CNI_COMMAND": "DEL", **ATTACHMENT}, timeout=30, check=False)
    assert error(done)["code"] == 11
    assert [path.name for path in tmp_path.iterdir()] == ["muslin"]
