"""The plugins that are compared, each with the configuration that makes it do the like of the others."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.support.processes import Program

__all__ = ["DEBIAN", "SHIM", "Contender", "bridge", "muslin", "ptp"]

SHIM = Path(__file__).resolve().parents[2] / "build/cni/muslin"
DEBIAN = Path("/usr/lib/cni")
"""Where Debian's containernetworking-plugins are."""


@dataclass(frozen=True)
class Contender:
    """A plugin and its configuration.

    Attributes:
        name: For the table.
        plugin: Path of its binary.
        configuration: For its standard input.
    """

    name: str
    plugin: Path
    configuration: dict[str, Any]

    def program(self, command: str, container: str, namespace: Path) -> Program:
        """One invocation, as kubelet's runtime makes it."""
        return Program([str(self.plugin)], {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": str(namespace),
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(self.plugin.parent),
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME={container}",
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        }, json.dumps(self.configuration).encode())


def muslin(socket: Path) -> Contender:
    """The shim, Kubernetes' policy, and services behind a socket."""
    return Contender("muslin", SHIM, {
        "cniVersion": "1.0.0", "name": "bench-muslin", "type": "muslin", "policy": {"type": "k8s"},
        "muslin": {"socket": str(socket)}})


def bridge(state: Path) -> Contender:
    """A bridge with addresses from files."""
    return Contender("bridge", DEBIAN / "bridge", {
        "cniVersion": "1.0.0", "name": "bench-bridge", "type": "bridge", "bridge": "bench0", "isGateway": True,
        "ipam": _host_local("10.201.0.0/16", state)})


def ptp(state: Path) -> Contender:
    """A veth and a route for each pod, as Muslin wires them, with addresses from files."""
    return Contender("ptp", DEBIAN / "ptp", {
        "cniVersion": "1.0.0", "name": "bench-ptp", "type": "ptp", "ipam": _host_local("10.202.0.0/16", state)})


def _host_local(subnet: str, state: Path) -> dict[str, Any]:
    return {"type": "host-local", "dataDir": str(state), "ranges": [[{"subnet": subnet}]],
            "routes": [{"dst": "0.0.0.0/0"}]}
