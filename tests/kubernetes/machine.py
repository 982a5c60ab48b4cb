"""A machine of its own on this one: namespaces for its network, mounts, processes and name, and a world outside it.

What runs in it sees its own /run, /etc, /opt and /var, and nothing that it does is seen by the host. It has loopback
and `eth0`, on a link with machines beside it and a namespace that stands for everybody else. Powered off, all its
processes are gone at once, and with them its network and what was in memory; its files are there when it boots again.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from muslin import netns
from tests.kubernetes import cgroups

__all__ = ["ADDRESS", "WORLD", "Machine", "Running", "until"]

T = TypeVar("T")

ADDRESS, WORLD = "172.31.0.2", "172.31.0.1"
"""The first machine's, and that of who is outside."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_INIT = Path(__file__).with_name("init.py")
_NAMESPACES = ("--net", "--mount", "--pid", "--uts", "--ipc")
_numbers = itertools.count()


@dataclass
class Running:
    """A daemon of the machine."""

    entered: subprocess.Popen[bytes]
    """Outside: it waits for the daemon, and ends as it does."""
    pid: int
    """The daemon's, as the host counts."""


class Machine:
    """One machine. `boot` it first, and `remove` it at the end, whatever happens between."""

    def __init__(self, name: str = "node1", beside: Machine | None = None) -> None:
        """On a link of its own, or on that of another, which must be removed after it."""
        self.name = name
        self.label = f"mt-{os.getpid()}-{next(_numbers)}"
        """Of what the host has of it: a network namespace for the outside, a branch of control groups."""
        self.directory = Path(tempfile.mkdtemp(prefix=f"{self.label}-", dir="/tmp"))
        self.logs = self.directory / "logs"
        self.logs.mkdir()
        self.daemons: dict[str, Running] = {}
        self._init: subprocess.Popen[bytes] | None = None
        self.pid = 0
        self._beside = beside
        self._addresses: Iterator[int] = beside._addresses if beside else itertools.count(2)
        number = next(self._addresses)
        self.address, self._mac = f"172.31.0.{number}", f"02:00:ac:1f:00:{number:02x}"
        self._port = f"port{number}"
        self.world: Path = beside.world if beside else netns.create(f"{self.label}-w")
        if beside is None:
            self.outside("sh", "-ec", "ip link set lo up; ip link add lan type bridge; ip link set lan up; "
                                      f"ip address add {WORLD}/24 dev lan")

    # Power.

    def boot(self) -> None:
        """Bring it up with nothing running."""
        cgroups.make(self.label)
        with (self.logs / "init.log").open("ab") as log:
            self._init = subprocess.Popen(
                ["unshare", *_NAMESPACES, "--fork", "--kill-child", "--propagation", "private",
                 sys.executable, "-I", str(_INIT), str(self.directory), self.name],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        assert self._init.stdout is not None
        said = self._init.stdout.readline()
        assert said == b"ready\n", (self.logs / "init.log").read_text()
        self.pid = _child(self._init.pid)
        self.outside("ip", "link", "add", self._port, "type", "veth",
                     "peer", "name", "eth0", "address", self._mac, "netns", str(self.pid))
        self.outside("ip", "link", "set", self._port, "master", "lan", "up")
        self.run("sh", "-ec", f"ip address add {self.address}/24 dev eth0; ip link set eth0 up; "
                              f"ip route add default via {WORLD}; sysctl -qw net.ipv4.ip_forward=1")

    def power_off(self) -> None:
        """Nobody is asked: all processes are killed, and namespaces and memory are gone. Harmless if it is off."""
        if self._init is None:
            return
        assert self._init.stdin is not None
        assert self._init.stdout is not None
        self._init.stdin.close()
        self._init.wait(60)
        self._init.stdout.close()
        self._init = None
        for running in self.daemons.values():
            running.entered.wait(60)
        self.daemons.clear()
        # It would go with the machine's namespace, which the kernel clears away some time after its last process.
        self.outside("ip", "link", "delete", self._port, check=False)
        cgroups.remove(self.label)

    def remove(self, *, keep_logs: bool = False) -> None:
        """Power it off and delete all of it, but for the daemons' logs if they are wanted."""
        self.power_off()
        if self._beside is None:
            netns.delete(self.world.name)
        for folder in self.directory.iterdir():
            if folder != self.logs or not keep_logs:
                shutil.rmtree(folder)
        if not keep_logs:
            self.directory.rmdir()

    # What is in it.

    def path(self, path: str) -> Path:
        """A file of the machine, for reading and writing from outside while it is on. Absolute links mislead it."""
        return Path(f"/proc/{self.pid}/root", path.lstrip("/"))

    def write(self, path: str, content: str | bytes, mode: int = 0o600) -> None:
        """Write a file of the machine, with the directories above it."""
        file = self.path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode)
        file.write_bytes(content.encode() if isinstance(content, str) else content)

    @property
    def netns(self) -> Path:
        """Its network namespace."""
        return Path(f"/proc/{self.pid}/ns/net")

    def entering(self, *argv: str) -> list[str]:
        """The command that runs another one in the machine."""
        return ["nsenter", "--target", str(self.pid), *_NAMESPACES, "--", *argv]

    def run(self, *argv: str, check: bool = True, text: str | None = None, timeout: float = 120.0,
            environment: Mapping[str, str] = MappingProxyType({})) -> str:
        """Run a program in it; returns what it printed, errors included unless they are raised."""
        return _run(self.entering(*argv), check, text, timeout, environment)

    def outside(self, *argv: str, check: bool = True, text: str | None = None, timeout: float = 120.0) -> str:
        """Run a program on a host beyond the uplink."""
        return _run(["nsenter", f"--net={self.world}", "--", *argv], check, text, timeout, {})

    # Daemons.

    def start(self, name: str, *argv: str, environment: Mapping[str, str] = MappingProxyType({})) -> Running:
        """Start a daemon; its output goes to `logs`/NAME.log."""
        assert name not in self.daemons, f"{name} runs"
        with (self.logs / f"{name}.log").open("ab") as log:
            entered = subprocess.Popen(self.entering(*argv), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                       env={"PATH": PATH, **environment}, start_new_session=True)
        self.daemons[name] = Running(entered, _child(entered.pid))
        return self.daemons[name]

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM, patience: float = 60.0) -> None:
        """End a daemon by a signal, and wait until it is gone."""
        running = self.daemons.pop(name)
        try:
            os.kill(running.pid, number)
        except ProcessLookupError:
            pass  # it ended by itself
        running.entered.wait(patience)

    def log(self, name: str, lines: int = 20) -> str:
        """The end of a daemon's log."""
        return "\n".join((self.logs / f"{name}.log").read_text(errors="replace").splitlines()[-lines:])

    # What it was changed to.

    def listing(self) -> dict[str, list[str]]:
        """What is there by kind: links, addresses, routes, rules, tables and chains, named namespaces, files.

        Files are those that differ from the host's below /etc, /opt and /var, all of /run, and all below the
        directories that the machine has of its own but those of its runtime, its kubelet, its etcd and their logs.
        """
        def lines(*argv: str) -> list[str]:
            return sorted(line.strip() for line in self.run(*argv).splitlines() if line.strip())

        found = {
            "links": [line.split(": ")[1].split("@")[0] for line in lines("ip", "-o", "link")],
            "addresses": [" ".join(line.split()[1:4]) for line in lines("ip", "-o", "address")],
            "routes": lines("ip", "route", "show", "table", "all")
            + lines("ip", "-6", "route", "show", "table", "all"),
            "rules": lines("ip", "rule") + lines("ip", "-6", "rule"),
            "tables": lines("nft", "list", "tables"),
            "chains": [line for line in self.run("nft", "list", "chains").splitlines() if line.startswith("\tchain")],
            "iptables": [line for line in lines("iptables-save") if line[0] in "-:"],
            "namespaces": lines("sh", "-c", "ls /run/netns 2>/dev/null || true"),
        }
        tops = [*(self.directory / top / "upper" for top in ("etc", "opt", "var")),
                *(self.directory / "plain" / place for place in ("var/lib/muslin", "var/lib/cni", "var/log/muslin"))]
        files = {str(path).removeprefix(str(self.directory)).replace("/upper", "", 1).replace("/plain", "", 1)
                 for top in tops for path in top.rglob("*")}
        found["files"] = sorted(files) + lines("sh", "-c", "find /run -xdev -not -path '/run/containerd*'")
        return found


def until(condition: Callable[[], T], what: str | Callable[[], str], patience: float, interval: float = 0.1) -> T:
    """Wait until a condition gives something true, and return that."""
    end = time.monotonic() + patience
    while True:
        if found := condition():
            return found
        if time.monotonic() > end:
            raise AssertionError(f"not within {patience:.0f} s: {what if isinstance(what, str) else what()}")
        time.sleep(interval)


def _child(pid: int) -> int:
    """The one child of a process, once it has it."""
    file = Path(f"/proc/{pid}/task/{pid}/children")
    return int(until(lambda: file.read_text().split(), f"process {pid} has a child", 20, 0.002)[0])


def _run(command: list[str], check: bool, text: str | None, timeout: float, environment: Mapping[str, str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout, input=text,
                          env={"PATH": PATH, **environment})
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout if check else done.stdout + done.stderr
