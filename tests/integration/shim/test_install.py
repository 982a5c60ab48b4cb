"""`muslin install` and `uninstall`: what is where afterwards, what is left alone, and that a runtime never notices."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from muslin.cli import install as installing
from muslin.cli.install import Places
from muslin.errors import AlreadyExists, Conflict, Corrupt, FailedPrecondition, InvalidArgument, NotFound
from tests.support.plugin import ROOT


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "opt/bin", tmp_path / "etc/net.d", "muslin")


@pytest.fixture
def source(script: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "built"
    copy.write_bytes(script.read_bytes())
    return copy


def install(places: Places, source: Path, conf: Path | None = None, *, force: bool = False) -> list[str]:
    return installing.install(places, source, conf, None, force=force)


def content(places: Places) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for folder in (places.bin, places.conf) if folder.exists()
            for path in folder.iterdir()}


def version(plugin: Path) -> bool:
    done = subprocess.run([plugin], input=b"", env={"CNI_COMMAND": "VERSION"}, capture_output=True, check=False)
    return done.returncode == 0 and b"supportedVersions" in done.stdout


def test_plugin_and_configuration_are_in_place_and_gone_again(places: Places, source: Path, tmp_path: Path) -> None:
    installing.install(places, source, None, tmp_path / "log/muslin", force=False)
    assert version(places.plugin)
    assert places.plugin.stat().st_mode & 0o777 == 0o755
    config = places.conf / "10-muslin.conflist"
    assert json.loads(config.read_bytes())["plugins"][0]["type"] == "muslin"
    assert config.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "log/muslin").is_dir()
    installing.uninstall(places, force=False)
    assert content(places) == {}
    assert installing.uninstall(places, force=False) == [f"{places.plugin} is not installed"]


def test_repeating_it_changes_nothing(places: Places, source: Path) -> None:
    install(places, source)
    before = {path: path.stat().st_ino for path in (places.plugin, places.conf / "10-muslin.conflist")}
    assert [line.split(": ")[1] for line in install(places, source)] == ["unchanged", "unchanged"]
    assert {path: path.stat().st_ino for path in before} == before


def test_a_new_build_replaces_the_old(places: Places, source: Path) -> None:
    install(places, source)
    source.write_bytes(source.read_bytes() + b"\n")
    assert [line.split(": ")[1] for line in install(places, source)] == ["installed", "unchanged"]
    assert places.plugin.read_bytes() == source.read_bytes()


def test_as_calico_with_its_users_configuration(places: Places, source: Path) -> None:
    """Byte for byte."""
    calico, conf = Places(places.bin, places.conf, "calico"), ROOT / "examples/10-calico.conf"
    install(calico, source, conf)
    assert (places.conf / "10-calico.conf").read_bytes() == conf.read_bytes()
    assert version(places.bin / "calico")
    install(places, source)
    installing.uninstall(calico, force=False)
    assert sorted(content(places)) == [".muslin.muslin", "10-muslin.conflist", "muslin"]


def test_another_configuration_takes_the_place_of_the_first(places: Places, source: Path, tmp_path: Path) -> None:
    install(places, source)
    conf = tmp_path / "00-own.conf"
    conf.write_text('{"name": "own", "type": "muslin"}')
    said = install(places, source, conf)
    assert f"{places.conf}/10-muslin.conflist: removed" in said
    assert sorted(content(places)) == [".muslin.muslin", "00-own.conf", "muslin"]


@pytest.mark.parametrize("which", ["plugin", "configuration"])
def test_what_is_not_ours_is_left_alone_unless_that_is_asked_for(places: Places, source: Path, which: str) -> None:
    path = places.plugin if which == "plugin" else places.conf / "10-muslin.conflist"
    path.parent.mkdir(parents=True)
    path.write_text("somebody else's")
    with pytest.raises(AlreadyExists, match=f"{path.name} is not of our making"):
        install(places, source)
    assert content(places) == {path.name: b"somebody else's"}
    install(places, source, force=True)
    assert version(places.plugin)


def test_a_configuration_that_was_changed_since_is_kept(places: Places, source: Path) -> None:
    install(places, source)
    config = places.conf / "10-muslin.conflist"
    config.write_text(config.read_text().replace("k8s-pod-network", "mine"))
    with pytest.raises(AlreadyExists, match="was changed since"):
        install(places, source)
    with pytest.raises(AlreadyExists, match="was changed since"):
        installing.uninstall(places, force=False)
    assert "mine" in config.read_text()
    assert version(places.plugin)
    installing.uninstall(places, force=True)
    assert content(places) == {}


@pytest.mark.parametrize(("name", "text", "error", "why"), [
    ("c.conf", '{"type": "calico"}', InvalidArgument, "calls calico, and the plugin would be installed as muslin"),
    ("c.conf", "{", Corrupt, "is no CNI configuration"),
    ("c.conf", '{"plugins": [{}]}', Corrupt, "is no CNI configuration"),
    ("c.txt", '{"type": "muslin"}', InvalidArgument, "runtimes read files named"),
    ("gone.conf", None, NotFound, "gone.conf is not there"),
])
def test_a_configuration_that_can_not_be(places: Places, source: Path, tmp_path: Path, name: str, text: str | None,
                                         error: type[Exception], why: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(error, match=why):
        install(places, source, tmp_path / name)
    assert content(places) == {}


def test_a_plugin_that_does_not_run_here_replaces_nothing(places: Places, source: Path) -> None:
    install(places, source)
    source.write_text("#!/bin/false\n")
    with pytest.raises(FailedPrecondition, match="does not run in"):
        install(places, source)
    assert version(places.plugin)
    assert sorted(content(places)) == [".muslin.muslin", "10-muslin.conflist", "muslin"]


def test_only_one_installs_at_a_time(places: Places, source: Path) -> None:
    install(places, source)
    descriptor = os.open(places.bin, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(Conflict, match="at this moment"):
            install(places, source)
    finally:
        os.close(descriptor)


def test_the_configuration_comes_last_and_goes_first(places: Places, source: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    replace, unlink, fsync = Path.replace, Path.unlink, os.fsync

    def record(path: Path) -> None:
        if path.name in ("muslin", "10-muslin.conflist"):
            steps.append(path.name)

    def replaced(self: Path, target: Path) -> Path:
        record(target)
        return replace(self, target)

    def unlinked(self: Path, missing_ok: bool = False) -> None:
        record(self)
        unlink(self, missing_ok)

    def synced(descriptor: int) -> None:
        steps.append("sync " + Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    monkeypatch.setattr(Path, "replace", replaced)
    monkeypatch.setattr(Path, "unlink", unlinked)
    monkeypatch.setattr(os, "fsync", synced)
    install(places, source)
    own = [step for step in steps if "muslin.muslin" not in step]
    assert own[own.index("sync .muslin.new"):] == [
        "sync .muslin.new", "muslin", "sync bin", "sync .10-muslin.conflist.new", "10-muslin.conflist", "sync net.d",
        "sync bin"]
    steps.clear()
    installing.uninstall(places, force=False)
    assert steps == ["10-muslin.conflist", "sync net.d", "muslin", "sync bin", "sync bin"]


@pytest.mark.parametrize("step", range(1, 20))
def test_cut_short_at_any_step_it_can_be_repeated(places: Places, source: Path, step: int) -> None:
    """The process ends at once before its n-th change of a directory or sync; every file is old or new, and whole."""
    install(places, source)
    old = content(places)
    source.write_bytes(source.read_bytes() + b"\n")
    code = f"""
import os, sys
from pathlib import Path
from muslin.cli import install
left = [{step}]
def ends(call):
    def wrapped(*args, **kwargs):
        left[0] -= 1
        if not left[0]:
            os._exit(9)
        return call(*args, **kwargs)
    return wrapped
os.fsync, Path.replace, Path.unlink = ends(os.fsync), ends(Path.replace), ends(Path.unlink)
conf = Path(sys.argv[4])
places = install.Places(Path(sys.argv[1]), Path(sys.argv[2]), "muslin")
install.install(places, Path(sys.argv[3]), conf, None, force=False)
"""
    conf = source.parent / "10-muslin.conflist"
    conf.write_text('{"name": "own", "plugins": [{"type": "muslin"}]}')
    arguments = [sys.executable, "-c", code, *map(str, (places.bin, places.conf, source, conf))]
    done = subprocess.run(arguments, cwd=ROOT, check=False)
    assert done.returncode in (0, 9)
    found = content(places)
    assert found["muslin"] in (old["muslin"], source.read_bytes())
    assert found["10-muslin.conflist"] in (old["10-muslin.conflist"], conf.read_bytes())
    assert found["10-muslin.conflist"] == old["10-muslin.conflist"] or found["muslin"] == source.read_bytes()
    install(places, source, conf)
    assert (places.plugin.read_bytes(), version(places.plugin)) == (source.read_bytes(), True)
    assert sorted(content(places)) == [".muslin.muslin", "10-muslin.conflist", "muslin"]
    if done.returncode == 0:
        assert step > 12, "the steps were not seen"


def test_a_runtime_that_execs_it_all_the_while_never_notices(places: Places, plugin: Path, tmp_path: Path) -> None:
    """No "text file busy", no half file, no moment without one; and the configuration always parses."""
    builds = [tmp_path / f"build{number}" for number in range(2)]
    for number, build in enumerate(builds):
        build.write_bytes(plugin.read_bytes() + b"\n" * number)
    install(places, builds[0])
    over, faults = threading.Event(), []
    runs = 0

    def runtime() -> None:
        nonlocal runs
        while not over.is_set():
            try:
                json.loads((places.conf / "10-muslin.conflist").read_bytes())
                if not version(places.plugin):
                    faults.append("it failed")
            except (OSError, ValueError) as problem:
                faults.append(str(problem))
            runs += 1

    threads = [threading.Thread(target=runtime) for _ in range(3)]
    for thread in threads:
        thread.start()
    code = """
import sys
from pathlib import Path
from muslin.cli import install
bin, conf, *builds = map(Path, sys.argv[1:])
for number in range(8):
    install.install(install.Places(bin, conf, "muslin"), builds[(number + 1) % 2], None, None, force=False)
"""
    try:  # in a process of its own: a fork of ours would inherit what it has open for writing
        subprocess.run([sys.executable, "-c", code, str(places.bin), str(places.conf), *map(str, builds)], cwd=ROOT,
                       check=True)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert faults == []
    assert runs >= 3


def test_the_command_line(places: Places, tmp_path: Path) -> None:
    """With the plugin that `make setup` has built."""
    command = [sys.executable, "-m", "muslin.cli.main"]
    where = ["--bin-dir", str(places.bin), "--conf-dir", str(places.conf), "--name", "calico"]
    conf = ["--conf", str(ROOT / "examples/10-calico.conf"), "--log-dir", str(tmp_path / "log")]
    (ROOT / "build/cni/muslin").stat()

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, cwd=ROOT)

    done = run("install", *where, *conf)
    assert (done.returncode, done.stdout.splitlines()) == (0, [
        f"{places.bin}/calico: installed", f"{places.conf}/10-calico.conf: installed"]), done.stderr
    (places.conf / "10-calico.conf").write_text("{}")
    done = run("install", *where, *conf)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: {places.conf}/10-calico.conf is not of our making")
    assert run("install", *where, *conf, "--force").returncode == 0
    done = run("uninstall", *where)
    assert (done.returncode, content(places)) == (0, {})


def test_a_configuration_that_comes_before_ours_is_pointed_out(places: Places, source: Path) -> None:
    places.conf.mkdir(parents=True)
    (places.conf / "05-other.conf").write_text("{}")
    assert install(places, source)[-1] == (
        "note: runtimes take the first by name, and 05-other.conf comes before 10-muslin.conflist")
