"""What is removed from a node, in namespaces of its own: what is ours, whatever became of it, and nothing else."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from muslin.cli import install as installing
from muslin.cli.install import Places

ROOT = Path(__file__).resolve().parents[3]
REMOVE = """
import json
import sys
from pathlib import Path
from muslin.cli.cluster.removal import Directories, remove
from muslin.cli.install import Places
host = Path(sys.argv[1])
print(json.dumps(remove(
    Places(host / "bin", host / "conf", "muslin"),
    Directories(host / "run/muslin", host / "lib/muslin", host / "log/muslin", host / "lib/muslin-etcd"),
    host / "run/muslin/muslin.sock", etcd=sys.argv[2] == "etcd", patience=60.0)))
"""


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A host with everything of ours on it, and something of others."""
    plugin = tmp_path / "built"
    plugin.write_text('#!/bin/sh\necho \'{"supportedVersions": ["1.0.0"]}\'\n')
    plugin.chmod(0o755)
    places = Places(tmp_path / "bin", tmp_path / "conf", "muslin")
    installing.install_plugin(places, plugin, force=False)
    installing.install_configuration(places, "10-muslin.conflist", b"{}", force=False)
    for name in ("bin/portmap", "conf/20-other.conflist", "run/other", "lib/other", "log/other", "lib/muslin-etcd/wal",
                 "run/muslin/muslin.sock.lock", "run/muslin/attachments/a", "lib/muslin/pki/tls.key", "log/muslin/log"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    plugin.unlink()
    return tmp_path


def removed(host: Path, *, etcd: bool = True, before: str = "true") -> list[str]:
    """Remove it, in a network and mounts of its own, and say what could not be."""
    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-ec", f'{before}; exec "$@"', "sh", sys.executable, "-c", REMOVE,
         str(host), "etcd" if etcd else "-"], capture_output=True, text=True, check=False, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def left(host: Path) -> list[str]:
    return sorted(str(path.relative_to(host)) for path in host.rglob("*") if not path.is_dir())


@pytest.mark.root
def test_all_of_ours_goes_and_nothing_else(host: Path) -> None:
    assert removed(host) == []
    assert left(host) == ["bin/portmap", "conf/20-other.conflist", "lib/other", "log/other", "run/other"]
    assert not [name for name in ("run/muslin", "lib/muslin", "lib/muslin-etcd", "log/muslin")
                if (host / name).exists()]
    assert removed(host) == [], "it may be repeated"


@pytest.mark.root
def test_etcds_data_stay_where_etcd_does(host: Path) -> None:
    assert removed(host, etcd=False) == []
    assert "lib/muslin-etcd/wal" in left(host)
    assert not (host / "lib/muslin").exists()


@pytest.mark.root
def test_a_configuration_that_somebody_changed_goes_too(host: Path) -> None:
    (host / "conf/10-muslin.conflist").write_text('{"changed": true}')
    assert removed(host) == []
    assert "conf/10-muslin.conflist" not in left(host)


@pytest.mark.root
def test_a_directory_that_is_a_file_system_is_emptied(host: Path) -> None:
    state = host / "lib/muslin"
    assert removed(host, before=f"mount --bind {state} {state}") == []
    assert list(state.iterdir()) == []


@pytest.mark.root
def test_the_daemon_is_waited_for(host: Path) -> None:
    """It puts down on disk what it knows: whatever is removed before comes back."""
    answers: list[list[str]] = []
    with (host / "run/muslin/muslin.sock.lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        removing = threading.Thread(target=lambda: answers.append(removed(host)))
        removing.start()
        while (host / "conf/10-muslin.conflist").exists():
            removing.join(0.01)
        removing.join(0.5)
        assert (host / "lib/muslin/pki/tls.key").exists()
    removing.join(120)
    assert answers == [[]]
    assert not (host / "lib/muslin").exists()
