"""Addresses for the CNI chain."""

from __future__ import annotations

import dataclasses
import ipaddress
import logging
from typing import TYPE_CHECKING, Any

import grpc

from muslin.api.cni.v1 import cni_pb2
from muslin.api.ipam.v1 import ipam_pb2_grpc
from muslin.cni import netconf
from muslin.cni.invocation import Invocation
from muslin.cni.result import IPConfig
from muslin.errors import Unsupported
from muslin.rpc import node_of
from services.ipam import handles
from services.ipam.deadline import remaining

if TYPE_CHECKING:
    from services.ipam.server import IpamApp

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

OUR_TYPES = ("", "calico-ipam", "muslin-ipam")
"""Values of a configuration's ipam.type that mean this service."""


class Plugin(ipam_pb2_grpc.PluginServicer):
    """The verbs. Those that are not here answer UNIMPLEMENTED, as the generated class has it."""

    def __init__(self, app: IpamApp) -> None:
        self._app = app

    async def Add(self, request: cni_pb2.AddRequest, context: Context) -> cni_pb2.AddResponse:
        """Give an attachment its addresses, the same again if it has some."""
        call = Invocation.parse(request.call, "")
        if call.conf.ipam.type not in OUR_TYPES:
            raise Unsupported(f"ipam.type {call.conf.ipam.type!r} is not supported; use \"muslin-ipam\" or "
                              "\"calico-ipam\", or leave it out")
        wanted = handles.of(call.attachment, node_of(context, call.conf.nodename), call.namespace, call.pod)
        held = await self._app.allocator.assign(handles.Request(wanted), remaining(context))
        log.info("held attachment=%s node=%s addresses=%s", held.identity, held.node,
                 ",".join(a.address for a in held.addresses))
        ips = tuple(IPConfig(str(ipaddress.ip_interface(a.address))) for a in held.addresses)
        return call.response(dataclasses.replace(call.result, ips=call.result.ips + ips), call.context)

    async def Del(self, request: cni_pb2.DelRequest, context: Context) -> cni_pb2.DelResponse:
        """Free what exactly this attachment holds; nothing held is a success."""
        call = Invocation.parse(request.call, "")
        identity = handles.identity(call.attachment)
        freed = await self._app.allocator.release(identity, remaining(context))
        log.info("freed attachment=%s addresses=%s", identity, ",".join(freed) or "none")
        return cni_pb2.DelResponse()

    async def GC(self, request: cni_pb2.GCRequest, context: Context) -> cni_pb2.GCResponse:
        """Free what attachments of this network hold on this node, unless the configuration lists them as valid."""
        conf = netconf.parse(request.call.config)  # the call is about no attachment
        await self._app.upkeep.gc(conf.name, node_of(context, conf.nodename), request.call.config)
        return cni_pb2.GCResponse()
