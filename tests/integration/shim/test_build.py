"""Building the plugin: what is built where, what is said, and that a build never leaves half a file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.plugin import ROOT, build, has_toolchain


def version(plugin: Path) -> int:
    environment = {"CNI_COMMAND": "VERSION"}
    return subprocess.run([plugin], input=b"", capture_output=True, check=False, env=environment).returncode


def test_auto_takes_what_is_there_and_says_so(tmp_path: Path) -> None:
    done = build("auto", tmp_path / "muslin")
    assert done.returncode == 0
    said = "one static file" if has_toolchain() else "a script for "
    assert done.stdout.startswith(f"{tmp_path}/muslin: {said}")
    assert (tmp_path / "muslin").read_bytes().startswith(b"\x7fELF" if has_toolchain() else b"#!")
    assert version(tmp_path / "muslin") == 0


def test_auto_without_a_compiler_gives_a_script_and_says_why(tmp_path: Path) -> None:
    done = build("auto", tmp_path / "muslin", path="/nowhere")
    assert done.returncode == 0
    said = f"{tmp_path}/muslin: a script for {os.path.realpath(sys.executable)}, and not one static file"
    assert done.stdout.startswith(said)
    assert "there is no gcc: apt-get install gcc libpython3-dev" in done.stdout
    assert version(tmp_path / "muslin") == 0


def test_static_without_a_compiler_is_an_error_that_says_what_to_install(tmp_path: Path) -> None:
    done = build("static", tmp_path / "muslin", path="/nowhere")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "build_shim: there is no gcc: apt-get install gcc libpython3-dev\n"
    assert list(tmp_path.iterdir()) == []


def fake_gcc(folder: Path, body: str) -> str:
    compiler = folder / "gcc"
    compiler.write_text(f"#!/bin/sh\n{body}\n")
    compiler.chmod(0o755)
    return str(folder)


def test_static_without_the_library_says_what_to_install(tmp_path: Path) -> None:
    """The compiler answers with the bare name of a library that it does not find."""
    done = build("static", tmp_path / "out/muslin", path=fake_gcc(tmp_path, 'echo "${1#*=}"'))
    assert done.returncode == 1
    assert "no static library of Python 3.11 or later" in done.stderr
    assert "apt-get install gcc libpython3-dev" in done.stderr


@pytest.mark.skipif(not has_toolchain(), reason="needs the library's headers to come that far")
def test_a_failing_compiler_leaves_the_old_plugin_and_says_what_it_said(tmp_path: Path) -> None:
    (tmp_path / "muslin").write_text("the old one")
    compiler = 'case "$1" in -print*) echo /usr/lib/x.a;; *) echo "ld: cannot find -lm" >&2; exit 1;; esac'
    done = build("static", tmp_path / "muslin", path=fake_gcc(tmp_path, compiler))
    assert done.returncode == 1
    assert "ld: cannot find -lm" in done.stderr
    assert (tmp_path / "muslin").read_text() == "the old one"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["gcc", "muslin"]


@pytest.mark.skipif(not has_toolchain(), reason="needs the library's headers to come that far")
def test_what_does_not_run_is_not_installed(tmp_path: Path) -> None:
    """Here a program that ends well but prints nothing; auto then gives the script."""
    pretend = 'while [ "$1" != -o ]; do shift; done; printf "#!/bin/true\\n" >"$2"'
    path = fake_gcc(tmp_path, f'case "$1" in -print*) echo /usr/lib/x.a;; *) {pretend};; esac')
    done = build("static", tmp_path / "muslin", path=path)
    assert done.returncode == 1
    assert "what was built does not run: exit 0" in done.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["gcc"]
    assert "what was built does not run" in build("auto", tmp_path / "muslin", path=path).stdout
    assert version(tmp_path / "muslin") == 0


def test_a_plugin_in_use_is_replaced_in_one_step(tmp_path: Path) -> None:
    """Writing into the running file would fail, or crash the process."""
    plugin = tmp_path / "muslin"
    build("auto", plugin)
    running = subprocess.Popen([plugin], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"CNI_COMMAND": "VERSION"})
    before = plugin.stat().st_ino
    assert build("auto", plugin).returncode == 0
    assert plugin.stat().st_ino != before
    assert plugin.stat().st_mode & 0o777 == 0o755
    assert running.communicate(b"")[0].startswith(b'{"cniVersion"')
    assert [entry.name for entry in tmp_path.iterdir()] == ["muslin"]


def test_the_script_is_the_same_each_time(tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        build("script", tmp_path / name)
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]
    assert str(ROOT).encode() not in contents[0]  # nor does it need the source tree
