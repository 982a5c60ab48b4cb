"""Muslin on a node as an operator without containers runs it: `muslin up` with a kubeconfig, and `muslin install`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.kubernetes.machine import until
from tests.kubernetes.node import PATIENCE, POD_NETWORK, Node

__all__ = ["CALICO", "Muslin", "in_calicos_place"]

CALICO = Path(__file__).resolve().parents[2] / "examples/10-calico.conf"
"""The configuration that Calico's users have, to the letter."""
_CREDENTIALS = "/etc/kubernetes/muslin.conf"
_USER = "muslin"
_READ = ("get", "list", "watch")
_RIGHTS = (("", ("pods", "namespaces", "nodes", "serviceaccounts"), _READ),
           ("", ("nodes", "nodes/status"), ("patch",)),
           ("", ("events",), ("create", "patch")),
           ("networking.k8s.io", ("networkpolicies",), _READ),
           ("crd.projectcalico.org", ("networkpolicies", "globalnetworkpolicies", "tiers"), _READ))
"""What the services need, by group, as services/endpoint and services/policy say."""


class Muslin:
    """The services on a node, as the daemon `muslin` of its machine."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def up(self) -> None:
        """Give it its rights, start it, and wait until all of it is healthy."""
        rules = [{"apiGroups": [group], "resources": list(resources), "verbs": list(verbs)}
                 for group, resources, verbs in _RIGHTS]
        api = "rbac.authorization.k8s.io"
        self.node.apply(
            {"apiVersion": f"{api}/v1", "kind": "ClusterRole", "metadata": {"name": _USER}, "rules": rules},
            {"apiVersion": f"{api}/v1", "kind": "ClusterRoleBinding", "metadata": {"name": _USER},
             "roleRef": {"apiGroup": api, "kind": "ClusterRole", "name": _USER},
             "subjects": [{"apiGroup": api, "kind": "User", "name": _USER}]})
        self.node.kubeconfig(_CREDENTIALS, _USER)
        self.begin()

    def begin(self) -> None:
        """Start it with the rights and files that it has, and wait until all of it is healthy."""
        log = self.node.logs / "muslin.log"
        before = log.stat().st_size if log.exists() else 0
        self.node.start("muslin", *_command("up", "--node", self.node.name, "--pool", POD_NETWORK,
                                            "--kubeconfig", _CREDENTIALS))
        until(lambda: b"muslin is up" in log.read_bytes()[before:], lambda: self.node.log("muslin"), PATIENCE)
        self.node.report("muslin: up")

    def install(self, *arguments: str) -> None:
        """`muslin install`."""
        self.node.report(f"muslin: {self('install', *arguments).strip().replace(chr(10), ', ')}")

    def __call__(self, *arguments: str, check: bool = True) -> str:
        """Run the command line; returns what it printed."""
        return self.node.run(*_command(*arguments), check=check)

    def asked(self, *arguments: str) -> dict[str, Any]:
        """The same, for what it says in JSON."""
        return dict(json.loads(self(*arguments, "-o", "json")))


def in_calicos_place(node: Node) -> Muslin:
    """Muslin installed by the configuration that Calico's users have; the node is Ready."""
    made = Muslin(node)
    made.up()
    made.install("--name", "calico", "--conf", str(CALICO))
    node.ready()
    return made


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "muslin.cli.main", *arguments]
