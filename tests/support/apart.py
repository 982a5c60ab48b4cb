"""Services apart from their node: etcd with users, two replicas of each service, TLS between all of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from muslin import netns
from tests.support.chain import Done, invoke
from tests.support.etcd import EtcdServer, free_ports
from tests.support.netns import namespace
from tests.support.service import Service
from tests.support.stack import SHIM, Pod
from tests.support.tls import Certificates

__all__ = ["Apart", "apart"]


@dataclass
class Apart:
    """All of it in one network namespace, on ports of its loopback; the node is called n1."""

    home: Path
    state: Path
    node: Service
    replicas: dict[str, list[Service]] = field(default_factory=dict)

    def configuration(self) -> dict[str, Any]:
        """For the plugin."""
        return {"cniVersion": "1.0.0", "name": "net", "type": "muslin", "policy": {"type": "k8s"},
                "muslin": {"socket": self.node.target.removeprefix("unix:"), "state_dir": str(self.state)}}

    async def invoke(self, verb: str, pod: Pod, timeout: float = 60.0) -> Done:
        """Exec the plugin as a runtime does."""
        return await invoke(SHIM, verb, self.configuration(), pod.environment, timeout=timeout)


@contextmanager
def apart(folder: Path, *, etcds: int = 1) -> Iterator[Apart]:
    """It runs and is ready inside the block. Files are made below a folder."""
    certificates = Certificates(folder / "certs")
    with ExitStack() as stack:
        home = stack.enter_context(namespace("home"))
        members = [EtcdServer(name=f"etcd{number}", tls=certificates.files(f"etcd{number}"), namespace=home)
                   for number in range(1, etcds + 1)]
        for member in members:
            stack.callback(member.stop)
            member.initial_cluster = ",".join(each.peer for each in members)
            member.launch()
        for member in members:
            member.wait()
        etcd = "--etcd=" + ",".join(member.endpoint for member in members)
        subprocess.run(["nsenter", f"--net={home}", sys.executable, "-m", "muslin.cli.main", "etcd-auth", etcd,
                        *certificates.options("etcd-root", "etcd")], check=True, timeout=60, stdout=subprocess.DEVNULL)
        replicas: dict[str, list[Service]] = {}

        def start(name: str, *more: str) -> str:
            """Start both, and give their targets."""
            targets = []
            for _ in range(2):
                (port,) = netns.run(home, lambda: free_ports(1))
                targets.append(f"127.0.0.1:{port}")
                service = Service(name, f"--listen={targets[-1]}", etcd, *certificates.options(name),
                                  *certificates.options(name, "etcd"), *more, namespace=home)
                replicas.setdefault(name, []).append(stack.enter_context(service))
            return f"--{name}={','.join(targets)}"

        endpoint = start("endpoint")
        others = [start(name, endpoint) for name in ("ipam", "policy")]
        node = Service("node", "--node=n1", *certificates.options("n1"), endpoint, *others,
                       f"--state={folder / 'state'}", namespace=home)
        yield Apart(home, folder / "state", stack.enter_context(node), replicas)
