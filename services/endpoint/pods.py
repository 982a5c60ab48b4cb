"""Pods, and keeping the records of their attachments in step with them."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Collection, Iterator, Mapping, Sequence

from muslin.errors import Corrupt, MuslinError
from muslin.etcd import keys
from services.endpoint import bulk, codec, metrics
from services.endpoint.commits import OPERATIONS
from services.endpoint.records import Pod, follow
from services.endpoint.store import Read, Store

log = logging.getLogger(__name__)

_ENDPOINTS_AT_ONCE = OPERATIONS // 2
"""Each depends on its pod, too."""

_DELAY = (0.2, 0.6)
"""Seconds after which a process looks whether the one that took a change of a pod has done all of it; of a random
length, so that of many processes mostly one finds something to do."""


class Pods:
    """The pods, and the endpoints that follow them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def apply(self, pods: Sequence[Pod], timeout: float) -> None:
        """Store pods, and let the records of their attachments follow.

        Raises:
            Conflict, Unavailable, TimedOut: not known to be done; ask again.
        """
        if revision := await bulk.put(self._store, pods):
            # An endpoint that was stored before its pod is in the mirror now; one that is stored after it depends on
            # the pod's new record.
            await self._store.reached(revision, timeout)
        await self.follow([keys.pod(pod.namespace, pod.name) for pod in pods])

    async def delete(self, names: Sequence[tuple[str, str]]) -> None:
        """Forget pods; the records of their attachments stay as they are.

        Raises:
            Conflict, Unavailable, TimedOut: not known to be done; ask again.
        """
        await bulk.delete(self._store, [keys.pod(namespace, name) for namespace, name in names])

    async def follow(self, pod_keys: Collection[str]) -> None:
        """Bring the records of these pods' attachments in step with the pods.

        Raises:
            Conflict, Unavailable, TimedOut: not known to be done; ask again.
        """
        pairs = [(key, pod_key) for pod_key in pod_keys for key in self._store.endpoints_of(pod_key)]
        for some in bulk.chunks(pairs, _ENDPOINTS_AT_ONCE):
            changed = 0

            def decide(read: Read, some: Sequence[tuple[str, str]] = some) -> Mapping[str, bytes | None]:
                nonlocal changed
                writes = dict(_following(read, some))
                changed = len(writes)
                return writes

            await self._store.transact(decide)
            metrics.FOLLOWED.inc(changed)

    async def run(self) -> None:
        """Do what a process that took a change of a pod, and died, has left undone."""
        while True:
            await self._store.pods_changed.wait()
            await asyncio.sleep(random.uniform(*_DELAY))  # noqa: S311  no secret
            self._store.pods_changed.clear()
            keys_, self._store.changed_pods = self._store.changed_pods, set()
            behind = [key for key in keys_ if self._behind(key)]
            if not behind:
                continue
            try:
                await self.follow(behind)
            except MuslinError as problem:
                log.warning("endpoints do not follow their pods yet: %s", problem.message)
                self._store.changed_pods |= keys_
                self._store.pods_changed.set()

    def _behind(self, pod_key: str) -> bool:
        """Whether, as far as the mirror knows, an endpoint is not in step with its pod."""
        pairs = [(key, pod_key) for key in self._store.endpoints_of(pod_key)]
        return any(_following(self._store.mirrored, pairs))


def _following(read: Read, pairs: Sequence[tuple[str, str]]) -> Iterator[tuple[str, bytes]]:
    """The records, by key, that have to be rewritten; pairs are the keys of an endpoint and of its pod."""
    for key, pod_key in pairs:
        item, pod_item = read(key), read(pod_key)
        if item is None or pod_item is None:
            continue
        try:
            record, pod = codec.endpoint(item), codec.pod(pod_item)
        except Corrupt as problem:
            log.warning("%s", problem.message)
            continue
        if (followed := follow(record, pod)) != record:
            yield key, codec.encode(followed)
