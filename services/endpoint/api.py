"""The endpoint service's own API."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc

from muslin.api.endpoint.v1 import endpoint_pb2, endpoint_pb2_grpc
from muslin.cni import netconf
from muslin.cni.netconf import Kubernetes
from muslin.errors import Denied, FailedPrecondition, InvalidArgument, MuslinError, NotFound
from muslin.etcd import keys
from muslin.rpc import bound_to, is_local, node_of, remaining
from services.endpoint import bulk, changing, codec, convert, hosts
from services.endpoint.deadline import within
from services.endpoint.inventory import watch_inventory
from services.endpoint.records import WorkloadEndpoint
from services.endpoint.watching import watch

if TYPE_CHECKING:
    from services.endpoint.server import EndpointApp

log = logging.getLogger(__name__)

_REASON = re.compile(r"[A-Z][A-Za-z0-9]{0,62}")

Context = grpc.aio.ServicerContext[Any, Any]


class Endpoints(endpoint_pb2_grpc.EndpointsServicer):
    """Records, and the pods, namespaces and nodes that they follow from."""

    def __init__(self, app: EndpointApp) -> None:
        self._app = app

    # Endpoints

    async def Create(self, request: endpoint_pb2.CreateRequest, context: Context) -> endpoint_pb2.CreateResponse:
        """Store a record that is not there."""
        record = convert.endpoint(request.endpoint, "endpoint", node_of(context, ""))
        async with within(seconds := remaining(context)):
            record, revision = await changing.create(self._app.store, record, seconds)
        log.info("created attachment=%s node=%s addresses=%s", record.identity, record.node, ",".join(record.addresses))
        return endpoint_pb2.CreateResponse(endpoint=convert.endpoint_message(record, revision))

    async def Get(self, request: endpoint_pb2.GetRequest, context: Context) -> endpoint_pb2.GetResponse:
        """One record, as it is in etcd now."""
        network, container_id, ifname = convert.identity(request.attachment)
        item = await self._app.store.get(keys.endpoint(network, container_id, ifname), remaining(context))
        if item is None:
            raise NotFound(f"attachment {network}/{container_id}/{ifname} has no endpoint")
        return endpoint_pb2.GetResponse(endpoint=convert.endpoint_message(codec.endpoint(item), item.mod_revision))

    async def List(self, request: endpoint_pb2.ListRequest, context: Context) -> endpoint_pb2.ListResponse:
        """Records that match, all at once or in pages."""
        return await self._app.lists.list(request, remaining(context))

    async def Watch(self, request: endpoint_pb2.WatchRequest,
                    context: Context) -> AsyncIterator[endpoint_pb2.WatchResponse]:
        """Records, and then what changes; see `watching.watch`."""
        async for response in watch(self._app.store, request.revision, request.node):
            yield response

    async def Delete(self, request: endpoint_pb2.DeleteRequest, context: Context) -> endpoint_pb2.DeleteResponse:
        """Remove the record of exactly one attachment."""
        network, container_id, ifname = convert.identity(request.attachment)
        async with within(remaining(context)):
            there = await self._app.attachments.delete(network, container_id, ifname, request.revision,
                                                        bound_to(context))
        log.info("removed on request attachment=%s/%s/%s there=%s", network, container_id, ifname, there)
        return endpoint_pb2.DeleteResponse(deleted=there)

    async def UpdateLabels(self, request: endpoint_pb2.UpdateLabelsRequest,
                           context: Context) -> endpoint_pb2.UpdateLabelsResponse:
        """Change labels of a record outside Kubernetes."""
        key = keys.endpoint(*convert.identity(request.attachment))
        async with within(remaining(context)):
            record, revision = await changing.relabel(
                self._app.store, key, dict(request.set), set(request.remove), request.revision)
        log.info("labels changed attachment=%s set=%s removed=%s", record.identity, ",".join(sorted(request.set)),
                 ",".join(sorted(request.remove)))
        return endpoint_pb2.UpdateLabelsResponse(endpoint=convert.endpoint_message(record, revision))

    async def Restore(self, request: endpoint_pb2.RestoreRequest, context: Context) -> endpoint_pb2.RestoreResponse:
        """Give back records that a node knows of and that were lost; see `changing.restore`."""
        node = node_of(context, "")
        records = [convert.endpoint(message, f"endpoints[{number}]", node)
                   for number, message in enumerate(request.endpoints)]
        for number, record in enumerate(records):
            if record.node != node:
                raise Denied(f"endpoints[{number}].node is {record.node!r}, and the call comes from {node!r}: a node "
                             "restores what is on it")
        async with within(seconds := remaining(context)):
            done = await changing.restore(self._app.store, records, request.revision, seconds)
        for record in done.restored:
            log.warning("restored a lost record attachment=%s node=%s addresses=%s", record.identity, record.node,
                        ",".join(record.addresses))
        for record, reason in done.refused:
            log.warning("did not restore attachment=%s node=%s: %s", record.identity, record.node, reason)
        return endpoint_pb2.RestoreResponse(
            restored=map(convert.attachment_message, done.restored),
            refused=[_refusal(record, reason) for record, reason in done.refused])

    # What they follow from

    async def ApplyPods(self, request: endpoint_pb2.ApplyPodsRequest,
                        context: Context) -> endpoint_pb2.ApplyPodsResponse:
        """Store pods; the records of their attachments have followed when this returns."""
        pods = convert.pods(request.pods)
        async with within(seconds := remaining(context)):
            await self._app.pods.apply(pods, seconds)
        log.info("pods applied count=%d", len(pods))
        return endpoint_pb2.ApplyPodsResponse()

    async def DeletePods(self, request: endpoint_pb2.DeletePodsRequest,
                         context: Context) -> endpoint_pb2.DeletePodsResponse:
        """Forget pods."""
        names = convert.refs(request.pods)
        async with within(remaining(context)):
            await self._app.pods.delete(names)
        log.info("pods deleted count=%d", len(names))
        return endpoint_pb2.DeletePodsResponse()

    async def GetPod(self, request: endpoint_pb2.GetPodRequest, context: Context) -> endpoint_pb2.GetPodResponse:
        """A pod and its namespace, as they are known, or else as the API server has them.

        Raises:
            NotFound: the API server has no such pod.
            FailedPrecondition: the API server can not be asked. (Unavailable is this service, if it is away.)
        """
        ref = endpoint_pb2.PodRef(namespace=request.namespace, name=request.name)
        (namespace, name), = convert.refs([ref])
        conf = netconf.parse(request.config).kubernetes if request.config and is_local(context) else Kubernetes()
        store, lookup = self._app.store, self._app.lookup
        pod = store.pod(namespace, name, request.uid)
        item = store.mirrored(keys.namespace(namespace))
        space = codec.namespace(item) if item else None
        try:
            pod = pod or await lookup.pod(namespace, name, request.uid, conf, remaining(context))
            space = space or await lookup.namespace(namespace, remaining(context))
        except NotFound:
            raise
        except MuslinError as problem:
            raise FailedPrecondition(problem.message) from problem
        return endpoint_pb2.GetPodResponse(pod=convert.pod_message(pod) if pod else None,
                                           namespace=convert.namespace_message(space) if space else None)

    async def ListPods(self, request: endpoint_pb2.ListPodsRequest, context: Context) -> endpoint_pb2.ListPodsResponse:
        """All pods."""
        store = self._app.store
        await store.current(remaining(context))
        return endpoint_pb2.ListPodsResponse(pods=[convert.pod_message(pod) for pod in store.pods()])

    async def ApplyNamespaces(self, request: endpoint_pb2.ApplyNamespacesRequest,
                              context: Context) -> endpoint_pb2.ApplyNamespacesResponse:
        """Store namespaces."""
        namespaces = convert.namespaces(request.namespaces)
        async with within(remaining(context)):
            await bulk.put(self._app.store, namespaces)
        log.info("namespaces applied count=%d", len(namespaces))
        return endpoint_pb2.ApplyNamespacesResponse()

    async def DeleteNamespaces(self, request: endpoint_pb2.DeleteNamespacesRequest,
                               context: Context) -> endpoint_pb2.DeleteNamespacesResponse:
        """Forget namespaces."""
        names = convert.names(request.names)
        async with within(remaining(context)):
            await bulk.delete(self._app.store, [keys.namespace(name) for name in names])
        log.info("namespaces deleted count=%d", len(names))
        return endpoint_pb2.DeleteNamespacesResponse()

    async def ApplyNodes(self, request: endpoint_pb2.ApplyNodesRequest,
                         context: Context) -> endpoint_pb2.ApplyNodesResponse:
        """Store nodes."""
        nodes = convert.nodes(request.nodes)
        async with within(remaining(context)):
            await bulk.put(self._app.store, nodes)
        log.info("nodes applied count=%d", len(nodes))
        return endpoint_pb2.ApplyNodesResponse()

    async def DeleteNodes(self, request: endpoint_pb2.DeleteNodesRequest,
                          context: Context) -> endpoint_pb2.DeleteNodesResponse:
        """Forget nodes."""
        names = convert.names(request.names)
        async with within(remaining(context)):
            await bulk.delete(self._app.store, [keys.node(name) for name in names])
            await self._app.hosts.forget(names)
        log.info("nodes deleted count=%d", len(names))
        return endpoint_pb2.DeleteNodesResponse()

    async def GetNode(self, request: endpoint_pb2.GetNodeRequest, context: Context) -> endpoint_pb2.GetNodeResponse:
        """One node, by default the one that asks."""
        name = request.name or node_of(context, "")
        # ADD waits for this; a node that this process knows changes rarely, and one that it does not may be new.
        store, key = self._app.store, keys.node(name)
        item = store.mirrored(key) or await store.get(key, remaining(context))
        if item is None:
            raise NotFound(f"node {name} is not known: apply it, as `muslin apply` does with a Node")
        return endpoint_pb2.GetNodeResponse(node=convert.node_message(codec.node(item)))

    async def Announce(self, request: endpoint_pb2.AnnounceRequest,
                       context: Context) -> endpoint_pb2.AnnounceResponse:
        """Where the calling node is, and that it lives."""
        node, host = node_of(context, ""), hosts.of_message(request.host, request.ttl_seconds)
        if host.node != node:
            raise Denied(f"host.node is {host.node!r}, and the call comes from {node!r}: a node announces itself")
        async with within(seconds := remaining(context)):
            lease = await self._app.hosts.announce(host, request.ttl_seconds, request.lease, seconds,
                                                   request.host.trouble)
        return endpoint_pb2.AnnounceResponse(lease=lease)

    async def WatchHosts(self, request: endpoint_pb2.WatchHostsRequest,
                         context: Context) -> AsyncIterator[endpoint_pb2.WatchHostsResponse]:
        """Where nodes can be reached, and then what changes."""
        async for response in self._app.hosts.watch():
            yield response

    async def ReportPod(self, request: endpoint_pb2.ReportPodRequest,
                        context: Context) -> endpoint_pb2.ReportPodResponse:
        """Let the user of a pod know what is amiss with it."""
        (namespace, name), = convert.refs([endpoint_pb2.PodRef(namespace=request.namespace, name=request.name)])
        if not _REASON.fullmatch(request.reason):
            raise InvalidArgument(f"reason {request.reason!r} is not a word in CamelCase")
        if not request.message:
            raise InvalidArgument("message is empty: say what is wrong")
        self._app.report(namespace, name, request.uid, request.reason, request.message)
        return endpoint_pb2.ReportPodResponse()

    async def WatchInventory(self, request: endpoint_pb2.WatchInventoryRequest,
                             context: Context) -> AsyncIterator[endpoint_pb2.WatchInventoryResponse]:
        """Pods, namespaces and nodes, and then what changes."""
        async for response in watch_inventory(self._app.store, fetches=self._app.lookup.configured):
            yield response


def _refusal(record: WorkloadEndpoint, reason: str) -> endpoint_pb2.RestoreRefusal:
    return endpoint_pb2.RestoreRefusal(attachment=convert.attachment_message(record), reason=reason)
