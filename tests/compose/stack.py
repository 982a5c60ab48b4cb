"""The stack of docker-compose.yml, under a name of its own: brought up, looked at, broken and mended."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

__all__ = ["ETCD", "NODES", "PORTS", "REPLICAS", "Stack", "missing"]

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
ETCD = ("etcd1", "etcd2", "etcd3")
REPLICAS = ("ipam1", "ipam2", "endpoint1", "endpoint2", "policy1", "policy2")
NODES = ("node1", "node2", "node3")
PORTS = {"ipam": 7401, "endpoint": 7402, "policy": 7403}
"""Of each service: in its container, and on this machine."""
DELAY = Path(__file__).with_name("delay.py")
_DELAY_PORT, _MARK = 9_900, 0x51
PATIENCE = 180.0
"""Seconds for the whole stack to be there, or one container of it to be healthy."""


def missing() -> str:
    """What this machine lacks for the stack, "" if nothing."""
    if os.geteuid():
        return "root, to enter containers' network namespaces"
    for program in ("docker", "nft", "nsenter"):
        if not shutil.which(program):
            return f"the program {program}"
    if not _compose():
        return "docker compose 2, or docker-compose 1.29"
    said = _run(["docker", "info", "--format", "{{.ServerVersion}}"], check=False)
    if said.returncode:
        return f"a Docker daemon ({said.stderr.strip().splitlines()[-1]})"
    found = _run(["docker", "images", "--quiet", f"muslin/*:{os.environ.get('TAG', 'latest')}"]).stdout.split()
    return "" if len(found) >= 6 else "the images: make images"


def _compose() -> list[str]:
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and _run([*command, "version"], check=False).returncode == 0:
            return command
    return []


def _run(command: Sequence[str], *, check: bool = True, timeout: float = 300.0, text: str | None = None,
         environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout, input=text,
                          env=environment, cwd=ROOT)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done


class Stack:
    """One project of docker-compose.yml.

    A second one on a machine needs `apart`, which is added to the ports that are published and the nodes' network.
    """

    def __init__(self, project: str, profile: str = "ha", apart: int = 0, encapsulation: str = "none") -> None:
        self.project = project
        self.services = (*((*ETCD, *REPLICAS) if profile == "ha" else ("etcd", *PORTS)), *NODES)
        self.ports = {service: port + apart for service, port in PORTS.items()}
        self._environment = {
            **os.environ, "COMPOSE_PROFILES": profile, "COMPOSE_IGNORE_ORPHANS": "1",
            "MUSLIN_FABRIC": f"10.203.{apart}", "MUSLIN_ENCAPSULATION": encapsulation,
            **{f"MUSLIN_{service.upper()}_PORT": str(port) for service, port in self.ports.items()}}

    def compose(self, *arguments: str, check: bool = True,
                environment: Mapping[str, str] = MappingProxyType({})) -> str:
        """Run compose; returns what it printed."""
        done = _run([*_compose(), "--project-name", self.project, *arguments], check=check,
                    environment={**self._environment, **environment})
        return done.stdout + done.stderr

    def up(self) -> None:
        """Bring it up, and wait until all of it is healthy."""
        try:
            self.compose("up", "--detach", "--no-build")
            for service in self.services:
                self.healthy(service)
        except BaseException:
            self.save_logs()
            raise

    def down(self) -> None:
        """Remove it, with its volumes."""
        self.compose("down", "--volumes", "--timeout", "5", check=False)

    def save_logs(self) -> Path:
        """Write every container's log to a file; returns its path."""
        path = Path("/tmp") / f"{self.project}.log"
        path.write_text(self.compose("logs", "--no-color", "--timestamps", check=False))
        return path

    def container(self, service: str) -> str:
        """The id of a service's container."""
        found = _run(["docker", "ps", "--all", "--quiet", "--no-trunc",
                      "--filter", f"label=com.docker.compose.project={self.project}",
                      "--filter", f"label=com.docker.compose.service={service}",
                      "--filter", "label=com.docker.compose.oneoff=False"]).stdout.split()
        assert len(found) == 1, f"{service}: {len(found)} containers"
        return found[0]

    def inspect(self, service: str) -> dict[str, Any]:
        """What Docker knows of a service's container."""
        return dict(json.loads(_run(["docker", "inspect", self.container(service)]).stdout)[0])

    def healthy(self, service: str, patience: float = PATIENCE) -> None:
        """Wait until the container's health check says so."""
        def well() -> bool:
            state = self.inspect(service)["State"]
            return bool(state["Running"] and state["Health"]["Status"] == "healthy")
        until(well, f"{service} is healthy", patience)

    def exec(self, service: str, *command: str, check: bool = True, text: str | None = None) -> str:
        """Run a program in a service's container; returns what it printed."""
        done = _run(["docker", "exec", "--interactive", self.container(service), *command], check=check, text=text)
        return done.stdout if check else done.stdout + done.stderr

    def copy_certificates(self, name: str, target: Path) -> Path:
        """The certificate of somebody, as files of ours: tls.crt, tls.key and ca.crt in a directory of its own."""
        place = target / name
        place.mkdir(parents=True, exist_ok=True)
        for file in ("tls.crt", "tls.key", "ca.crt"):
            said = _run(["docker", "run", "--rm", "--volume", f"{self.project}_certs-{name}:/certs:ro", "--user", "0",
                         "--network", "none", "--entrypoint", "cat",
                         f"muslin/cli:{os.environ.get('TAG', 'latest')}", f"/certs/{file}"])
            (place / file).touch(mode=0o600)
            (place / file).write_text(said.stdout)
        return place

    def muslin(self, operator: Path, state: Path, *arguments: str) -> str:
        """Run the command line of this clone as the operator, from outside; returns its result."""
        targets = {f"MUSLIN_{service.upper()}": f"127.0.0.1:{port}" for service, port in self.ports.items()}
        return _run([sys.executable, "-P", "-m", "muslin.cli.main", *arguments], environment={
            **os.environ, **targets, "PYTHONPATH": str(ROOT), "MUSLIN_STATE": str(state),
            "MUSLIN_TLS_CERT": str(operator / "tls.crt"), "MUSLIN_TLS_KEY": str(operator / "tls.key"),
            "MUSLIN_TLS_CA": str(operator / "ca.crt")}).stdout

    def play(self, operator: Path, state: Path, files: str) -> dict[str, Any]:
        """Play manifests on all nodes, probing every pair of pods. Fails unless packets and Explain agree on all."""
        nodes = [f"--node={node}=docker exec --interactive {self.container(node)}" for node in NODES]
        return dict(json.loads(self.muslin(operator, state, "play", files, *nodes, "--output", "json")))

    # What can be done to it. Whatever is a context manager is mended at its end.

    @contextlib.contextmanager
    def killed(self, service: str) -> Iterator[None]:
        """Killed without a warning, and gone."""
        _run(["docker", "kill", self.container(service)])
        try:
            yield
        finally:
            _run(["docker", "start", self.container(service)])

    @contextlib.contextmanager
    def frozen(self, service: str) -> Iterator[None]:
        """Stopped where it stands: its connections stay open, and nobody answers."""
        _run(["docker", "pause", self.container(service)])
        try:
            yield
        finally:
            _run(["docker", "unpause", self.container(service)])

    def daemon(self, node: str) -> int:
        """The process of a node's daemon, as this machine numbers it."""
        listed = _run(["docker", "top", self.container(node), "-o", "pid,args"]).stdout.splitlines()
        found = [int(line.split()[0]) for line in listed[1:]
                 if "services.node" in line and "muslin-machine" not in line]
        assert len(found) == 1, f"{node}: {listed}"
        return found[0]

    def kill_daemon(self, node: str) -> None:
        """Kill the daemon of a node, and wait until it is gone; the machine starts it again."""
        process = self.daemon(node)
        os.kill(process, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{process}").exists(), f"the daemon of {node} is gone", PATIENCE)

    @contextlib.contextmanager
    def frozen_daemon(self, node: str) -> Iterator[None]:
        """The daemon alone stands still; its node's pods go on."""
        process = self.daemon(node)
        os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(process, signal.SIGCONT)

    @contextlib.contextmanager
    def cut(self, service: str, *ports: int) -> Iterator[None]:
        """No packet of TCP to or from the ports of others reaches or leaves a container, and nobody is told."""
        which = ", ".join(map(str, ports))
        self._nft(service, f"""
            table inet cut {{
                chain outgoing {{ type filter hook output priority -300; tcp dport {{ {which} }} drop; }}
                chain incoming {{ type filter hook input priority -300; tcp sport {{ {which} }} drop; }}
            }}""")
        try:
            yield
        finally:
            self._nft(service, "delete table inet cut")

    @contextlib.contextmanager
    def slow(self, service: str, *ports: int, seconds: float) -> Iterator[None]:
        """All that a container has to do with the ports of others takes so much longer, each way."""
        which, far = ", ".join(map(str, ports)), f"meta mark != {_MARK} tcp dport"
        delaying = subprocess.Popen(
            [*self._entering(service), sys.executable, str(DELAY), str(_DELAY_PORT), str(_MARK), str(seconds)],
            stdout=subprocess.PIPE, text=True)
        try:
            assert delaying.stdout is not None
            assert delaying.stdout.readline() == "listening\n"
            # Connections that stand already are reset: a redirection is for new ones.
            self._nft(service, f"""
                table ip slow {{
                    chain aside {{
                        type nat hook output priority -150; {far} {{ {which} }} redirect to :{_DELAY_PORT};
                    }}
                    chain anew {{ type filter hook output priority -50; {far} {{ {which} }} reject with tcp reset; }}
                }}""")
            yield
            self._nft(service, "delete table ip slow")
        finally:
            delaying.kill()
            delaying.communicate()

    def restart(self, *services: str) -> None:
        """Restart containers, as an operator does."""
        self.compose("restart", "--timeout", "10", *services)

    def started(self) -> None:
        """Wait until every process has begun to listen; whether it is ready is another matter."""
        replicas = {self._pid(service): PORTS[service.rstrip("12")] for service in REPLICAS}
        nodes = [self._pid(service) for service in NODES]
        until(lambda: all(_listens(process, port) for process, port in replicas.items())
              and all(_listens_at(process, "/run/muslin/muslin.sock") for process in nodes),
              "all processes listen", PATIENCE)

    def _pid(self, service: str) -> int:
        return int(self.inspect(service)["State"]["Pid"])

    def replace(self, service: str) -> None:
        """Put a new container in a service's place, as an upgrade does, and wait until it is healthy."""
        self.compose("up", "--detach", "--no-build", "--no-deps", "--force-recreate", service)
        self.healthy(service)

    def etcdctl(self, identity: str, *arguments: str) -> str:
        """What etcd tells somebody with this certificate."""
        done = _run(["docker", "run", "--rm", "--network", f"{self.project}_control", "--read-only",
                     "--volume", f"{self.project}_certs-{identity}:/etc/muslin/tls:ro", "--entrypoint", "etcdctl",
                     f"muslin/etcd:{os.environ.get('TAG', 'latest')}", "--endpoints=https://etcd1:2379",
                     *_etcd_flags()[1:], *arguments], check=False)
        return done.stdout + done.stderr

    def renew(self) -> None:
        """New certificates for all, while all run."""
        self.compose("run", "--rm", "certs", environment={"MUSLIN_CERTS_FLAGS": "--renew 3650"})

    def leader(self) -> str:
        """The member that leads etcd's cluster."""
        def found() -> str:
            for member in ETCD:
                said = json.loads(self.exec(member, "etcdctl", *_etcd_flags(), "endpoint", "status", "-w", "json"))
                status = said[0]["Status"]
                if status["leader"] and status["leader"] == status["header"]["member_id"]:
                    return member
            return ""
        return until(found, "etcd has a leader", PATIENCE)

    def _nft(self, service: str, rules: str) -> None:
        _run([*self._entering(service), "nft", "-f", "-"], text=f"{rules}\n")

    def _entering(self, service: str) -> tuple[str, ...]:
        return "nsenter", f"--net=/proc/{self._pid(service)}/ns/net"


def _listens(process: int, port: int) -> bool:
    """Whether somebody in the process' network namespace listens on a TCP port (proc(5), /proc/net/tcp)."""
    tables = [Path(f"/proc/{process}/net/{name}") for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables if table.exists() for line in table.read_text().splitlines()[1:]]
    return any(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)


def _listens_at(process: int, path: str) -> bool:
    """The same, on a unix socket: the flag is __SO_ACCEPTCON."""
    rows = [line.split() for line in Path(f"/proc/{process}/net/unix").read_text().splitlines()[1:]]
    return any(row[-1] == path and int(row[3], 16) & 0x10000 for row in rows)


def _etcd_flags() -> tuple[str, ...]:
    return ("--endpoints=https://127.0.0.1:2379", "--cacert=/etc/muslin/tls/ca.crt",
            "--cert=/etc/muslin/tls/tls.crt", "--key=/etc/muslin/tls/tls.key")


def until(condition: Callable[[], T], what: str, patience: float) -> T:
    """Wait until a condition gives something true, and return that."""
    end = time.monotonic() + patience
    while True:
        if found := condition():
            return found
        assert time.monotonic() < end, f"not within {patience:.0f} s: {what}"
        time.sleep(0.25)
