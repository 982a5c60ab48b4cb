"""The CNI verbs of this service: wire and enforce, and undo both."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import grpc

from muslin import log as logs
from muslin.api.cni.v1 import cni_pb2
from muslin.api.node.v1 import node_pb2_grpc
from muslin.cni.context import Bandwidth
from muslin.cni.invocation import Invocation
from muslin.cni.result import Interface, Result, Route
from muslin.errors import AlreadyExists, FailedPrecondition, InvalidArgument, TimedOut
from services.node import metrics
from services.node.attachment import Attachment
from services.node.attachments import Attachments
from services.node.check import differences, expected_of
from services.node.enforce.state import Claim, Release
from services.node.enforcer import Enforcer
from services.node.kernel import Kernel
from services.node.netlink.shaping import Bucket
from services.node.upkeep.service import Upkeep
from services.node.wiring import Wired
from services.node.wiring_plan import HOST_MAC, Wiring, bucket, networks, pod_addresses, ways_out

__all__ = ["Plugin", "answer", "wiring_of"]

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
ADD_SECONDS = 30.0
"""Time for an ADD that came without a deadline."""

MARGIN_SECONDS = 0.3
"""Kept of a caller's deadline for undoing and for saying why."""

RULES_SECONDS = 5.0
"""How long a DEL waits for its rules to go. The interface is gone by then, and the enforcer goes on trying."""


def wiring_of(invocation: Invocation) -> Wiring:
    """How an ADD is to be wired.

    Raises:
        InvalidArgument: what the chain or the runtime left out.
    """
    if not invocation.netns:
        raise InvalidArgument("CNI_NETNS is empty: ADD needs the path of the container's network namespace")
    if not invocation.context.host_interface or not invocation.context.mac:
        raise InvalidArgument("the context names no host interface and MAC address: the endpoint service must run "
                              "before this one")
    limits = invocation.context.bandwidth or Bandwidth()
    wiring = Wiring(Attachment.from_message(invocation.attachment), invocation.netns,
                    invocation.context.host_interface, invocation.context.mac,
                    # Those that have an interface are an earlier plugin's.
                    pod_addresses([ip.address for ip in invocation.result.ips if ip.interface is None]),
                    invocation.conf.mtu, bucket(limits.ingress_rate, limits.ingress_burst),
                    bucket(limits.egress_rate, limits.egress_burst),
                    routes=networks(route.dst for route in invocation.result.routes))
    _ = wiring.attachment.alias  # raises if the kernel can not hold it
    return wiring


def answer(result: Result, wiring: Wiring, mtu: int) -> Result:
    """The result with both ends of the veth, whose the addresses are, and the ways out as they are."""
    inside = len(result.interfaces) + 1
    interfaces = (*result.interfaces, Interface(wiring.host_interface, HOST_MAC, mtu),
                  Interface(wiring.attachment.ifname, wiring.mac, mtu, wiring.netns))
    routes = tuple(Route(str(destination), str(gateway)) for destination, gateway in ways_out(wiring))
    ips = tuple(dataclasses.replace(ip, interface=inside) if ip.interface is None else ip for ip in result.ips)
    return dataclasses.replace(result, interfaces=interfaces, ips=ips, routes=routes)


class Plugin(node_pb2_grpc.PluginServicer):
    """muslin.node.v1.Plugin. Verbs that are not here answer UNIMPLEMENTED, as the generated class has it."""

    def __init__(self, node: str, kernel: Kernel, enforcer: Enforcer, attachments: Attachments, upkeep: Upkeep,
                 prefixes: Sequence[str]) -> None:
        """`prefixes` begin the names of interfaces that pass nothing before their policy is in."""
        self._node = node
        self._prefixes = tuple(prefixes)
        self._kernel = kernel
        self._enforcer = enforcer
        self._attachments = attachments
        self._upkeep = upkeep
        upkeep.serve(self.delete, self.unwire)

    async def Add(self, request: cni_pb2.AddRequest, context: Context) -> cni_pb2.AddResponse:
        """Wire the pod and return once its policy is in the kernel."""
        invocation = Invocation.parse(request.call, self._node)
        wiring = wiring_of(invocation)
        if not wiring.host_interface.startswith(self._prefixes):
            raise FailedPrecondition(
                f"host interface {wiring.host_interface} begins with none of {', '.join(self._prefixes)}, so it would "
                "pass packets before its policy is in: start this daemon with --interface-prefix for it")
        if invocation.context.joined:
            return self._joined(invocation, wiring)
        remaining = context.time_remaining()
        deadline = (asyncio.get_running_loop().time()
                    + max(0.0, (ADD_SECONDS if remaining is None else remaining) - MARGIN_SECONDS))
        try:
            wired = await self._attachments.run(wiring.attachment, lambda: self._add(invocation, wiring, deadline))
        except BaseException:
            metrics.ADDS.labels("failed").inc()
            raise
        metrics.ADDS.labels("ok").inc()
        return invocation.response(answer(invocation.result, wiring, wired.mtu), invocation.context)

    def _joined(self, invocation: Invocation, wiring: Wiring) -> cni_pb2.AddResponse:
        """Outside Kubernetes a container's interface can be on a second network: it is there, and wired already."""
        if self._shared(wiring.attachment, wiring.host_interface) is None:
            raise FailedPrecondition(f"{wiring.attachment} is to share the interface that network "
                                     f"{invocation.context.joined} gave the container, which is not wired on this node")
        return invocation.response(answer(invocation.result, wiring, invocation.conf.mtu), invocation.context)

    def _shared(self, attachment: Attachment, interface: str) -> Attachment | None:
        """Another network's attachment by the same interface of the same container, which is wired."""
        owner = self._attachments.owner(interface)
        same = owner is not None and (owner.container_id, owner.ifname) == (attachment.container_id, attachment.ifname)
        return owner if same and owner != attachment else None

    async def _add(self, invocation: Invocation, wiring: Wiring, deadline: float) -> Wired:
        attachment, interface = wiring.attachment, wiring.host_interface
        try:
            async with asyncio.timeout_at(deadline):
                # Before the first snapshot the table may be an earlier run's: a pod made now could meet in it the
                # rules of another that had its interface's name.
                await self._enforcer.synchronised()
                await self._enforcer.severed(wiring.addresses)
        except TimeoutError:
            raise self._too_late(attachment) from None
        already = self._attachments.interfaces.get(attachment)
        since = time.perf_counter()
        wiring_task = self._kernel.wire(wiring)
        began = self._attachments.owner(interface) in (None, attachment)
        if began:
            # Nobody's elements are in the way: the rules can go in while the pod is being wired.
            self._enforcer.submit(Claim(attachment, interface))
        try:
            wired = await asyncio.shield(wiring_task)
            logs.took(log, since, "wiring")
            self._attachments.add(attachment, interface)
            self._upkeep.wired(invocation, wiring, wired.host_index)
            if not began:
                self._enforcer.submit(Claim(attachment, interface))
            since = time.perf_counter()
            async with asyncio.timeout_at(deadline):
                await self._enforcer.enforced(attachment, interface, wiring.addresses)
            metrics.POLICY_WAIT_SECONDS.observe(time.perf_counter() - since)
            logs.took(log, since, "waiting for the policy")
        except BaseException as failure:
            made = await _made(wiring_task)
            if made:
                self._attachments.remove(attachment)
                self._enforcer.submit(Release(attachment))
                self._upkeep.leaving(attachment)
                await self._kernel.unwire(attachment, interface)
                self._upkeep.left(attachment)
            elif began and already is None:
                self._enforcer.submit(Release(attachment))
            if isinstance(failure, TimeoutError):
                raise self._too_late(attachment) from None
            if isinstance(failure, AlreadyExists) and already is None:
                # ALREADY_EXISTS tells the shim that this attachment is there, so that it rolls nothing back.
                raise FailedPrecondition(failure.message) from None
            raise
        return wired

    def _too_late(self, attachment: Attachment) -> TimedOut:
        return TimedOut(f"policy of {attachment} was not in the kernel before the deadline: "
                        f"{self._enforcer.missing(attachment)}")

    async def Check(self, request: cni_pb2.CheckRequest, context: Context) -> cni_pb2.CheckResponse:
        """Compare the kernel with what ADD answered; the error names every difference."""
        invocation = Invocation.parse(request.call, self._node)
        attachment = Attachment.from_message(invocation.attachment)
        if shared := self._shared(attachment, _named(invocation)):
            attachment = shared
            invocation = dataclasses.replace(invocation, attachment=shared.to_message())
        expected = expected_of(invocation, self._attachments.interfaces.get(attachment))
        if (wired := self._upkeep.records.get(attachment)) is not None:
            # Rates that the pod asked for are in no result.
            expected = dataclasses.replace(expected, ingress=Bucket(*wired.ingress) if wired.ingress else None,
                                           egress=Bucket(*wired.egress) if wired.egress else None)

        async def compare() -> list[str]:
            found = await self._kernel.run(partial(differences, expected=expected))
            if not self._enforcer.enforces(attachment, expected.host_interface, expected.addresses):
                found.append(f"policy: {self._enforcer.missing(attachment)}")
            return found

        if found := await self._attachments.run(attachment, compare):
            raise FailedPrecondition(f"{attachment} is not as ADD left it: {'; '.join(found)}")
        return cni_pb2.CheckResponse()

    async def Del(self, request: cni_pb2.DelRequest, context: Context) -> cni_pb2.DelResponse:
        """Remove the veth, if it is this attachment's, and the rules. What is not there is a success."""
        await self.delete(request.call)
        return cni_pb2.DelResponse()

    async def GC(self, request: cni_pb2.GCRequest, context: Context) -> cni_pb2.GCResponse:
        """Remove what the configuration's network has here and its list of valid attachments has not."""
        await self._upkeep.collect(request.call.config)
        return cni_pb2.GCResponse()

    async def Status(self, request: cni_pb2.StatusRequest, context: Context) -> cni_pb2.StatusResponse:
        """Whether an ADD would be served now."""
        self._upkeep.check()
        return cni_pb2.StatusResponse()

    async def delete(self, call: cni_pb2.Call) -> None:
        """DEL of a call, whoever asks for it. Raises MuslinError."""
        invocation = Invocation.parse(call, self._node)
        await self.unwire(Attachment.from_message(invocation.attachment), _named(invocation))

    async def unwire(self, attachment: Attachment, named: str = "") -> None:
        """DEL of an attachment; `named` is its interface, if that is not known. Raises MuslinError."""
        try:
            await self._attachments.run(attachment, lambda: self._del(attachment, named))
        except BaseException:
            metrics.DELS.labels("failed").inc()
            raise
        metrics.DELS.labels("ok").inc()

    async def _del(self, attachment: Attachment, named: str) -> None:
        interface = self._attachments.interfaces.get(attachment, named)
        released = self._enforcer.submit(Release(attachment))
        self._upkeep.leaving(attachment)
        since = time.perf_counter()
        if interface:
            await self._kernel.unwire(attachment, interface)
        logs.took(log, since, "unwiring")
        self._attachments.remove(attachment)
        self._upkeep.left(attachment)
        since = time.perf_counter()
        try:
            async with asyncio.timeout(RULES_SECONDS):
                await asyncio.shield(released)
            logs.took(log, since, "waiting for the rules to go")
        except TimeoutError:
            log.warning("the rules of %s are still in the kernel; its interface is gone", attachment)


def _named(invocation: Invocation) -> str:
    """Name of the host end that the endpoint service gives an attachment."""
    return invocation.host_interface


async def _made(task: asyncio.Future[Wired]) -> bool:
    """Whether the pod was wired, once that is known: a thread can not be called back."""
    await asyncio.wait([task])
    return task.exception() is None
