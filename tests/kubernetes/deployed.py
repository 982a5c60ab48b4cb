"""Muslin on a node as users have it there: `kubectl apply -k`, and pods that send packets meanwhile."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.kubernetes.machine import until
from tests.kubernetes.node import ADMIN, PATIENCE, Node

__all__ = ["NAMESPACE", "ROOT", "Cluster", "Lacking", "images_archive", "kubectl", "left"]

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = ROOT / "deploy/overlays"
NAMESPACE = "muslin-system"
IMAGES = [f"muslin/{name}:0.1.0" for name in ("cli", "endpoint", "etcd", "ipam", "node", "policy")]
_THEIRS = ("CNI-HOSTPORT-", "table ip6 nat", "/run/netns", "/var/lib/cni/results")
"""What is left by others: portmap's chains and the tables that they are in, and the runtime's directories."""
_ROLLED = ["daemonset/muslin-node", "deployment/muslin-policy", "deployment/muslin-endpoint", "deployment/muslin-ipam",
           "deployment/muslin-authority"]


class Lacking(Exception):
    """What this needs and can not be had here."""


def kubectl() -> str:
    """One that knows the kustomizations: 1.21 or later.

    Raises:
        Lacking: there is none.
    """
    found = shutil.which("kubectl") or ""
    done = subprocess.run([found or "false", "kustomize", str(OVERLAYS / "single")], capture_output=True, check=False)
    if done.returncode:
        raise Lacking("a kubectl of 1.21 or later on the PATH, whose kustomize reads deploy/")
    return found


def images_archive(folder: Path) -> Path:
    """The images as of `docker save`: MUSLIN_IMAGES, or built into a folder, which needs Docker.

    Raises:
        Lacking: they can not be had.
    """
    if given := os.environ.get("MUSLIN_IMAGES"):
        return Path(given)
    made = folder / "images.tar"
    for command in (["make", "-C", str(ROOT), "images", "TAG=0.1.0"], ["docker", "save", "-o", str(made), *IMAGES]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Lacking(f"MUSLIN_IMAGES=ARCHIVE, or Docker: {' '.join(command[:4])} ended with {done.returncode}: "
                          f"{done.stderr[-300:]}")
    return made


def left(node: Node, before: Mapping[str, list[str]]) -> dict[str, tuple[list[str], list[str]]]:
    """By kind what a node has more than it had, and what it lacks, but for what runtime and portmap leave behind."""
    now = node.listing()
    found = {kind: (sorted(line for line in set(now[kind]) - set(before[kind])
                           if not any(words in line for words in _THEIRS)),
                    sorted(set(before[kind]) - set(now[kind]))) for kind in before}
    return {kind: each for kind, each in found.items() if any(each)}


class Cluster:
    """A node, and Muslin on it and those beside it as users have it there."""

    def __init__(self, node: Node, overlay: str = "single", members: int = 1) -> None:
        """`members` are of etcd."""
        self.node, self._overlay, self._kubectl = node, str(OVERLAYS / overlay), kubectl()
        self._members = [f"muslin-etcd-{number}-0" for number in range(members)]

    def kustomize(self, command: str) -> None:
        """Apply, or delete, the overlay."""
        self.node.run(self._kubectl, command, "-k", self._overlay, environment={"KUBECONFIG": ADMIN, "HOME": "/root"},
                      timeout=300)

    def rolled_out(self) -> None:
        """Wait until everything runs in its latest form."""
        for each in _ROLLED:
            self.node.kubectl("-n", NAMESPACE, "rollout", "status", each, "--timeout=180s")
        for member in self._members:
            until(lambda: self._ready(member), f"{member} is Ready", PATIENCE)  # noqa: B023

    def replaced(self) -> None:
        """Replace everything, one after the other; members of etcd by deleting each one's pod, as users do."""
        for each in _ROLLED:
            self.node.kubectl("-n", NAMESPACE, "rollout", "restart", each)
            self.node.kubectl("-n", NAMESPACE, "rollout", "status", each, "--timeout=180s")
        for member in self._members:
            before = self._ready(member)
            self.node.kubectl("-n", NAMESPACE, "delete", "pod", member)
            until(lambda: self._ready(member) not in ("", before), f"another {member} is Ready", PATIENCE)  # noqa: B023

    def _ready(self, member: str) -> str:
        """What identifies the pod of a member that is Ready; "" if there is none."""
        pod = self.node.get("-n", NAMESPACE, "pod", member)
        well = any(each["type"] == "Ready" and each["status"] == "True"
                   for each in pod.get("status", {}).get("conditions", ()))
        return str(pod["metadata"]["uid"]) if well else ""

    def connect(self, source: str, address: str, port: int = 8080) -> str:
        """What a connection from a pod comes to."""
        said = self.node.kubectl("exec", source, "--", "/agnhost", "connect", f"{address}:{port}", "--timeout=2s",
                                 check=False).split("\n")[0].strip()
        return said or "OK"

    def address(self, pod: str) -> str:
        """Of a pod."""
        return str(self.node.get("pod", pod)["status"].get("podIP", ""))

    def running(self, *pods: str) -> None:
        """Wait until pods are Ready."""
        self.node.kubectl("wait", "--for=condition=Ready", "--timeout=180s", *(f"pod/{name}" for name in pods))

    @contextmanager
    def traffic(self, source: str, address: str) -> Iterator[list[int]]:
        """Have a pod ping another meanwhile, ten times a second.

        In the end the list has how many packets were sent, and how many came back.
        """
        counts: list[int] = []
        command = self.node.entering("env", f"KUBECONFIG={ADMIN}", str(self.node.binaries / "kubectl"), "exec", source,
                                     "--", "sh", "-c", f"trap 'kill -INT $!' TERM; ping -i 0.1 {address} & "
                                                       "echo begun; read line; kill -INT $!; wait $!")
        with subprocess.Popen(_interactive(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True) as pinging:
            assert pinging.stdin
            assert pinging.stdout
            try:
                until(lambda: pinging.stdout.readline().startswith("begun"), "the traffic flows", PATIENCE)  # type: ignore[union-attr]  # asserted
                yield counts
            finally:
                said, _ = pinging.communicate("\n", timeout=60)
        words = next(line for line in said.splitlines() if "packets transmitted" in line).split()
        counts += [int(words[0]), int(words[3])]
        assert counts[0], "nothing was sent"


def _interactive(command: list[str]) -> list[str]:
    """The same, with its input handed on."""
    at = command.index("exec")
    return [*command[:at + 1], "-i", *command[at + 1:]]
