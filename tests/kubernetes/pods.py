"""Pods for tests: their manifests, waiting for them, and who reaches whom."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from tests.kubernetes import images
from tests.kubernetes.machine import until
from tests.kubernetes.node import PATIENCE, Node

__all__ = ["PORT", "UDP_PORT", "Space", "address_of", "container", "manifest", "policy", "template"]

PORT, UDP_PORT = 8080, 8081
"""What every pod here listens on."""


def container(*arguments: str, **more: Any) -> dict[str, Any]:
    """One that serves, or what else agnhost can do."""
    return {"name": "c", "image": images.AGNHOST, "args": list(arguments or ("netexec", f"--http-port={PORT}")), **more}


def template(labels: Mapping[str, str], **spec: Any) -> dict[str, Any]:
    """What a pod is made of."""
    return {"metadata": {"labels": dict(labels)},
            "spec": {"terminationGracePeriodSeconds": 0, "automountServiceAccountToken": False,
                     "containers": [container()], **spec}}


def manifest(name: str, labels: Mapping[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    """A pod that serves on PORT, with the label `app` of its name if no others are given."""
    made = template(labels if labels is not None else {"app": name}, **spec)
    return {"apiVersion": "v1", "kind": "Pod", **made, "metadata": {**made["metadata"], "name": name}}


def policy(name: str, selects: Mapping[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    """A NetworkPolicy on pods with labels, by default all."""
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name},
            "spec": {"podSelector": {"matchLabels": dict(selects or {})}, **spec}}


def address_of(pod: Mapping[str, Any]) -> str:
    """What the API server says; "" if nothing yet."""
    return str(pod.get("status", {}).get("podIP", ""))


class Space:
    """A namespace of one test, and what is done in it."""

    def __init__(self, node: Node, name: str) -> None:
        self.node, self.name = node, name

    def make(self) -> None:
        """Make it, ready for pods."""
        self.node.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.name}})
        until(lambda: self.node.get("--namespace", self.name, "serviceaccount", "default"),
              f"{self.name} has a service account", PATIENCE)

    def empty(self) -> None:
        """Delete all pods and what makes them, and wait until they are gone; then have the namespace deleted."""
        self.kubectl("delete", "deployments,statefulsets,jobs,pods", "--all", "--wait", "--grace-period=0", "--force")
        until(lambda: not self.pods(), f"the pods of {self.name} are gone", PATIENCE)
        self.node.kubectl("delete", "namespace", self.name, "--wait=false")

    def kubectl(self, *arguments: str, check: bool = True) -> str:
        """Run kubectl in the namespace."""
        return self.node.kubectl("--namespace", self.name, *arguments, check=check)

    def apply(self, *objects: dict[str, Any]) -> None:
        """Apply objects to it."""
        self.node.apply(*({**each, "metadata": {**each["metadata"], "namespace": self.name}} for each in objects))

    def pods(self) -> list[dict[str, Any]]:
        """All its pods."""
        return list(self.node.get("--namespace", self.name, "pods").get("items", ()))

    def pod(self, name: str) -> dict[str, Any]:
        """One of them, {} if there is none."""
        return self.node.get("--namespace", self.name, "pod", name)

    def ready(self, *names: str, patience: float = PATIENCE) -> list[str]:
        """Wait until pods are Ready; returns their addresses."""
        found: dict[str, dict[str, Any]] = {}

        def all_ready() -> bool:
            found.update((pod["metadata"]["name"], pod) for pod in self.pods())
            return all(_ready(found.get(name, {})) for name in names)
        until(all_ready, lambda: self.kubectl("describe", "pods", *names, check=False), patience)
        return [address_of(found[name]) for name in names]

    def run(self, *names: str) -> list[str]:
        """Make pods that serve, and wait until they are Ready; returns their addresses."""
        self.apply(*(manifest(name) for name in names))
        return self.ready(*names)

    def connect(self, source: str, address: str, port: int = PORT, seconds: int = 3) -> str:
        """What a connection from a pod comes to: OK, or as agnhost calls what went wrong."""
        target = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        said = self.kubectl("exec", source, "--", "/agnhost", "connect", target, f"--timeout={seconds}s",
                            check=False).split("\n")[0].strip()
        return said or "OK"

    def comes_to(self, expected: str, source: str, address: str, port: int = PORT) -> None:
        """Wait until a connection comes to what is expected."""
        seen = []

        def so() -> bool:
            seen.append(self.connect(source, address, port, 1))
            return seen[-1] == expected
        until(so, lambda: f"{source} to {address}:{port} comes to {expected} (was: {seen[-3:]})", 60)

    def fetch(self, source: str, address: str, what: str, port: int = PORT, protocol: str = "http") -> str:
        """What a serving pod is answered when it asks another over HTTP or UDP; "" if nothing. The node tells it to."""
        query = f"host={address}&port={port}&protocol={protocol}&tries=1&request={quote(what)}"
        said = self.node.fetch(f"{address_of(self.pod(source))}:{PORT}/dial?{query}", timeout=20)
        answers = json.loads(said or "{}").get("responses") or [""]
        return str(answers[0])


def _ready(pod: Mapping[str, Any]) -> bool:
    return any(each["type"] == "Ready" and each["status"] == "True"
               for each in pod.get("status", {}).get("conditions", ()))
