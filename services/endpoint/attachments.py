"""Storing and removing the record of an attachment."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping

from muslin.cni.invocation import Invocation
from muslin.errors import Conflict, Corrupt, MuslinError
from muslin.etcd import KeyValue, keys
from muslin.rpc import require_own
from services.endpoint import bulk, codec, sharing
from services.endpoint.changing import expected
from services.endpoint.records import Pod, WorkloadEndpoint, build, concerns
from services.endpoint.store import Read, Store

log = logging.getLogger(__name__)

class Attachments:
    """The records of attachments, by attachment and nothing else."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._underway: dict[str, set[_Adding]] = {}

    async def add(self, call: Invocation, bound: str = "", fetched: Pod | None = None) -> WorkloadEndpoint:
        """Store the record of an ADD, with what is known of its pod; with what was `fetched` of it, if nothing is.

        Outside Kubernetes it may be the record of another network, which this one has joined; see `sharing`.

        The transaction depends on the pod's record: a pod that changes at the same moment either finds the endpoint,
        or makes this be decided anew.

        Raises:
            InvalidArgument: the attachment has no address.
            Denied: it has a record already, on another node than the one that the caller is `bound` to.
            Conflict, Unavailable, TimedOut: not known to be done; ask again.
        """
        base = record = build(call, None)  # what is wrong with the call shows before anything is sent
        key = codec.key_of(base)
        known = False
        adding = _Adding()

        def decide(read: Read) -> Mapping[str, bytes | None]:
            nonlocal record, known
            if adding.overtaken:
                raise Conflict(f"{key}: the attachment was deleted while it was being added")
            before = read(key)
            _require_own(bound, before)
            if not call.kubernetes:
                writes, record = _shared(call, base, before, read)
                require_own(bound, record.node, f"attachment {record.identity}")
                return writes
            pod = _pod(call, read)
            if fetched is not None and (pod is None or not concerns(pod, base)):
                pod = fetched
            record = build(call, pod) if pod else base
            known = pod is not None and concerns(pod, record)
            return {key: codec.encode(record)}

        self._underway.setdefault(key, set()).add(adding)
        try:
            await self._store.transact(decide)
        finally:
            self._underway[key].discard(adding)
            if not self._underway[key]:
                del self._underway[key]
        log.info("stored attachment=%s/%s/%s node=%s workload=%s addresses=%s%s%s", call.network, call.container_id,
                 call.ifname, record.node, record.workload, ",".join(record.addresses),
                 "" if known or not call.kubernetes else " (the pod is not known yet, nor its labels)",
                 f" joined={record.network}" if record.network != call.network else "")
        return record

    async def delete(self, network: str, container_id: str, ifname: str, revision: int = 0, bound: str = "") -> bool:
        """Remove the record of exactly this attachment; whether there was one.

        With a revision only if it was last changed at that.

        What of an ADD is still on its way to etcd, sent by this process or by one that is dead, does not arrive after
        this; see `Store.transact`.

        Raises:
            Conflict: it was changed since `revision`.
            Denied: it is on another node than the one that the caller is `bound` to.
            Conflict, Unavailable, TimedOut: not known to be done; ask again.
        """
        key = keys.endpoint(network, container_id, ifname)
        interface = keys.endpoint_interface(container_id, ifname)
        known = {key: await self._store.get(key)} if revision else {}
        there = False

        def decide(read: Read) -> Mapping[str, bytes | None]:
            nonlocal there
            if (item := read(key)) is not None:
                expected(item, revision)
            _require_own(bound, item)
            there = item is not None
            for adding in self._underway.get(key, ()):
                adding.overtaken = True
            writes: dict[str, bytes | None] = {key: None}
            if other := sharing.owner(read, network, container_id, ifname):
                require_own(bound, other.node, f"attachment {other.identity}")
                if (rest := sharing.left(other, network)) != other:
                    writes[codec.key_of(other)] = codec.encode(rest)
            elif read(interface) is not None:
                writes[interface] = None
            return writes

        await self._store.transact(decide, known)
        return there

    async def collect(self, network: str, node: str, alive: Collection[tuple[str, str]], timeout: float) -> int:
        """Remove the records of a network on a node, but for containers' interfaces that are alive; how many went.

        What can not be removed does not keep the others.

        Raises:
            Conflict, Unavailable, TimedOut: some were not removed; the message says how many, and why the first.
        """
        await self._store.current(timeout)
        stale = [record for record in self._records() if record.node == node
                 and network in (record.network, *record.joined) and (record.container_id, record.ifname) not in alive]
        problems: list[MuslinError] = []
        removed = 0
        # Those of Kubernetes' pods many at a time; of others something may be left for another network.
        pods = [codec.key_of(record) for record in stale if record.pod]
        for some in bulk.chunks(pods, bulk.AT_ONCE):
            try:
                await bulk.delete(self._store, some)
            except MuslinError as problem:
                problems.append(problem)
            else:
                removed += len(some)
        for record in stale:
            if not record.pod:
                try:
                    await self.delete(network, record.container_id, record.ifname)
                except MuslinError as problem:
                    problems.append(problem)
                else:
                    removed += 1
        for record in stale:
            log.info("collected attachment=%s/%s/%s", network, record.container_id, record.ifname)
        if problems:
            raise type(problems[0])(f"{len(stale) - removed} of {len(stale)} records were not removed, the first "
                                    f"because {problems[0].message}")
        return removed

    def _records(self) -> Iterator[WorkloadEndpoint]:
        return (codec.endpoint(item) for item in self._store.endpoints())


class _Adding:
    """An ADD under way."""

    overtaken = False
    """Whether a DEL came after it: then it may not be decided anew."""


def _shared(call: Invocation, own: WorkloadEndpoint, before: KeyValue | None, read: Read,
            ) -> tuple[Mapping[str, bytes | None], WorkloadEndpoint]:
    """What to write for an interface outside Kubernetes, and its record: its own, or the one that it joins."""
    if other := sharing.owner(read, call.network, call.container_id, call.ifname):
        read(keys.endpoint_fence(codec.key_of(own)))  # nothing is made at this key; a DEL comes here all the same
        record = sharing.joined(other, call.network)
        return {codec.key_of(other): codec.encode(record)}, record
    record = sharing.kept(own, before)
    interface = keys.endpoint_interface(call.container_id, call.ifname)
    return {codec.key_of(own): codec.encode(record), interface: sharing.claim(call.network)}, record


def _require_own(bound: str, item: KeyValue | None) -> None:
    """As require_own. Whose a damaged record is nobody knows: it keeps nobody from putting things in order."""
    if not bound or item is None:
        return
    try:
        record = codec.endpoint(item)
    except Corrupt:
        return
    require_own(bound, record.node, f"attachment {record.identity}")


def _pod(call: Invocation, read: Read) -> Pod | None:
    """The pod that CNI_ARGS names, if there is one and it is known."""
    if not call.kubernetes or (item := read(keys.pod(call.namespace, call.pod))) is None:
        return None
    try:
        return codec.pod(item)
    except Corrupt as problem:
        log.error("%s", problem.message)  # noqa: TRY400  what is wrong is the record; the traceback is of no use
        return None
