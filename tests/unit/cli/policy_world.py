"""A small shop as manifests, for tests of `muslin policy`: what it says is found by the real reader and engine."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

from click.testing import CliRunner, Result

from muslin.cli.main import cli

SHOP = dedent("""\
    apiVersion: v1
    kind: Namespace
    metadata: {name: shop}
    ---
    apiVersion: v1
    kind: Pod
    metadata: {name: web, namespace: shop, labels: {app: web}}
    spec: {containers: [{name: c, image: x, ports: [{containerPort: 80}]}]}
    ---
    apiVersion: v1
    kind: Pod
    metadata: {name: db, namespace: shop, labels: {app: db}}
    spec:
      containers:
        - {name: c, image: x, ports: [{name: sql, containerPort: 5432}, {containerPort: 53, protocol: UDP}]}
    status: {podIPs: [{ip: 10.1.0.7}, {ip: "fd00::7"}]}
    ---
    apiVersion: networking.k8s.io/v1
    kind: NetworkPolicy
    metadata: {name: db, namespace: shop}
    spec:
      podSelector: {matchLabels: {app: db}}
      ingress:
        - from:
            - podSelector: {matchLabels: {app: web}}
          ports:
            - {port: sql}
        - from:
            - ipBlock: {cidr: 10.0.0.0/8, except: [10.9.0.0/16]}
          ports:
            - {port: 5432, endPort: 5440}
    """)
"""shop/db lets in shop/web on port `sql` (line 24), and 10/8 but 10.9/16 on 5432 to 5440 (line 28)."""


def write(folder: Path, text: str = SHOP, name: str = "shop.yaml") -> str:
    """A file of manifests; returns its path."""
    path = folder / name
    path.write_text(text)
    return str(path)


def muslin(*arguments: str, code: int = 0) -> str:
    """What `muslin policy` prints; on an error, the error."""
    result: Result = CliRunner().invoke(cli, ["policy", *arguments])
    assert result.exit_code == code, result.output
    return result.output
