"""The walls of the house, held by a test: who may import what, and where each key prefix is written."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GENERATED = (ROOT / "muslin/api", ROOT / "muslin/etcd/stubs")
SERVICES = ("ipam", "endpoint", "policy", "node")


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not any(path.is_relative_to(g) for g in GENERATED):
                yield path


def imports(path: Path) -> set[str]:
    """Full names of all that a file imports, at any depth of nesting."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def reaches(path: Path, *targets: str) -> set[str]:
    return {name for name in imports(path) for target in targets if name == target or name.startswith(target + ".")}


def strings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def inside(path: Path, *folders: str) -> bool:
    return any(path.is_relative_to(ROOT / folder) for folder in folders)


CODE = list(sources("muslin", "services", "shim"))


@pytest.mark.parametrize("path", CODE, ids=lambda p: str(p.relative_to(ROOT)))
def test_boundaries(path: Path) -> None:
    if not inside(path, "muslin/etcd"):
        assert not reaches(path, "etcd3", "muslin.etcd.stubs"), "only muslin.etcd speaks to etcd3"
    if not inside(path, "services/node"):
        assert "AF_NETLINK" not in path.read_text(), "only services/node speaks netlink"
    if not inside(path, "muslin/kube", "muslin/cli"):
        assert not reaches(path, "yaml"), "only muslin.kube reads Kubernetes manifests"
    if not inside(path, "muslin/kube", "muslin/cli", "services/policy", "services/endpoint"):
        assert not reaches(path, "muslin.kube"), "only those follow Kubernetes who store what it has"
    if not inside(path, "muslin/kube"):
        assert not reaches(path, "aiohttp"), "only muslin.kube speaks to an API server"
    for service in SERVICES:
        if inside(path, f"services/{service}"):
            others = [f"services.{other}" for other in SERVICES if other != service]
            assert not reaches(path, *others, "shim", "muslin.cli"), "services meet only in protos"
    if inside(path, "muslin") and not inside(path, "muslin/cli"):
        assert not reaches(path, "services", "shim", "muslin.cli"), "the library knows no service"


def test_each_key_prefix_is_written_in_one_place() -> None:
    for service in ("ipam", "endpoint", "policy"):
        holders = [str(p.relative_to(ROOT)) for p in CODE
                   if any(text.startswith(f"/muslin/{service}/") for text in strings(p))]
        assert holders == ["muslin/etcd/keys.py"]


def test_the_walk_sees_the_code() -> None:
    """Guards the tests above against looking at nothing."""
    assert {"muslin/errors.py", "muslin/rpc/server.py"} <= {str(p.relative_to(ROOT)) for p in CODE}
