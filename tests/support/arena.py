"""A machine of one's own for tests of the whole: its own network, and its own /run/netns and /run/muslin."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SETUP = """
mount --make-rprivate / && mkdir -p /run/netns /run/muslin && mount -t tmpfs tmpfs /run/netns &&
mount -t tmpfs -o mode=0700 tmpfs /run/muslin && ip link set lo up && echo ready && exec sleep infinity
"""


class Arena:
    """Namespaces that live as long as a sleeping process in them. Files elsewhere are the host's."""

    muslin_command = f"{sys.executable} -m muslin.cli.main"

    def __init__(self, state: Path) -> None:
        """`state` is the state directory of what runs here."""
        self.state = state
        self._sleeper = subprocess.Popen(["unshare", "--net", "--mount", "sh", "-c", SETUP], stdout=subprocess.PIPE)
        assert self._sleeper.stdout
        with self._sleeper.stdout as output:
            assert output.readline() == b"ready\n"
        self._net = Path(f"/proc/{self._sleeper.pid}/ns/net").readlink()

    def close(self) -> None:
        """End everything in it."""
        for pid in self.processes():
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                pass
        self._sleeper.kill()
        self._sleeper.wait()

    def command(self, *argv: str) -> list[str]:
        """A command line that runs inside."""
        return ["nsenter", "-t", str(self._sleeper.pid), "--net", "--mount", "--", "env", "-C", str(ROOT), *argv]

    def run(self, *argv: str, code: int = 0, timeout: float = 120.0) -> str:
        """Run a program inside and return what it printed on stdout; its exit code must be `code`."""
        done = subprocess.run(self.command(*argv), capture_output=True, text=True, check=False, timeout=timeout)
        assert done.returncode == code, f"{argv}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + (done.stderr if code else "")

    def muslin(self, *argv: str, code: int = 0) -> str:
        """Run the command line inside."""
        return self.run(sys.executable, "-m", "muslin.cli.main", *argv, code=code)

    def json(self, *argv: str, code: int = 0) -> Any:
        """The same, with the result in JSON."""
        return json.loads(self.muslin(*argv, "-o", "json", code=code))

    def start(self, *argv: str) -> subprocess.Popen[str]:
        """Start the command line inside, and return at once."""
        return subprocess.Popen(self.command(sys.executable, "-m", "muslin.cli.main", *argv), text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def up(self, *argv: str) -> None:
        """`muslin up` in the background."""
        self.muslin("up", "--detach", "--state", str(self.state), *argv)

    def namespace(self, name: str) -> Path:
        """Path of a named network namespace of this machine, as seen from outside."""
        return Path(f"/proc/{self._sleeper.pid}/root/run/netns/{name}")

    def processes(self) -> dict[int, str]:
        """All processes in the network of this machine but the sleeper, with their command lines."""
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdecimal() and (entry / "ns/net").readlink() == self._net:
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # it is gone, or it is not ours to see
        found.pop(self._sleeper.pid)
        return found

    def left(self) -> dict[str, object]:
        """What there is of processes, links, namespaces and tables; empty on a clean machine."""
        links = [link["ifname"] for link in json.loads(self.run("ip", "-j", "link")) if link["ifname"] != "lo"]
        found: dict[str, object] = {
            "processes": self.processes(), "links": links, "namespaces": self.run("ip", "netns").split(),
            "tables": self.run("nft", "list", "tables").split("\n")[:-1],
            "routes": self.run("ip", "route").split("\n")[:-1]}
        return {key: value for key, value in found.items() if value}


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait for something that has no event. Fails when it does not happen."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
