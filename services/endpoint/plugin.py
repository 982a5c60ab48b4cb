"""The endpoint service's part of the CNI chain: records of attachments."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING, Any

import grpc
import msgspec

from muslin.api.cni.v1 import cni_pb2
from muslin.api.endpoint.v1 import endpoint_pb2_grpc
from muslin.cni import collect, netconf
from muslin.cni.invocation import Invocation
from muslin.errors import FailedPrecondition, NotFound
from muslin.etcd import keys
from muslin.rpc import node_of, remaining
from services.endpoint import check, codec
from services.endpoint.deadline import within

if TYPE_CHECKING:
    from services.endpoint.server import EndpointApp

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


class Plugin(endpoint_pb2_grpc.PluginServicer):
    """The verbs."""

    def __init__(self, app: EndpointApp) -> None:
        self._app = app

    async def Add(self, request: cni_pb2.AddRequest, context: Context) -> cni_pb2.AddResponse:
        """Store the record."""
        call = Invocation.parse(request.call, "")
        call = dataclasses.replace(call, node=node_of(context, call.conf.nodename))
        async with within(remaining(context)):
            record = await self._app.attachments.add(call)
        log.info("stored attachment=%s node=%s workload=%s addresses=%s", record.identity, record.node,
                 record.workload, ",".join(record.addresses))
        handed_on = msgspec.structs.replace(call.context, host_interface=record.host_interface, mac=record.mac)
        return call.response(call.result, handed_on)

    async def Del(self, request: cni_pb2.DelRequest, context: Context) -> cni_pb2.DelResponse:
        """Remove the record of exactly this attachment; none there is a success."""
        call = Invocation.parse(request.call, "")
        async with within(remaining(context)):
            there = await self._app.attachments.delete(call.network, call.container_id, call.ifname)
        log.info("removed attachment=%s/%s/%s there=%s", call.network, call.container_id, call.ifname, there)
        return cni_pb2.DelResponse()

    async def Check(self, request: cni_pb2.CheckRequest, context: Context) -> cni_pb2.CheckResponse:
        """Compare the record, as it is in etcd now, with what ADD answered.

        Raises:
            NotFound: there is no record.
            FailedPrecondition: they differ; the message says in what.
        """
        call = Invocation.parse(request.call, "")
        before = check.previous(call.conf.prev_result)
        item = await self._app.store.get(keys.endpoint(call.network, call.container_id, call.ifname),
                                         remaining(context))
        name = f"attachment {call.network}/{call.container_id}/{call.ifname}"
        if item is None:
            raise NotFound(f"{name} has no endpoint")
        record, node = codec.endpoint(item), node_of(context, call.conf.nodename)
        problems = list(check.differences(record, before))
        if record.node != node:
            problems.insert(0, f"node: the record says {record.node}, this is {node}")
        if problems:
            raise FailedPrecondition(f"{name}: {'; '.join(problems)}")
        return cni_pb2.CheckResponse()

    async def GC(self, request: cni_pb2.GCRequest, context: Context) -> cni_pb2.GCResponse:
        """Remove records of this network on this node, unless the configuration lists their attachments as valid."""
        conf = netconf.parse(request.call.config)  # the call is about no attachment
        node, alive = node_of(context, conf.nodename), collect.valid(request.call.config)
        if alive is None:
            log.info("collection: no list of valid attachments, nothing is removed network=%s node=%s", conf.name, node)
            return cni_pb2.GCResponse()
        removed = await self._app.attachments.collect(conf.name, node, alive, remaining(context))
        log.info("collected network=%s node=%s removed=%d", conf.name, node, removed)
        return cni_pb2.GCResponse()

    async def Status(self, request: cni_pb2.StatusRequest, context: Context) -> cni_pb2.StatusResponse:
        """Whether an ADD would be served, as far as is known without asking etcd.

        Raises:
            Unavailable: it would not.
            Corrupt, InvalidArgument: not one with this configuration.
        """
        netconf.parse(request.call.config)
        self._app.check_serving()
        return cni_pb2.StatusResponse()
