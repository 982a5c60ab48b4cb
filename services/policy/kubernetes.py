"""NetworkPolicies, Namespaces and ServiceAccounts, and Calico's objects, as an API server has them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from muslin.errors import InvalidArgument
from muslin.etcd import Etcd, KeyValue, keys
from muslin.etcd.election import Election, Term
from muslin.etcd.mirror import Change, Mirror
from muslin.kube import kinds
from muslin.kube.access import Load
from muslin.kube.client import Pace
from muslin.kube.kinds import Kind, Name, Resource
from muslin.kube.mirroring import Aside, Mirroring
from services.policy import records
from services.policy.closed import scope
from services.policy.labels import LOG_DENIED
from services.policy.objects import CALICO_POLICY, POLICY_KINDS
from services.policy.records import KUBERNETES, MAX_MANIFEST, Object
from services.policy.store import Store

__all__ = ["KINDS", "Source", "converted", "key_of", "stand_in"]

KINDS: tuple[Kind[Any], ...] = (
    kinds.NETWORK_POLICIES, kinds.NAMESPACES, kinds.SERVICE_ACCOUNTS,
    kinds.CALICO_NETWORK_POLICIES, kinds.CALICO_GLOBAL_NETWORK_POLICIES, kinds.CALICO_TIERS,
)
"""What policy is made of."""

_ORIGIN = "Kubernetes"
_PATIENCE = 10.0
"""Seconds in which a copy of the store must have seen that its process was elected."""
_WRITE = 20.0
"""Seconds for what is written at once."""


class _Mark(msgspec.Struct):
    """Of a stored object, who looks after it."""

    source: str = ""


def key_of(kind: Kind[Any], name: Name) -> str:
    """Where the record of an object is."""
    return keys.policy_object(_named(kind), *name)


def converted(kind: Kind[Any], item: Resource) -> Object:
    """The record of an object: of its metadata what policy needs, so that it changes when that does and no oftener.

    Of a policy that is too long to be stored it is what the policy is for; `closed` says what comes of that.

    Raises:
        InvalidArgument: another object is too long to be stored.
    """
    namespace, name = item.name
    metadata: dict[str, Any] = {"name": name}
    if namespace:
        metadata["namespace"] = namespace
    if item.labels:
        metadata["labels"] = dict(sorted(item.labels.items()))
    if LOG_DENIED in item.annotations:
        metadata["annotations"] = {LOG_DENIED: item.annotations[LOG_DENIED]}
    manifest: dict[str, Any] = {"apiVersion": kind.version, "kind": kind.kind, "metadata": metadata}
    if isinstance(item, kinds.Manifest):
        manifest["spec"] = item.spec
    encoded = msgspec.json.encode(manifest)
    if len(encoded) > MAX_MANIFEST:
        why = f"it has {len(encoded)} bytes, and {MAX_MANIFEST} are the most; split it"
        if not isinstance(item, kinds.Manifest) or _named(kind) not in POLICY_KINDS:
            raise InvalidArgument(why)
        return _closed(kind, item.name, why, scope(item.spec))
    return Object(_named(kind), namespace, name, _ORIGIN, msgspec.Raw(encoded), KUBERNETES)


def stand_in(kind: Kind[Any], name: Name, why: str) -> Object | None:
    """The record of a policy that is not understood, and was not before; None of anything else."""
    return _closed(kind, name, why, {}) if _named(kind) in POLICY_KINDS else None


def _closed(kind: Kind[Any], name: Name, why: str, spec: Mapping[str, Any]) -> Object:
    namespace, own = name
    manifest = {"apiVersion": kind.version, "kind": kind.kind, "spec": spec,
                "metadata": {"name": own, **({"namespace": namespace} if namespace else {})}}
    return Object(_named(kind), namespace, own, _ORIGIN, msgspec.Raw(msgspec.json.encode(manifest)), KUBERNETES, why)


def _named(kind: Kind[Any]) -> str:
    return CALICO_POLICY if kind == kinds.CALICO_NETWORK_POLICIES else kind.kind


class Source:
    """Keeps the store in step with an API server; `run()` does it, in a task of the owner's, where it is elected."""

    def __init__(self, etcd: Etcd, mirror: Mirror, store: Store, load: Load, aside: Aside,
                 pace: Pace | None = None) -> None:
        self._mirror, self._store = mirror, store
        election = Election(etcd, keys.POLICY_WRITER, f"{socket.gethostname()}/{os.getpid()}")
        self._mirroring = Mirroring(election, load, KINDS, key_of, converted, self, pace, aside, stand_in)
        mirror.subscribe(self._changed)

    async def run(self) -> None:
        """Follow until cancelled."""
        await self._mirroring.run()

    def _changed(self, changes: Sequence[Change], _revision: int) -> None:
        self._mirroring.touched(change.key for change in changes)

    async def begin(self, term: Term) -> None:
        """Wait until the mirror is as new as the term."""
        await self._mirror.reached(term.revision, _PATIENCE)

    def ours(self) -> Iterable[tuple[Kind[Any], str]]:
        """Kinds and keys of the objects that an API server had."""
        return [(kind, key) for kind in KINDS for key, item in self._mirror.items.items()
                if key.startswith(keys.policy_objects(_named(kind))) and _marked(item)]

    def differs(self, key: str, record: Object | None) -> bool:
        """Whether the store has something else at a key."""
        item = self._mirror.items.get(key)
        if record is None:
            return item is not None and _marked(item)
        return item is None or item.value != records.encode(record)

    async def write(self, wanted: Mapping[str, Object | None], term: Term) -> None:
        """Store and delete objects: what may shut something comes first."""
        if puts := [record for record in wanted.values() if record is not None]:
            await self._store.put(puts, _WRITE, term)
        if gone := [records.ref_of(key) for key, record in wanted.items() if record is None]:
            await self._store.delete(gone, _WRITE, term)


def _marked(item: KeyValue) -> bool:
    try:
        return msgspec.json.decode(item.value, type=_Mark).source == KUBERNETES
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False  # damaged: somebody else's business
