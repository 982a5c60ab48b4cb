"""Storing and removing the record of an attachment."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from muslin.cni.invocation import Invocation
from muslin.errors import Corrupt
from muslin.etcd import keys
from services.endpoint import codec
from services.endpoint.records import Pod, WorkloadEndpoint, build, concerns
from services.endpoint.store import Read, Store

log = logging.getLogger(__name__)

_REMEMBERED = 10_000
"""Attachments with an unanswered ADD that are remembered for their DEL."""


class Attachments:
    """The records of attachments, by attachment and nothing else."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._unanswered: dict[str, None] = {}

    async def add(self, call: Invocation) -> WorkloadEndpoint:
        """Store the record of an ADD, with what is known of its pod.

        The transaction depends on the pod's record: a pod that changes at the same moment either finds the endpoint,
        or makes this be decided anew.

        Raises:
            InvalidArgument: the attachment has no address.
            Conflict, Unavailable, TimedOut: not known to be done; ask again.
        """
        record = build(call, None)  # what is wrong with the call shows before anything is sent
        key = codec.key_of(record)
        known = False

        def decide(read: Read) -> Mapping[str, bytes | None]:
            nonlocal record, known
            pod = _pod(call, read)
            record, known = build(call, pod), pod is not None and concerns(pod, record)
            read(keys.ENDPOINT_FENCE)
            read(key)
            return {key: codec.encode(record)}

        # Until etcd has answered, the record may be on its way; that its caller has gone changes nothing.
        self._unanswered[key] = None
        while len(self._unanswered) > _REMEMBERED:
            del self._unanswered[next(iter(self._unanswered))]
        await self._store.transact(decide)
        self._unanswered.pop(key, None)
        if call.kubernetes and not known:
            log.warning("pod is not known yet, its endpoint has no labels of it: pod=%s/%s attachment=%s",
                        call.namespace, call.pod, record.identity)
        return record

    async def delete(self, network: str, container_id: str, ifname: str) -> bool:
        """Remove the record of exactly this attachment; whether there was one.

        Raises:
            Conflict, Unavailable, TimedOut: not known to be done; ask again.
        """
        key = keys.endpoint(network, container_id, ifname)
        fence, there = key in self._unanswered, False

        def decide(read: Read) -> Mapping[str, bytes | None]:
            nonlocal there
            there = read(key) is not None
            writes: dict[str, bytes | None] = {key: None} if there else {}
            if fence:  # what was sent and not answered must not arrive after this
                writes[keys.ENDPOINT_FENCE] = b""
            return writes

        await self._store.transact(decide)
        self._unanswered.pop(key, None)
        return there


def _pod(call: Invocation, read: Read) -> Pod | None:
    """The pod that CNI_ARGS names, if there is one and it is known."""
    if not call.kubernetes or (item := read(keys.pod(call.namespace, call.pod))) is None:
        return None
    try:
        return codec.pod(item)
    except Corrupt as problem:
        log.error("%s", problem.message)  # noqa: TRY400  what is wrong is the record; the traceback is of no use
        return None
