"""Pods, namespaces and nodes, followed from the endpoint service.

Addresses are given with or without it: while it can not be reached, what was known last counts, and `trouble` says so.
A stream begins with a snapshot each time; what the receiver knew and the snapshot did not name is gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import grpc

from muslin import rpc
from muslin.api.endpoint.v1 import endpoint_pb2, endpoint_pb2_grpc
from muslin.errors import NotFound, Unavailable
from muslin.etcd.backoff import Backoff
from services.ipam import metrics

log = logging.getLogger(__name__)

ENDPOINT = "unix:/run/muslin/endpoint.sock"
"""Where the endpoint service is, if nobody says otherwise."""
ANNOTATIONS = ("cni.projectcalico.org/", "muslin.dev/")
"""Prefixes of the annotations that are kept: those that may be about addresses. Others can be long, and are many."""
PATIENCE = 0.5
"""Seconds that a pod's first appearance, or the first snapshot of all, is waited for at most."""
ASKING = 5.0
"""Seconds that the endpoint service has to find a pod; it gives an API server three of them."""
BRIEFLY = 1.0
"""Seconds that it has where it is not followed."""


@dataclass(frozen=True, slots=True)
class Pod:
    """What is known of a pod."""

    uid: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Namespace:
    """What is known of a namespace."""

    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Node:
    """What is known of a node."""

    labels: Mapping[str, str] = field(default_factory=dict)


Key = tuple[str, str, str]
"""Kind, namespace (empty for what is in none) and name."""


class Inventory:
    """The inventory of the endpoint service at `target`; `run()` keeps it, in a task of the owner's."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._known: dict[Key, Pod | Namespace | Node] = {}
        self._seen: set[Key] | None = None  # what the snapshot under way has named
        self._pods = self._nodes = 0
        self._moved = asyncio.Event()
        self._settled = False
        self._fetches = True
        self._stub: endpoint_pb2_grpc.EndpointsAsyncStub | None = None
        self.trouble = "no answer from the endpoint service yet"
        """Why what is known may be old; empty while the endpoint service is followed."""

    @property
    def synced(self) -> bool:
        """Whether what is known is what the endpoint service knows."""
        return not self.trouble

    @property
    def told_of_nodes(self) -> bool:
        """Whether anybody tells the endpoint service of nodes: one that is not known is none then."""
        return self._nodes > 0

    def knows(self, namespace: str, name: str, uid: str) -> bool:
        """Whether a pod is known, and of this uid, where both are known."""
        return self._pod_of(namespace, name, uid) is not None

    def pod(self, namespace: str, name: str) -> Pod | None:
        """A pod, if it is known."""
        found = self._known.get(("pod", namespace, name))
        return found if isinstance(found, Pod) else None

    def namespace(self, name: str) -> Namespace | None:
        """A namespace, if it is known."""
        found = self._known.get(("namespace", "", name))
        return found if isinstance(found, Namespace) else None

    def node(self, name: str) -> Node | None:
        """A node, if it is known."""
        found = self._known.get(("node", "", name))
        return found if isinstance(found, Node) else None

    async def ask(self, namespace: str, name: str, uid: str, config: bytes, timeout: float) -> Pod | None:
        """Have the endpoint service look for a pod that is not known, and its namespace: it may ask an API server.

        `config` is the network configuration of the call if it names an API server of this machine's, else empty. None
        if nobody knows.

        Raises:
            NotFound: the API server says that there is no such pod.
            Unavailable: there is an API server, and it can not be asked.
        """
        if self._stub is None or not (self._fetches or config):
            return None
        # A stream that is interrupted may be so for a moment only, and the service be there.
        patience = ASKING if self.synced or not self._settled else BRIEFLY
        request = endpoint_pb2.GetPodRequest(namespace=namespace, name=name, uid=uid, config=config)
        try:
            answer = await self._stub.GetPod(request, timeout=min(timeout, patience))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise NotFound(f"endpoint: {error.details()}") from None
            if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                raise Unavailable(f"endpoint: {error.details()}") from None
            log.warning("pod is not known, and was not found pod=%s/%s problem=%s: %s", namespace, name,
                        error.code().name, error.details())
            return None
        if answer.HasField("namespace"):
            self._known.setdefault(("namespace", "", namespace), Namespace(
                dict(answer.namespace.labels), _ours(answer.namespace.annotations)))
        return Pod(answer.pod.uid, _ours(answer.pod.annotations)) if answer.HasField("pod") else None

    async def settle(self, namespace: str, name: str, uid: str, timeout: float) -> Pod | None:
        """The pod of a call, None if it is not known; `uid` is what the runtime calls it, empty if it does not.

        Pods are told to the endpoint service and started at about the same time, so one that is not known yet, or only
        as an older pod of the same name, is waited for; likewise the first snapshot. Not for longer than `timeout`
        seconds, not while the endpoint service can not be reached, and not if nobody tells it of pods at all.
        """
        if (found := self._pod_of(namespace, name, uid)) or not self._hopeful:
            return found
        try:
            async with asyncio.timeout(timeout):
                while (found := self._pod_of(namespace, name, uid)) is None and self._hopeful:
                    await self._moved.wait()
        except TimeoutError:
            return None
        return found

    def _pod_of(self, namespace: str, name: str, uid: str) -> Pod | None:
        pod = self.pod(namespace, name)
        return pod if pod and (not uid or not pod.uid or uid == pod.uid) else None

    @property
    def _hopeful(self) -> bool:
        """Whether what is not known may become known at any moment."""
        return not self._settled or (self.synced and self._pods > 0)

    async def run(self) -> None:
        """Follow until cancelled."""
        backoff, said = Backoff(most=0.3), ""
        async with rpc.channel(self._target) as channel:
            stub = self._stub = endpoint_pb2_grpc.EndpointsStub(channel)
            while True:
                try:
                    await self._follow(stub, backoff)
                    problem = "the stream has ended"
                except grpc.aio.AioRpcError as error:
                    problem = f"{error.code().name}: {error.details()}"
                if problem != said:
                    log.info("inventory interrupted target=%s problem=%s", self._target, problem)
                said = problem
                self.lost(problem)
                await asyncio.sleep(backoff.next())

    async def _follow(self, stub: endpoint_pb2_grpc.EndpointsAsyncStub, backoff: Backoff) -> None:
        self.begin()
        # A watch has no end, hence no deadline; the channel's pings notice a peer that is frozen or gone.
        async for response in stub.WatchInventory(endpoint_pb2.WatchInventoryRequest(), timeout=None):
            self.take(response)
            backoff.reset()

    def begin(self) -> None:
        """Expect the messages of a new stream."""
        self._seen = set()

    def lost(self, problem: str) -> None:
        """The stream has ended."""
        self.trouble = f"{self._target}: {problem}"
        self._settled = True
        metrics.INVENTORY_SYNCED.set(0)
        self._announce()

    def take(self, response: endpoint_pb2.WatchInventoryResponse) -> None:
        """Follow a message."""
        for change in response.changes:
            key = _key(change)
            if change.deleted:
                self._forget(key)
                continue
            if self._seen is not None:
                self._seen.add(key)
            self._count(key, key not in self._known)
            self._known[key] = _value(change)
        if response.snapshot_complete:
            if self._seen is not None:
                for key in self._known.keys() - self._seen:
                    self._forget(key)
            self._seen, self._settled, self.trouble = None, True, ""
            self._fetches = response.fetches_pods
            metrics.INVENTORY_SYNCED.set(1)
        self._announce()

    def _forget(self, key: Key) -> None:
        if self._known.pop(key, None) is not None:
            self._count(key, -1)

    def _count(self, key: Key, difference: int) -> None:
        self._pods += difference * (key[0] == "pod")
        self._nodes += difference * (key[0] == "node")

    def _announce(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()


def _key(change: endpoint_pb2.InventoryChange) -> Key:
    match change.WhichOneof("object"):
        case "pod":
            return "pod", change.pod.namespace, change.pod.name
        case "namespace":
            return "namespace", "", change.namespace.name
        case "node":
            return "node", "", change.node.name
        case _:  # of a newer version: not ours to know
            return "", "", ""


def _value(change: endpoint_pb2.InventoryChange) -> Pod | Namespace | Node:
    match change.WhichOneof("object"):
        case "pod":
            return Pod(change.pod.uid, _ours(change.pod.annotations))
        case "namespace":
            return Namespace(dict(change.namespace.labels), _ours(change.namespace.annotations))
        case _:
            return Node(dict(change.node.labels))


def _ours(annotations: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in annotations.items() if key.startswith(ANNOTATIONS)}
