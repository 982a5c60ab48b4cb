"""What muslin-endpoint serves: its part of the CNI chain, and its own API."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import msgspec

from muslin.api.cni.v1 import cni_pb2
from muslin.api.endpoint.v1 import endpoint_pb2, endpoint_pb2_grpc
from muslin.cni.invocation import Invocation
from muslin.errors import NotFound, TimedOut, Unavailable
from muslin.etcd import Etcd, keys
from muslin.etcd.mirror import Mirror
from muslin.rpc import App, Part, Readiness, node_of, remaining
from services.endpoint import bulk, codec, convert
from services.endpoint.attachments import Attachments
from services.endpoint.inventory import watch_inventory
from services.endpoint.pods import Pods
from services.endpoint.store import Store
from services.endpoint.watching import watch

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

_LOOK = 0.5
"""Seconds between looks at whether the mirror follows: it announces changes of records, not of its own state."""


class EndpointApp(App):
    """The endpoint service on one etcd cluster."""

    name = "muslin-endpoint"

    def __init__(self, etcd: Sequence[str]) -> None:
        super().__init__()
        self._etcd = Etcd(etcd)
        self._mirror = Mirror(self._etcd, keys.ENDPOINT)
        self._store = Store(self._etcd, self._mirror)
        self._attachments, self._pods = Attachments(self._store), Pods(self._store)

    async def start(self, readiness: Readiness) -> None:
        """Begin to follow the store. Until that is read, requests are answered UNAVAILABLE."""
        self.tasks.spawn("mirror", self._mirror.run())
        self.tasks.spawn("follow pods", self._pods.run())
        self.tasks.spawn("store", self._report(readiness.part("store")))

    def register(self, server: grpc.aio.Server) -> tuple[str, ...]:
        """Serve muslin.endpoint.v1."""
        endpoint_pb2_grpc.add_PluginServicer_to_server(_Plugin(self), server)  # type: ignore[abstract]  # see _Plugin
        endpoint_pb2_grpc.add_EndpointsServicer_to_server(_Endpoints(self), server)
        return tuple(service.full_name for service in endpoint_pb2.DESCRIPTOR.services_by_name.values())

    async def stop(self) -> None:
        """Let go of the store."""
        await self.tasks.aclose()  # its tasks use the store
        await self._etcd.aclose()

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
    def pods(self) -> Pods:
        """The pods. Raises Unavailable before they have been read."""
        self._check()
        return self._pods

    def _check(self) -> None:
        if not self._mirror.ready.is_set():
            raise Unavailable(f"endpoint: the store has not been read yet: {self._mirror.trouble or 'starting'}")


@asynccontextmanager
async def _within(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise TimedOut(f"no answer from etcd within {seconds:.1f} s; whether it was done is unknown, ask "
                       "again") from None


class _Plugin(endpoint_pb2_grpc.PluginServicer):
    """Records for the CNI chain. Verbs that are not here answer UNIMPLEMENTED, as the generated class has it."""

    def __init__(self, app: EndpointApp) -> None:
        self._app = app

    async def Add(self, request: cni_pb2.AddRequest, context: Context) -> cni_pb2.AddResponse:
        call = Invocation.parse(request.call, "")
        call = dataclasses.replace(call, node=node_of(context, call.conf.nodename))
        async with _within(remaining(context)):
            record = await self._app.attachments.add(call)
        log.info("stored attachment=%s node=%s workload=%s addresses=%s", record.identity, record.node,
                 record.workload, ",".join(record.addresses))
        handed_on = msgspec.structs.replace(call.context, host_interface=record.host_interface, mac=record.mac,
                                            bandwidth=record.bandwidth)
        return call.response(call.result, handed_on)

    async def Del(self, request: cni_pb2.DelRequest, context: Context) -> cni_pb2.DelResponse:
        call = Invocation.parse(request.call, "")
        async with _within(remaining(context)):
            there = await self._app.attachments.delete(call.network, call.container_id, call.ifname)
        log.info("removed attachment=%s/%s/%s there=%s", call.network, call.container_id, call.ifname, there)
        return cni_pb2.DelResponse()


class _Endpoints(endpoint_pb2_grpc.EndpointsServicer):
    """The endpoint service's own API."""

    def __init__(self, app: EndpointApp) -> None:
        self._app = app

    async def Get(self, request: endpoint_pb2.GetRequest, context: Context) -> endpoint_pb2.GetResponse:
        network, container_id, ifname = convert.identity(request.attachment)
        item = await self._app.store.get(keys.endpoint(network, container_id, ifname))
        if item is None:
            raise NotFound(f"attachment {network}/{container_id}/{ifname} has no endpoint")
        return endpoint_pb2.GetResponse(endpoint=convert.endpoint_message(codec.endpoint(item), item.mod_revision))

    async def List(self, request: endpoint_pb2.ListRequest, context: Context) -> endpoint_pb2.ListResponse:
        store = self._app.store
        await store.current(remaining(context))
        records = ((codec.endpoint(item), item.mod_revision) for item in store.endpoints())
        return endpoint_pb2.ListResponse(revision=store.revision, endpoints=[
            convert.endpoint_message(record, revision) for record, revision in records
            if request.node in ("", record.node) and request.namespace in ("", record.namespace)])

    async def Watch(self, request: endpoint_pb2.WatchRequest,
                    context: Context) -> AsyncIterator[endpoint_pb2.WatchResponse]:
        async for response in watch(self._app.store, request.revision, request.node):
            yield response

    async def ApplyPods(self, request: endpoint_pb2.ApplyPodsRequest,
                        context: Context) -> endpoint_pb2.ApplyPodsResponse:
        pods = convert.pods(request.pods)
        async with _within(seconds := remaining(context)):
            await self._app.pods.apply(pods, seconds)
        log.info("pods applied count=%d", len(pods))
        return endpoint_pb2.ApplyPodsResponse()

    async def DeletePods(self, request: endpoint_pb2.DeletePodsRequest,
                         context: Context) -> endpoint_pb2.DeletePodsResponse:
        names = convert.refs(request.pods)
        async with _within(remaining(context)):
            await self._app.pods.delete(names)
        log.info("pods deleted count=%d", len(names))
        return endpoint_pb2.DeletePodsResponse()

    async def ListPods(self, request: endpoint_pb2.ListPodsRequest, context: Context) -> endpoint_pb2.ListPodsResponse:
        store = self._app.store
        await store.current(remaining(context))
        return endpoint_pb2.ListPodsResponse(pods=[convert.pod_message(pod) for pod in store.pods()])

    async def ApplyNamespaces(self, request: endpoint_pb2.ApplyNamespacesRequest,
                              context: Context) -> endpoint_pb2.ApplyNamespacesResponse:
        namespaces = convert.namespaces(request.namespaces)
        async with _within(remaining(context)):
            await bulk.put(self._app.store, namespaces)
        log.info("namespaces applied count=%d", len(namespaces))
        return endpoint_pb2.ApplyNamespacesResponse()

    async def DeleteNamespaces(self, request: endpoint_pb2.DeleteNamespacesRequest,
                               context: Context) -> endpoint_pb2.DeleteNamespacesResponse:
        names = convert.names(request.names)
        async with _within(remaining(context)):
            await bulk.delete(self._app.store, [keys.namespace(name) for name in names])
        log.info("namespaces deleted count=%d", len(names))
        return endpoint_pb2.DeleteNamespacesResponse()

    async def ApplyNodes(self, request: endpoint_pb2.ApplyNodesRequest,
                         context: Context) -> endpoint_pb2.ApplyNodesResponse:
        nodes = convert.nodes(request.nodes)
        async with _within(remaining(context)):
            await bulk.put(self._app.store, nodes)
        log.info("nodes applied count=%d", len(nodes))
        return endpoint_pb2.ApplyNodesResponse()

    async def DeleteNodes(self, request: endpoint_pb2.DeleteNodesRequest,
                          context: Context) -> endpoint_pb2.DeleteNodesResponse:
        names = convert.names(request.names)
        async with _within(remaining(context)):
            await bulk.delete(self._app.store, [keys.node(name) for name in names])
        log.info("nodes deleted count=%d", len(names))
        return endpoint_pb2.DeleteNodesResponse()

    async def WatchInventory(self, request: endpoint_pb2.WatchInventoryRequest,
                             context: Context) -> AsyncIterator[endpoint_pb2.WatchInventoryResponse]:
        async for response in watch_inventory(self._app.store):
            yield response
