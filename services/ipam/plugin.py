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
from muslin.cni.netconf import Kubernetes
from muslin.cni.result import IPConfig, previous
from muslin.errors import Corrupt, FailedPrecondition, MuslinError, NotFound, Unavailable, Unsupported
from muslin.rpc import bound_to, is_local, node_of, remaining
from services.ipam import handles, requests
from services.ipam.check import differences
from services.ipam.handles import Handle, Request
from services.ipam.inventory import PATIENCE
from services.ipam.pools import serves

if TYPE_CHECKING:
    from services.ipam.server import IpamApp

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

OUR_TYPES = ("", "calico-ipam", "muslin-ipam")
"""Values of a configuration's ipam.type that mean this service."""


class Plugin(ipam_pb2_grpc.PluginServicer):
    """The verbs."""

    def __init__(self, app: IpamApp) -> None:
        self._app = app

    async def Add(self, request: cni_pb2.AddRequest, context: Context) -> cni_pb2.AddResponse:
        """Give an attachment its addresses, the same again if it has some."""
        call = Invocation.parse(request.call, "")
        if call.conf.ipam.type not in OUR_TYPES:
            raise Unsupported(f"ipam.type {call.conf.ipam.type!r} is not supported; use \"muslin-ipam\" or "
                              "\"calico-ipam\", or leave it out")
        handle = handles.of(call.attachment, node_of(context, call.conf.nodename), call.namespace, call.pod)
        server = is_local(context) and call.conf.kubernetes != Kubernetes()
        try:
            wanted = await self._resolved(call, handle, request.call.config if server else b"", remaining(context))
            wanted = dataclasses.replace(wanted, bound=bool(bound_to(context)))
            held = await self._app.allocator.assign(wanted, remaining(context))
        except MuslinError as problem:
            self._app.reporter.refused(call, problem)
            raise
        log.info("held attachment=%s node=%s addresses=%s", held.identity, held.node,
                 ",".join(a.address for a in held.addresses))
        ips = tuple(IPConfig(str(ipaddress.ip_interface(a.address))) for a in held.addresses)
        return call.response(dataclasses.replace(call.result, ips=call.result.ips + ips), call.context)

    async def _resolved(self, call: Invocation, handle: Handle, config: bytes, timeout: float) -> Request:
        """What the call asks for, as far as pod, namespace and node are known."""
        app, inventory = self._app, self._app.inventory
        pod = None
        if call.kubernetes:
            named = call.namespace, call.pod, call.args.get("K8S_POD_UID", "")
            if not inventory.knows(*named):
                pod = await inventory.ask(*named, config, timeout / 2)
            pod = pod or await inventory.settle(*named, min(PATIENCE, timeout / 4))
            if inventory.trouble:
                log.warning("the inventory is not current, annotations %s: pod=%s/%s attachment=%s problem=%s",
                            "may be old" if pod else "of the pod are not known", call.namespace, call.pod,
                            handle.identity, inventory.trouble)
            elif pod is None:
                log.info("the pod is not known, nor its annotations: pod=%s/%s attachment=%s", call.namespace, call.pod,
                         handle.identity)
        namespace, node = inventory.namespace(call.namespace), inventory.node(handle.node)
        return requests.repeatable(handle, lambda: app.view.handle(handle.identity).value, lambda: requests.of_call(
            handle, call.conf, call.args, pod, namespace, node, app.view.pools()))

    async def Del(self, request: cni_pb2.DelRequest, context: Context) -> cni_pb2.DelResponse:
        """Free what exactly this attachment holds; nothing held is a success."""
        call = Invocation.parse(request.call, "")
        identity = handles.identity(call.attachment)
        freed = await self._app.allocator.release(identity, remaining(context), bound_to(context))
        log.info("freed attachment=%s addresses=%s", identity, ",".join(freed) or "none")
        return cni_pb2.DelResponse()

    async def Check(self, request: cni_pb2.CheckRequest, context: Context) -> cni_pb2.CheckResponse:
        """Compare what the attachment holds, as it is in etcd now, with what ADD answered.

        Raises:
            NotFound: it holds nothing.
            Corrupt: its record is damaged.
            FailedPrecondition: they differ; the message says in what.
        """
        call, view = Invocation.parse(request.call, ""), self._app.view
        before = previous(call.conf.prev_result)
        await self._app.allocator.refresh()
        identity = handles.identity(call.attachment)
        known = view.handle(identity)
        if known.value is None and known.revision:
            raise Corrupt(f"attachment {identity}: the record of its addresses is damaged; see muslin ipam check")
        if known.value is None or known.value.kept_until_ms:
            raise NotFound(f"attachment {identity} holds no address")
        if problems := list(differences(view, known.value, node_of(context, call.conf.nodename), before,
                                        shared=not call.kubernetes)):
            raise FailedPrecondition(f"attachment {identity}: {'; '.join(problems)}")
        return cni_pb2.CheckResponse()

    async def Status(self, request: cni_pb2.StatusRequest, context: Context) -> cni_pb2.StatusResponse:
        """Whether an ADD would be given an address, as far as is known without asking etcd.

        A pool without a free address is no reason to say no: that of a pod that is about to go may be the next one's.

        Raises:
            Unavailable: it would not.
            Corrupt, InvalidArgument: not one with this configuration.
        """
        netconf.parse(request.call.config)
        self._app.check_serving()
        if not any(serves(pool) for pool in self._app.view.pools()):
            raise Unavailable("ipam: there is no enabled pool; muslin ipam pool create makes one")
        return cni_pb2.StatusResponse()

    async def GC(self, request: cni_pb2.GCRequest, context: Context) -> cni_pb2.GCResponse:
        """Free what attachments of this network hold on this node, unless the configuration lists them as valid."""
        conf = netconf.parse(request.call.config)  # the call is about no attachment
        await self._app.upkeep.gc(conf.name, node_of(context, conf.nodename), request.call.config)
        return cni_pb2.GCResponse()
