"""The policy service's part of the CNI chain: the names of the profiles that an attachment is in."""

from __future__ import annotations

import logging
from typing import Any

import grpc
import msgspec

from muslin.api.cni.v1 import cni_pb2
from muslin.api.policy.v1 import policy_pb2_grpc
from muslin.cni.invocation import Invocation
from muslin.errors import InvalidArgument
from muslin.etcd import keys
from muslin.rpc import remaining
from services.policy.model import NAMESPACE_PROFILE_PREFIX
from services.policy.records import network_profile
from services.policy.replica import Replica

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


class Plugin(policy_pb2_grpc.PluginServicer):
    """Profiles for the CNI chain. Verbs that are not here answer UNIMPLEMENTED, as the generated class has it."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    async def Add(self, request: cni_pb2.AddRequest, context: Context) -> cni_pb2.AddResponse:
        """In Kubernetes' policy mode the namespace's profile; else the network's, made on its first use."""
        call = Invocation.parse(request.call, "")
        if call.conf.policy_type == "k8s" and call.kubernetes:
            profile = NAMESPACE_PROFILE_PREFIX + call.namespace
        else:
            profile = call.network
            await self._ensure(profile, kubernetes=call.kubernetes, timeout=remaining(context))
        log.info("named attachment=%s/%s/%s profile=%s", call.network, call.container_id, call.ifname, profile)
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

    async def Del(self, request: cni_pb2.DelRequest, context: Context) -> cni_pb2.DelResponse:
        """Nothing: profiles belong to namespaces and networks, not to attachments."""
        return cni_pb2.DelResponse()
