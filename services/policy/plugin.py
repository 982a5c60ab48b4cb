"""The policy service's part of the CNI chain: the name of the profile that an attachment is in."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import grpc
import msgspec

from muslin.api.cni.v1 import cni_pb2
from muslin.api.policy.v1 import policy_pb2_grpc
from muslin.cni import collect, netconf
from muslin.cni.invocation import Invocation
from muslin.errors import FailedPrecondition, InvalidArgument, Unavailable
from muslin.etcd import keys
from muslin.rpc import remaining
from services.policy.model import NAMESPACE_PROFILE_PREFIX
from services.policy.records import network_profile
from services.policy.replica import Replica

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


class Plugin(policy_pb2_grpc.PluginServicer):
    """Profiles for the CNI chain."""

    def __init__(self, replica: Replica, trouble: Callable[[], str]) -> None:
        """`trouble` says what the service waits for, the endpoint service included; empty if for nothing."""
        self._replica = replica
        self._trouble = trouble

    async def Add(self, request: cni_pb2.AddRequest, context: Context) -> cni_pb2.AddResponse:
        """In Kubernetes' policy mode the namespace's profile; else the network's, made on its first use."""
        call = Invocation.parse(request.call, "")
        profile, network = _profile(call)
        if network:
            await self._ensure(profile, kubernetes=call.kubernetes, timeout=remaining(context))
        log.debug("named attachment=%s/%s/%s profile=%s", call.network, call.container_id, call.ifname, profile)
        return call.response(call.result, msgspec.structs.replace(call.context, profiles=(profile,)))

    async def _ensure(self, name: str, *, kubernetes: bool, timeout: float) -> None:
        """Have a profile in the store and in this replica's programs; one that is there stays as it is."""
        if name.startswith(NAMESPACE_PROFILE_PREFIX):
            raise InvalidArgument(f"name: a network can not be called {name!r}, which is the profile of a namespace; "
                                  f"use a name that does not begin with {NAMESPACE_PROFILE_PREFIX!r}")
        if keys.profile(name) not in self._replica.mirror.items:
            profile = network_profile(name, kubernetes=kubernetes)
            revision = await self._replica.store.ensure_profile(name, profile, timeout)
            await self._replica.mirror.reached(revision, timeout)

    async def _there(self, name: str, timeout: float) -> bool:
        """Whether there is a profile; what this replica does not know may be another's newest."""
        return keys.profile(name) in self._replica.mirror.items or await self._replica.store.has_profile(name, timeout)

    async def Check(self, request: cni_pb2.CheckRequest, context: Context) -> cni_pb2.CheckResponse:
        """Whether the profile of the attachment's network is there.

        A namespace's profile is not stored but made of the Namespace; without one its pods are closed, which is how
        it should be and no difference.

        Raises:
            FailedPrecondition: it is not; then the attachment is closed.
            Unavailable, TimedOut: the store can not be read.
        """
        call = Invocation.parse(request.call, "")
        profile, network = _profile(call)
        if network and not await self._there(profile, remaining(context)):
            raise FailedPrecondition(f"attachment {call.network}/{call.container_id}/{call.ifname}: profile {profile} "
                                     "is gone, and without it the attachment is closed; an ADD on this network makes "
                                     "it anew")
        return cni_pb2.CheckResponse()

    async def GC(self, request: cni_pb2.GCRequest, context: Context) -> cni_pb2.GCResponse:
        """Nothing: profiles belong to namespaces and networks, not to attachments. The list is read all the same.

        Raises:
            Corrupt, InvalidArgument: the configuration, or its list of valid attachments, is wrong.
        """
        netconf.parse(request.call.config)
        collect.valid(request.call.config)
        return cni_pb2.GCResponse()

    async def Status(self, request: cni_pb2.StatusRequest, context: Context) -> cni_pb2.StatusResponse:
        """Whether an ADD would be served, and get its policy, as far as is known without asking anybody.

        Raises:
            Unavailable: it would not.
            Corrupt, InvalidArgument: not one with this configuration.
        """
        netconf.parse(request.call.config)
        self._replica.check_compiled()
        if trouble := self._trouble():
            raise Unavailable(f"policy: {trouble}")
        return cni_pb2.StatusResponse()

    async def Del(self, request: cni_pb2.DelRequest, context: Context) -> cni_pb2.DelResponse:
        """Nothing: profiles belong to namespaces and networks, not to attachments."""
        return cni_pb2.DelResponse()


def _profile(call: Invocation) -> tuple[str, bool]:
    """The profile of an attachment, and whether it is its network's; in Kubernetes' policy mode it is not."""
    if call.conf.policy_type == "k8s" and call.kubernetes:
        return NAMESPACE_PROFILE_PREFIX + call.namespace, False
    return call.network, True
