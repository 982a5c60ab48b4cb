"""Namespaces: only a thread moves, names are those of ip-netns(8), deletion reaches copies of the mount table."""

from __future__ import annotations

import socket
import subprocess
import threading
from pathlib import Path

import pytest

from muslin import netns
from muslin.errors import AlreadyExists, InvalidArgument, NotFound
from tests.support.netns import command, namespace

pytestmark = pytest.mark.root


def inode(path: str | Path) -> int:
    return Path(path).stat().st_ino


def here() -> int:
    return inode("/proc/thread-self/ns/net")


def test_only_the_function_is_inside() -> None:
    before = here()
    with namespace() as path:
        assert netns.run(path, here) == inode(path) != before
        assert here() == before


def test_what_the_function_raises_is_raised_here() -> None:
    def fail() -> None:
        raise ZeroDivisionError("inside")

    with namespace() as path, pytest.raises(ZeroDivisionError, match="inside"):
        netns.run(path, fail)


def test_a_thread_that_goes_there_comes_back() -> None:
    """Whatever happens there; and no other thread has moved."""
    home, found = here(), list[int]()
    there, looked = threading.Barrier(2), threading.Barrier(2)
    with namespace() as path:
        def go() -> None:
            try:
                with netns.entered(path):
                    found.append(here())
                    there.wait(10)
                    looked.wait(10)
                    _ = 1 / 0
            except ZeroDivisionError:
                found.append(here())

        mover = threading.Thread(target=go)
        mover.start()
        there.wait(10)
        assert here() == inode("/proc/self/ns/net") == home
        looked.wait(10)
        mover.join()
        assert found == [inode(path), home]


def test_a_socket_stays_where_it_was_opened() -> None:
    """It is used from outside, and reaches only what listens inside."""
    with namespace() as path, netns.open_socket(path, socket.AF_INET, socket.SOCK_STREAM) as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with netns.open_socket(path, socket.AF_INET, socket.SOCK_STREAM) as client:
            client.connect(("127.0.0.1", port))
        with socket.socket() as outside, pytest.raises(ConnectionRefusedError):
            outside.connect(("127.0.0.1", port))


def test_a_missing_namespace_and_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="does not exist"):
        netns.run(tmp_path / "gone", here)
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidArgument, match="not a network namespace"):
        netns.run(tmp_path / "file", here)


def test_names_are_those_of_ip_netns() -> None:
    """Each of the two sees, enters and deletes what the other made."""
    with namespace() as path:
        assert path.name in subprocess.check_output(["ip", "netns", "list"], text=True).split()
        assert "LOOPBACK" in command(path, "ip", "link")
        subprocess.run(["ip", "netns", "delete", path.name], check=True)
        assert path.name not in netns.names()
        subprocess.run(["ip", "netns", "add", path.name], check=True)
        assert path.name in netns.names()
        assert netns.run(path, here) == inode(path)
    assert path.name not in subprocess.check_output(["ip", "netns", "list"], text=True).split()


def test_making_one_twice_and_deleting_one_twice() -> None:
    with namespace() as path:
        with pytest.raises(AlreadyExists):
            netns.create(path.name)
        netns.delete(path.name)
        netns.delete(path.name)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", "a" * 256])
def test_names_that_are_no_file_names(name: str) -> None:
    with pytest.raises(InvalidArgument):
        netns.create(name)


def test_what_an_interrupted_creation_left_is_deleted() -> None:
    """A file on which nothing is mounted."""
    with namespace() as path:
        netns.delete(path.name)
        path.touch()
        netns.delete(path.name)
        assert not path.exists()


def test_deletion_reaches_copies_of_the_mount_table() -> None:
    """Else a service with a private view of the mounts would keep every namespace alive, with its links."""
    with namespace() as first:
        copy = subprocess.Popen(["unshare", "--mount", "--propagation", "slave", "sh", "-c", "echo ready; read line"],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            assert copy.stdout
            assert copy.stdout.readline() == "ready\n"
            mounts = Path(f"/proc/{copy.pid}/mountinfo")
            with namespace() as second:
                assert str(first) in mounts.read_text()
                assert str(second) in mounts.read_text()
            assert str(second) not in mounts.read_text()
            assert str(first) in mounts.read_text()
        finally:
            copy.communicate("\n", timeout=10)
