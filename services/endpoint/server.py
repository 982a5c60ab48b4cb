"""What muslin-endpoint serves: its part of the CNI chain, and its own API."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc

from muslin.api.endpoint.v1 import endpoint_pb2, endpoint_pb2_grpc
from muslin.errors import Unavailable
from muslin.etcd import Etcd, Members, keys
from muslin.etcd.mirror import Mirror
from muslin.kube.access import Load
from muslin.kube.client import Client
from muslin.kube.events import Recorder, Subject
from muslin.rpc import App, Part, Readiness
from services.endpoint.api import Endpoints
from services.endpoint.attachments import Attachments
from services.endpoint.hosts import Hosts
from services.endpoint.kubernetes import Source
from services.endpoint.leftovers import GONE_AFTER
from services.endpoint.listing import Lists
from services.endpoint.lookup import Lookup
from services.endpoint.nodes import NodeKeeper
from services.endpoint.plugin import Plugin
from services.endpoint.pods import Pods
from services.endpoint.standing import DOWN_AFTER
from services.endpoint.store import Store

_LOOK = 0.5
"""Seconds between looks at whether the mirror follows: it announces changes of records, not of its own state."""


class EndpointApp(App):
    """The endpoint service on one etcd cluster.

    `kubernetes` reads the credentials of an API server whose pods, namespaces and nodes are to be followed, if any is.
    Only an ADD of a pod that is not known waits for that server. `node_down_after` and `node_gone_after` are the
    seconds after which a node's Node says that it has no network, and what a deleted node has left is removed.
    """

    name = "muslin-endpoint"

    def __init__(self, etcd: Sequence[str] | Members, kubernetes: Load | None = None, *,
                 node_down_after: float = DOWN_AFTER, node_gone_after: float = GONE_AFTER) -> None:
        super().__init__()
        self._etcd = Etcd(etcd)
        self._mirror = Mirror(self._etcd, keys.ENDPOINT)
        self._store = Store(self._etcd, self._mirror)
        self._attachments, self._pods = Attachments(self._store), Pods(self._store)
        self._lists = Lists(self._store)
        self._hosts = Hosts(self._etcd, self._mirror)
        self.lookup = Lookup(kubernetes)
        """Asks for pods that are not known."""
        self._kubernetes, self._events, self._recorder = None, None, None
        if kubernetes:
            keeper = NodeKeeper(self._mirror, self._store, self._hosts, node_down_after, node_gone_after)
            self._kubernetes = Source(self._etcd, self._mirror, self._store, self._pods, kubernetes, keeper)
            self._events = Client(kubernetes)
            self._recorder = Recorder(self._events, self.name)

    async def start(self, readiness: Readiness) -> None:
        """Begin to follow the store. Until that is read, requests are answered UNAVAILABLE."""
        self.tasks.spawn("mirror", self._mirror.run())
        self.tasks.spawn("follow pods", self._pods.run())
        self.tasks.spawn("store", self._report(readiness.part("store")))
        if self._kubernetes:
            self.tasks.spawn("kubernetes", self._kubernetes.run())
        if self._recorder:
            self.tasks.spawn("events", self._recorder.run())

    def register(self, server: grpc.aio.Server) -> tuple[str, ...]:
        """Serve muslin.endpoint.v1."""
        endpoint_pb2_grpc.add_PluginServicer_to_server(Plugin(self), server)
        endpoint_pb2_grpc.add_EndpointsServicer_to_server(Endpoints(self), server)
        return tuple(service.full_name for service in endpoint_pb2.DESCRIPTOR.services_by_name.values())

    async def stop(self) -> None:
        """Let go of the store."""
        await self.tasks.aclose()  # its tasks use the store
        await self.lookup.aclose()
        if self._events:
            await self._events.aclose()
        await self._store.aclose()
        await self._etcd.aclose()

    def report(self, namespace: str, name: str, uid: str, reason: str, message: str) -> None:
        """Let the user of a pod know why it gets no network, where there is an API server. `uid` may be empty."""
        if self._recorder is None:
            return
        known = self._store.pod(namespace, name, uid)
        if uid := uid or (known.uid if known else ""):
            self._recorder.warn(Subject("v1", "Pod", namespace, name, uid), reason, message)

    async def _report(self, part: Part) -> None:
        while True:
            part.set(self._mirror.ready.is_set() and not self._mirror.trouble, self._mirror.trouble)
            await asyncio.sleep(_LOOK if self._mirror.ready.is_set() else _LOOK / 20)

    @property
    def store(self) -> Store:
        """The records. Raises Unavailable before they have been read."""
        self._check()
        return self._store

    @property
    def attachments(self) -> Attachments:
        """The records of attachments. Raises Unavailable before they have been read."""
        self._check()
        return self._attachments

    @property
    def lists(self) -> Lists:
        """Lists of the records. Raises Unavailable before they have been read."""
        self._check()
        return self._lists

    @property
    def hosts(self) -> Hosts:
        """Where nodes can be reached. Raises Unavailable before that has been read."""
        self._check()
        return self._hosts

    @property
    def pods(self) -> Pods:
        """The pods. Raises Unavailable before they have been read."""
        self._check()
        return self._pods

    def check_serving(self) -> None:
        """Raises Unavailable if the records have not been read, or the store is lost: then nothing is stored."""
        self._check()
        if self._mirror.trouble:
            raise Unavailable(f"endpoint: the store is lost: {self._mirror.trouble}")

    def _check(self) -> None:
        if not self._mirror.ready.is_set():
            raise Unavailable(f"endpoint: the store has not been read yet: {self._mirror.trouble or 'starting'}")
