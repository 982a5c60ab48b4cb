"""The plugins that are compared, each with the configuration that makes it do the like of the others."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.support import processes
from bench.support.processes import Cost, Program

__all__ = ["DEBIAN", "SHIM", "Contender", "bridge", "kind", "muslin", "ptp"]

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
        after: The plugin that comes after it in the list, if there is one: what it prints is that one's input.
    """

    name: str
    plugin: Path
    configuration: dict[str, Any]
    after: Contender | None = None

    def run(self, command: str, container: str, namespace: Path) -> Cost:
        """One invocation of all plugins of the list, as kubelet's runtime makes it.

        ADD goes forward, with the result so far, DEL backward (CNI specification 1.0, section 2).

        Raises:
            processes.Failed: one did not succeed.
        """
        if self.after is None:
            return processes.run(self.program(command, container, namespace))
        if command == "ADD":
            first = processes.run(self.program(command, container, namespace))
            second = processes.run(self.after.program(command, container, namespace, json.loads(first.said)))
        else:
            first = processes.run(self.after.program(command, container, namespace))
            second = processes.run(self.program(command, container, namespace))
        return Cost(first.wall + second.wall, first.cpu + second.cpu, second.said)

    def program(self, command: str, container: str, namespace: Path, result: dict[str, Any] | None = None) -> Program:
        """One invocation of this plugin alone."""
        configuration = self.configuration | ({"prevResult": result} if result else {})
        return Program([str(self.plugin)], {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": str(namespace),
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(self.plugin.parent),
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME={container}",
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        }, json.dumps(configuration).encode())


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


def kind(state: Path) -> Contender:
    """The list that kind, Kubernetes in Docker, writes on its nodes: ptp, and portmap for pods that ask for ports."""
    portmap = Contender("portmap", DEBIAN / "portmap", {
        "cniVersion": "1.0.0", "name": "bench-kind", "type": "portmap", "capabilities": {"portMappings": True}})
    return Contender("kind", DEBIAN / "ptp", {
        "cniVersion": "1.0.0", "name": "bench-kind", "type": "ptp", "ipMasq": False,
        "ipam": _host_local("10.203.0.0/16", state)}, portmap)


def _host_local(subnet: str, state: Path) -> dict[str, Any]:
    return {"type": "host-local", "dataDir": str(state), "ranges": [[{"subnet": subnet}]],
            "routes": [{"dst": "0.0.0.0/0"}]}
