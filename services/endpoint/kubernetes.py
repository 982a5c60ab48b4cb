"""Pods, Namespaces and Nodes, as an API server has them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from muslin.errors import Corrupt
from muslin.etcd import Etcd, KeyValue, keys
from muslin.etcd.election import Deposed, Election, Term
from muslin.etcd.mirror import Change, Mirror
from muslin.kube import kinds
from muslin.kube.access import Load
from muslin.kube.client import Pace
from muslin.kube.kinds import Kind, Name, Resource
from muslin.kube.mirroring import Aside, Mirroring
from services.endpoint import bulk, codec
from services.endpoint.codec import Listed
from services.endpoint.convert import PROTOCOLS
from services.endpoint.pods import Pods
from services.endpoint.records import KUBERNETES, NamedPort, Namespace, Node, Pod
from services.endpoint.store import Decide, Read, Store

__all__ = ["KINDS", "Source", "converted", "key_of", "pod_of"]

KINDS: tuple[Kind[Any], ...] = (kinds.NODES, kinds.NAMESPACES, kinds.PODS)
"""What the inventory consists of."""

_PREFIXES = ((keys.NODES, kinds.NODES), (keys.NAMESPACES, kinds.NAMESPACES), (keys.PODS, kinds.PODS))

_ANNOTATIONS = ("cni.projectcalico.org/", "muslin.dev/", "kubernetes.io/ingress-bandwidth",
                "kubernetes.io/egress-bandwidth")
"""How the annotations begin that somebody here reads. Others may be long, and change often."""
_PATIENCE = 10.0
"""Seconds in which the mirror must have seen what was written."""


def key_of(kind: Kind[Any], name: Name) -> str:
    """Where the record of an object is."""
    if kind is kinds.PODS:
        return keys.pod(*name)
    return keys.namespace(name[1]) if kind is kinds.NAMESPACES else keys.node(name[1])


def converted(_kind: Kind[Any], item: Resource) -> Listed | None:
    """The record of an object; None for a pod that has no network of its own, or has finished."""
    match item:
        case kinds.Pod():
            return None if item.host_network or item.finished else pod_of(item)
        case kinds.Node():
            return Node(item.metadata.name, item.labels, item.pod_cidrs, KUBERNETES)
        case _:
            return Namespace(item.metadata.name, item.labels, _ours(item), KUBERNETES)


def pod_of(item: kinds.Pod) -> Pod:
    """The record of a pod."""
    namespace, name = item.name
    ports = tuple(NamedPort(*port) for port in item.ports if port[1] in PROTOCOLS and 1 <= port[2] <= 65535)
    return Pod(namespace, name, item.uid, item.labels, _ours(item), item.service_account, ports, KUBERNETES)


def _ours(item: Resource) -> dict[str, str]:
    return {key: value for key, value in item.annotations.items() if key.startswith(_ANNOTATIONS)}


class Source:
    """Keeps the records in step with an API server; `run()` does it, in a task of the owner's, where it is elected."""

    def __init__(self, etcd: Etcd, mirror: Mirror, store: Store, pods: Pods, load: Load, aside: Aside,
                 pace: Pace | None = None) -> None:
        self._mirror, self._store, self._pods = mirror, store, pods
        election = Election(etcd, keys.ENDPOINT_WRITER, f"{socket.gethostname()}/{os.getpid()}")
        self._mirroring: Mirroring[Listed] = Mirroring(election, load, KINDS, key_of, converted, self, pace, aside)
        mirror.subscribe(self._changed)

    async def run(self) -> None:
        """Follow until cancelled."""
        await self._mirroring.run()

    def _changed(self, changes: Sequence[Change], _revision: int) -> None:
        self._mirroring.touched(change.key for change in changes)

    async def begin(self, term: Term) -> None:
        """Wait until the mirror is as new as the term."""
        await self._store.reached(term.revision, _PATIENCE)

    def ours(self) -> Iterable[tuple[Kind[Any], str]]:
        """Kinds and keys of the records that an API server had."""
        return [(kind, key) for prefix, kind in _PREFIXES for key, item in self._mirror.items.items()
                if key.startswith(prefix) and _marked(item)]

    def differs(self, key: str, record: Listed | None) -> bool:
        """Whether the store has something else at a key."""
        item = self._mirror.items.get(key)
        if record is None:
            return item is not None and _marked(item)
        return item is None or item.value != codec.encode(record)

    async def write(self, wanted: Mapping[str, Listed | None], term: Term) -> None:
        """Store and delete records; those of pods' attachments have followed when this returns."""
        revision = 0
        encoded = [(key, b"" if record is None else codec.encode(record)) for key, record in wanted.items()]
        for some in bulk.bundles(encoded, bulk.AT_ONCE - 1):  # each transaction depends on the term, too
            revision = await self._store.transact(_writing(some, term)) or revision
        if revision:
            await self._store.reached(revision, _PATIENCE)
        await self._pods.follow([key for key, record in wanted.items() if isinstance(record, Pod)])


def _writing(encoded: Sequence[tuple[str, bytes]], term: Term) -> Decide:
    """Store records, and delete those that are empty, unless they are somebody else's."""
    def decide(read: Read) -> Mapping[str, bytes | None]:
        place = read(term.key)
        if place is None or place.mod_revision != term.revision:
            raise Deposed(f"{term.key}: another process writes what the API server has")
        writes: dict[str, bytes | None] = {}
        for key, value in encoded:
            item = read(key)
            if value and (item is None or item.value != value):
                writes[key] = value
            elif not value and item is not None and _marked(item):
                writes[key] = None
        return writes
    return decide


def _marked(item: KeyValue) -> bool:
    try:
        record = codec.listed(item)
    except Corrupt:
        return False  # damaged: somebody else's business
    return record is not None and record.source == KUBERNETES
