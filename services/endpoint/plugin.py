"""The endpoint service's part of the CNI chain: records of attachments."""

from __future__ import annotations

import dataclasses
import ipaddress
import logging
from typing import TYPE_CHECKING, Any

import grpc
import msgspec

from muslin.api.cni.v1 import cni_pb2
from muslin.api.endpoint.v1 import endpoint_pb2_grpc
from muslin.cni import collect, netconf, refusals
from muslin.cni.invocation import Invocation
from muslin.cni.netconf import Kubernetes
from muslin.cni.result import IPConfig, previous
from muslin.errors import FailedPrecondition, MuslinError, NotFound
from muslin.etcd import keys
from muslin.rpc import bound_to, is_local, node_of, remaining
from services.endpoint import check, codec, sharing
from services.endpoint.deadline import within
from services.endpoint.records import Pod, WorkloadEndpoint

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
        fetched = await self._fetched(call, context)
        try:
            async with within(remaining(context)):
                record = await self._app.attachments.add(call, bound_to(context), fetched)
        except MuslinError as problem:
            if call.kubernetes and (reason := refusals.reason(problem)):
                self._app.report(call.namespace, call.pod, call.args.get("K8S_POD_UID", ""), reason, problem.message)
            raise
        joined = record.network if record.network != call.network else ""
        handed_on = msgspec.structs.replace(call.context, host_interface=record.host_interface, mac=record.mac,
                                            bandwidth=record.bandwidth, joined=joined)
        answer = dataclasses.replace(call.result, ips=_ips(record)) if joined else call.result
        return call.response(answer, handed_on)

    async def _fetched(self, call: Invocation, context: Context) -> Pod | None:
        """The pod as the API server has it, if it is not known and there is one to ask.

        It is asked of a known pod, too, if another of the same name has an endpoint: the late ADD of one that was
        deleted by force must not take the place of its successor. Who can not be asked stops no pod that is known.
        """
        uid = call.args.get("K8S_POD_UID", "")
        if not call.kubernetes:
            return None
        known = self._app.store.pod(call.namespace, call.pod, uid)
        if known and not self._app.store.others_of_the_name(call.namespace, call.pod, uid):
            return None
        conf = call.conf.kubernetes if is_local(context) else Kubernetes()
        try:
            return await self._app.lookup.pod(call.namespace, call.pod, uid, conf, remaining(context) / 2,
                                              anew=known is not None)
        except NotFound:
            raise
        except MuslinError as problem:
            if known is None:
                raise
            log.warning("whether pod %s/%s of uid %s was replaced is not known: %s", call.namespace, call.pod, uid,
                        problem.message)
            return None

    async def Del(self, request: cni_pb2.DelRequest, context: Context) -> cni_pb2.DelResponse:
        """Remove the record of exactly this attachment; none there is a success."""
        call = Invocation.parse(request.call, "")
        async with within(remaining(context)):
            there = await self._app.attachments.delete(call.network, call.container_id, call.ifname,
                                                        bound=bound_to(context))
        log.info("removed attachment=%s/%s/%s there=%s", call.network, call.container_id, call.ifname, there)
        return cni_pb2.DelResponse()

    async def Check(self, request: cni_pb2.CheckRequest, context: Context) -> cni_pb2.CheckResponse:
        """Compare the record, as it is in etcd now, with what ADD answered.

        Raises:
            NotFound: there is no record.
            FailedPrecondition: they differ; the message says in what.
        """
        call = Invocation.parse(request.call, "")
        before = previous(call.conf.prev_result)
        name = f"attachment {call.network}/{call.container_id}/{call.ifname}"
        record, node = await self._record(call, remaining(context)), node_of(context, call.conf.nodename)
        if record is None:
            raise NotFound(f"{name} has no endpoint")
        problems = list(check.differences(record, before))
        if record.node != node:
            problems.insert(0, f"node: the record says {record.node}, this is {node}")
        if problems:
            raise FailedPrecondition(f"{name}: {'; '.join(problems)}")
        return cni_pb2.CheckResponse()

    async def _record(self, call: Invocation, timeout: float) -> WorkloadEndpoint | None:
        """The record of an attachment, or outside Kubernetes the one that it has joined."""
        store, where = self._app.store, (call.container_id, call.ifname)
        item = await store.get(keys.endpoint(call.network, *where), timeout)
        if item is None and not call.kubernetes:
            first = sharing.first_of(await store.get(keys.endpoint_interface(*where), timeout))
            item = await store.get(keys.endpoint(first, *where), timeout) if first else None
        record = codec.endpoint(item) if item is not None else None
        return record if record and call.network in (record.network, *record.joined) else None

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


def _ips(record: WorkloadEndpoint) -> tuple[IPConfig, ...]:
    return tuple(IPConfig(str(ipaddress.ip_interface(address))) for address in record.addresses)
