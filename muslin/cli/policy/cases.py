"""Files of expected verdicts, for `muslin policy test`: reading them, with errors that say where.

::

    apiVersion: muslin/v1
    kind: PolicyTest
    manifests: [policies/]            # files and directories, as seen from this file
    pools: [192.168.0.0/16]           # of pods without an address; this is the default
    checks:
      - {from: shop/web, to: shop/db, port: 5432, verdict: allow}
      - {from: "*/*", to: shop/db, verdict: deny, except: [shop/web]}
      - {from: 203.0.113.0/24, to: [shop/web, shop/api], port: [80, 443], protocol: TCP, verdict: allow}

Other documents of the file are Kubernetes objects, which count with those of `manifests`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from muslin.cli.policy.space import PROTOCOLS
from muslin.cli.policy.world import DEFAULT_POOL, World, of_manifest
from muslin.errors import InvalidArgument, NotFound
from muslin.kube.document import documents
from muslin.kube.field import Field
from muslin.kube.manifest import load, merged, text_of
from muslin.kube.objects import Object
from muslin.kube.reader import read as read_objects

__all__ = ["Check", "Suite", "read"]

API_VERSION, KIND = "muslin/v1", "PolicyTest"
_PATTERN = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Check:
    """One entry: every flow from any of `sources` to any of `destinations` on any of `ports` has the verdict."""

    entry: Field
    sources: tuple[str, ...]
    """Pods, patterns of pods, addresses, CIDRs."""
    destinations: tuple[str, ...]
    excepted: tuple[str, ...]
    """Pods and patterns that a pattern does not stand for."""
    ports: tuple[int | None, ...]
    """None for all."""
    protocol: str
    """Empty for TCP, or for all if no port is named."""
    verdict: str
    """`allow` or `deny`."""

    @property
    def place(self) -> str:
        """Where it stands."""
        return f"{self.entry.document}, line {self.entry.node.line}"

    def pairs(self, world: World) -> list[tuple[str, str]]:
        """The pairs of sides; patterns stand for pods, and never for a pod and itself.

        Raises InvalidArgument if a pattern stands for no pod.
        """
        pods = [f"{record.namespace}/{record.pod}" for record in world.endpoints]
        sources = self._expanded("from", self.sources, pods)
        destinations = self._expanded("to", self.destinations, pods)
        return [(a, b) for a, a_pattern in sources for b, b_pattern in destinations
                if a != b or not (a_pattern or b_pattern)]

    def _expanded(self, name: str, given: Iterable[str], pods: Sequence[str]) -> list[tuple[str, bool]]:
        found: dict[str, bool] = {}
        for text in given:
            if _PATTERN.isdisjoint(text):
                found[text] = False
                continue
            matching = [pod for pod in pods if fnmatchcase(pod, text)
                        and not any(fnmatchcase(pod, other) for other in self.excepted)]
            if not matching:
                raise InvalidArgument(f"{self.entry.document}, {self.entry.mapping()[name].node.mark}: "
                                      f"{self.entry.path}.{name}: {text!r} stands for no pod")
            found |= {pod: True for pod in matching if pod not in found}
        return list(found.items())


@dataclass(frozen=True, slots=True)
class Suite:
    """What a file holds."""

    checks: tuple[Check, ...]
    world: World


def read(file: str) -> Suite:
    """A file with its manifests.

    Raises:
        InvalidArgument: something in it, or in its manifests, is not right; the message names file, document and line.
        NotFound: the file, or one that it names, is not there.
        IOFailure: a file can not be read.
    """
    if file != "-" and not Path(file).exists():
        raise NotFound(f"{file}: no such file")
    checks: list[Check] = []
    inline: list[Object] = []
    paths: list[str] = []
    pools: list[str] = []
    for document in documents(text_of(file), file):
        root = Field(document, document.root)
        if root.require("kind", f"say kind: {KIND}, or that of a Kubernetes object").node.value != KIND:
            inline += read_objects(root)
            continue
        version = root.require("apiVersion", f"say apiVersion: {API_VERSION}")
        if version.string() != API_VERSION:
            raise version.error(f"{version.string()!r} is not supported; say {API_VERSION}")
        fields = root.only("apiVersion", "kind", "metadata", "manifests", "pools", "checks")
        paths += [_path(file, item) for item in _texts(fields.get("manifests"))]
        pools += [_pool(item) for item in _texts(fields.get("pools"))]
        checks += [_check(item) for item in root.require("checks", "a list of {from, to, port, verdict}").items()]
    if not checks:
        raise InvalidArgument(f"{file}: no {KIND} with checks is in it; see: muslin policy test --help")
    manifest = merged([*(load(paths).objects if paths else ()), *inline])
    return Suite(tuple(checks), of_manifest(manifest, pools or [DEFAULT_POOL]))


def _path(file: str, item: Field) -> str:
    """A path as seen from the file that names it."""
    found = Path(item.string()) if file == "-" else Path(file).parent / item.string()
    if not found.exists():
        raise item.error(f"{found}: no such file or directory")
    return str(found)


def _pool(item: Field) -> str:
    try:
        return str(ipaddress.ip_network(item.string()))
    except ValueError as problem:
        raise item.error(f"not a range of addresses, such as {DEFAULT_POOL}: {problem}") from None


def _check(entry: Field) -> Check:
    fields = entry.only("from", "to", "except", "port", "protocol", "verdict")
    sources, destinations = (tuple(item.string() for item in _texts(entry.require(
        name, "a pod NAMESPACE/NAME, a pattern such as shop/*, an address or a CIDR"))) for name in ("from", "to"))
    verdict = entry.require("verdict", "say allow or deny")
    if verdict.string() not in ("allow", "deny"):
        raise verdict.error(f"{verdict.string()!r} is not a verdict; say allow or deny")
    protocol = fields["protocol"].string().upper() if "protocol" in fields else ""
    if protocol not in ("", *PROTOCOLS):
        raise fields["protocol"].error(f"{protocol!r} is not supported; use {', '.join(PROTOCOLS)}")
    ports: tuple[int | None, ...] = (None,)
    if "port" in fields:
        ports = tuple(item.integer(1, 65535) for item in _listed(fields["port"]))
    excepted = tuple(item.string() for item in _texts(fields.get("except")))
    return Check(entry, sources, destinations, excepted, ports, protocol, verdict.string())


def _texts(field: Field | None) -> list[Field]:
    """One text, or a list of them."""
    listed = _listed(field) if field else []
    for item in listed:
        item.string()
    return listed


def _listed(field: Field) -> list[Field]:
    if not isinstance(field.node.value, tuple):
        return [field]
    found = list(field.items())
    if not found:
        raise field.error("must not be empty")
    return found
