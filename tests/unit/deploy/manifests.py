"""The manifests in deploy/, as kustomize renders them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

__all__ = ["LACKING", "OVERLAYS", "ROOT", "Manifest", "containers", "files", "rendered", "rendering", "templates"]

Manifest = dict[str, Any]

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy"
OVERLAYS = tuple(sorted(path.name for path in (DEPLOY / "overlays").iterdir()))
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
WORKLOADS = ("DaemonSet", "Deployment", "StatefulSet")


def _program() -> tuple[str, ...]:
    for command in (("kubectl", "kustomize"), ("kustomize", "build")):
        if shutil.which(command[0]) and _run(*command, str(DEPLOY / "overlays/single")) is not None:
            return command
    return ()


@cache
def _run(*command: str) -> str | None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    return done.stdout if done.returncode == 0 else None


@cache
def rendering() -> tuple[str, ...]:
    """The program that renders, () where there is none that knows the kustomizations."""
    return _program()


LACKING = "NOT RUN: needs kubectl 1.21 or later, or kustomize 4.1 or later, on the PATH"


@cache
def text(overlay: str) -> str:
    """What is applied."""
    said = _run(*rendering(), str(DEPLOY / "overlays" / overlay))
    assert said is not None, overlay
    return said


@cache
def rendered(overlay: str) -> list[Manifest]:
    """The objects of an overlay."""
    return list(yaml.load_all(text(overlay), Loader=_LOADER))


def files() -> Iterator[tuple[str, Manifest]]:
    """Every whole object that is written somewhere, without rendering."""
    for path in sorted([*(DEPLOY / "base").glob("*.yaml"), *(DEPLOY / "etcd").rglob("*.yaml")]):
        if path.name != "kustomization.yaml":
            for number, each in enumerate(yaml.safe_load_all(path.read_text())):
                yield f"{path.relative_to(DEPLOY)} {number} {each['kind']}", each


def templates(manifests: list[Manifest]) -> list[tuple[str, Manifest]]:
    """Names and specifications of pods."""
    return [(each["metadata"]["name"], each["spec"]["template"]["spec"]) for each in manifests
            if each["kind"] in WORKLOADS]


def containers(spec: Manifest) -> list[Manifest]:
    """All of a pod."""
    return [*spec.get("initContainers", ()), *spec["containers"]]
