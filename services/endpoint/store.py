"""The records in etcd: a mirror to read from, and transactions decided on what was read."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from types import MappingProxyType
from typing import TypeVar

from muslin.errors import Conflict, Corrupt, TimedOut, Unavailable
from muslin.etcd import Etcd, KeyValue, keys
from muslin.etcd.mirror import Change, Mirror
from services.endpoint import codec, metrics
from services.endpoint.codec import Listed
from services.endpoint.commits import Commits, Decide, Read
from services.endpoint.convert import InventoryChange, addition, deletion, forgotten, told
from services.endpoint.feed import KEPT, Event, Feed
from services.endpoint.index import Index
from services.endpoint.records import Pod, WorkloadEndpoint

__all__ = ["Decide", "Read", "Store"]

log = logging.getLogger(__name__)

Value = TypeVar("Value")

_OTHER = (keys.ENDPOINT_BARRIER, keys.ENDPOINT_FENCES, keys.ENDPOINT_INTERFACES, keys.ENDPOINT_WRITER, keys.HOSTS,
          keys.PRESENCES)
"""Keys without a record, or with one that is `hosts`'s."""

_CONFLICTS = 32
_FAILURES = 6


class Store:
    """The records, the index of which endpoints a pod has, and the feed of what changes."""

    def __init__(self, etcd: Etcd, mirror: Mirror, kept: int = KEPT) -> None:
        self._etcd, self._mirror = etcd, mirror
        self._feed: Feed[Event] = Feed(kept)
        self._inventory: Feed[InventoryChange] = Feed(kept)
        self.changed_pods: set[str] = set()
        """Keys of pods that have changed since whoever empties this did so."""
        self.pods_changed = asyncio.Event()
        self._index = Index()
        self._commits = Commits(etcd, self.mirrored)
        self._damaged: set[str] = set()
        self._counts: Counter[type[Listed | WorkloadEndpoint]] = Counter()
        mirror.subscribe(self._take)

    # Reading

    @property
    def revision(self) -> int:
        """The store's revision that the mirror stands for."""
        return self._mirror.revision

    def endpoints(self) -> list[KeyValue]:
        """The records of endpoints, sorted by key; damaged ones are left out."""
        return [self._mirror.items[key] for key in sorted(self._mirror.items)
                if key.startswith(keys.ENDPOINTS) and key not in self._damaged]

    def pod(self, namespace: str, name: str, uid: str) -> Pod | None:
        """A pod as the mirror has it; None if it is not known, or of another uid, where both are known."""
        if (item := self.mirrored(keys.pod(namespace, name))) is None or (pod := _known(codec.pod, item)) is None:
            return None
        return pod if not uid or not pod.uid or uid == pod.uid else None

    def others_of_the_name(self, namespace: str, name: str, uid: str) -> bool:
        """Whether a pod of this name and another uid has an endpoint; no, if one of the uids is not known."""
        items = filter(None, map(self.mirrored, self.endpoints_of(keys.pod(namespace, name))))
        records = filter(None, (_known(codec.endpoint, item) for item in items))
        return bool(uid) and any(record.pod_uid not in ("", uid) for record in records)

    def pods(self) -> Iterator[Pod]:
        """All pods, sorted by key; damaged ones are left out."""
        for key in sorted(key for key in self._mirror.items if key.startswith(keys.PODS)):
            if key not in self._damaged:
                yield codec.pod(self._mirror.items[key])

    def listed(self) -> list[Listed]:
        """All pods, namespaces and nodes; damaged ones are left out."""
        found = (codec.listed(item) for key, item in self._mirror.items.items() if key not in self._damaged)
        return [record for record in found if record is not None]

    async def endpoints_at(self, revision: int, timeout: float) -> Sequence[KeyValue]:
        """The records of endpoints as they were at a revision, sorted by key.

        Raises:
            Compacted: that is not kept any longer, or not reached yet.
            Unavailable, TimedOut: etcd does not answer.
        """
        return (await self._etcd.range(keys.ENDPOINTS, revision=revision, timeout=timeout)).items

    def holders(self, address: str) -> Sequence[str]:
        """Keys of the endpoints that have an address."""
        return self._index.holders(address)

    @property
    def nodes(self) -> Set[str]:
        """The nodes that have endpoints; live."""
        return self._index.nodes

    def endpoints_of(self, pod_key: str) -> Sequence[str]:
        """Keys of the endpoints of a pod."""
        return self._index.of_pod(pod_key)

    @property
    def feed(self) -> Feed[Event]:
        """What has changed of the endpoints since this process began."""
        self._begun()
        return self._feed

    @property
    def inventory(self) -> Feed[InventoryChange]:
        """What has changed of pods, namespaces and nodes since this process began."""
        self._begun()
        return self._inventory

    def _begun(self) -> None:
        if not self._feed.revision:  # a first snapshot without a record is not announced
            self._feed.begin(self._mirror.revision)
            self._inventory.begin(self._mirror.revision)

    def mirrored(self, key: str) -> KeyValue | None:
        """A record as the mirror has it."""
        return self._mirror.items.get(key)

    async def get(self, key: str, timeout: float | None = None) -> KeyValue | None:
        """A record as it is in etcd now."""
        return await self._etcd.get(key, timeout=timeout)

    async def current(self, timeout: float) -> None:
        """Let the mirror catch up with everything written until now.

        Raises:
            Unavailable, TimedOut: it could not.
        """
        before = self._mirror.revision
        revision = await self._etcd.put(keys.ENDPOINT_BARRIER, b"", timeout=timeout)
        if revision <= before:
            raise Unavailable("etcd is at an older revision than it was: its data was replaced, and is read anew")
        await self.reached(revision, timeout)

    async def reached(self, revision: int, timeout: float) -> None:
        """Wait until the mirror has seen a revision at which something of ours was written."""
        await self._mirror.reached(revision, timeout)

    # Writing

    async def transact(self, decide: Decide, known: Mapping[str, KeyValue | None] = MappingProxyType({})) -> int:
        """Commit what a function decides, on condition that what it read is still so.

        The revision at which that was, 0 if there was nothing to write.

        What it reads comes from the mirror, unless it is `known`, or, after a conflict, from etcd's answer. A function
        that raises should know what it decides by, since the mirror may be behind. A transaction without an answer is
        repeated: what it has done is then read, and decided on anew.

        One that was sent may also arrive when its process is dead and others have done more. If the record that it
        would change is another by then, or gone, its condition fails; but a record that it would make may have come
        and gone meanwhile. That is what fences are for: making a record depends on its fence, deleting it rewrites
        that, also if nothing was there.

        Raises:
            Conflict, Unavailable, TimedOut: not known to be done; ask again.
        """
        fresh = dict(known)
        conflicts = failures = 0
        while True:
            send = self._commits.alone if conflicts or failures else self._commits.together
            try:
                outcome = await send(decide, fresh)
            except (Unavailable, TimedOut):
                metrics.UNKNOWN.inc()
                failures += 1
                if failures >= _FAILURES:
                    raise
                await asyncio.sleep(random.uniform(0.5, 1) * min(1.0, 0.05 * 2 ** failures))  # noqa: S311  no secret
                continue
            if outcome.found is None:
                return outcome.revision
            fresh.update(outcome.found)
            metrics.CONFLICTS.inc()
            conflicts += 1
            if conflicts >= _CONFLICTS:
                raise Conflict(f"{next(iter(fresh))}: others changed the same records {_CONFLICTS} times in a row")
            if conflicts > 1:
                await asyncio.sleep(random.uniform(0, 0.001 * 2 ** min(conflicts, 5)))  # noqa: S311  no secret

    async def aclose(self) -> None:
        """Give up what is on its way to etcd."""
        await self._commits.aclose()

    # Following the mirror

    def _take(self, changes: Sequence[Change], revision: int) -> None:
        # What a batch adds up to: its first old and its last new value of each key.
        effect: dict[str, Change] = {}
        for change in changes:
            first = effect.get(change.key)
            effect[change.key] = Change(change.key, first.old if first else change.old, change.new)
        events: list[Event] = []
        news: list[InventoryChange] = []
        for change in effect.values():
            if change.key.startswith(keys.ENDPOINTS):
                events += self._take_endpoint(change, revision)
            else:
                news += self._take_listed(change)
        if not self._feed.revision or revision < self._feed.revision:  # nobody has read yet, or this is another store
            self._feed.begin(revision)
            self._inventory.begin(revision)
        else:
            self._feed.append(events, revision)
            self._inventory.append(news, revision)
        for kind, gauge in metrics.RECORDS.items():
            gauge.set(self._counts[kind])
        metrics.DAMAGED.set(len(self._damaged))

    def _take_endpoint(self, change: Change, revision: int) -> Iterator[Event]:
        before, after = _known(codec.endpoint, change.old), _known(codec.endpoint, change.new)
        self._count(change, before, after)
        self._index.change(change.key, before, after)
        # A record that is damaged now is as good as gone; one that has moved is gone from the node it was on.
        if before and (after is None or after.node != before.node):
            yield Event(deletion(before, revision), before.node)
        if after and change.new:
            yield Event(addition(after, change.new.mod_revision), after.node)

    def _take_listed(self, change: Change) -> Iterator[InventoryChange]:
        before, after = _known(codec.listed, change.old), _known(codec.listed, change.new)
        self._count(change, before, after)
        if change.key.startswith(keys.PODS):
            self.changed_pods.add(change.key)
            self.pods_changed.set()
        if after:
            yield told(after)
        elif before:
            yield forgotten(before)

    def _count(self, change: Change, before: Listed | WorkloadEndpoint | None,
               after: Listed | WorkloadEndpoint | None) -> None:
        for record, sign in ((before, -1), (after, 1)):
            if record is not None:
                self._counts[type(record)] += sign
        if change.new and after is None and not change.key.startswith(_OTHER):
            self._damaged.add(change.key)
        else:
            self._damaged.discard(change.key)


def _known(decode: Callable[[KeyValue], Value], item: KeyValue | None) -> Value | None:
    """A record; None if there is none, or it is damaged."""
    if item is None:
        return None
    try:
        return decode(item)
    except Corrupt as problem:
        log.error("%s", problem.message)  # noqa: TRY400  what is wrong is the record; the traceback is of no use
        return None
