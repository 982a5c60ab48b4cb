"""The policy service: what it runs and what it serves."""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from muslin.api.policy.v1 import policy_pb2, policy_pb2_grpc
from muslin.etcd import Etcd, Members
from muslin.kube.access import Load
from muslin.rpc import App, Part, Readiness
from services.policy.complaints import Complaints
from services.policy.endpoints import EndpointSource
from services.policy.kubernetes import Source
from services.policy.plugin import Plugin
from services.policy.policies import Policies
from services.policy.programs import Programs
from services.policy.replica import Replica


class PolicyApp(App):
    """The policy service on one etcd cluster, with the endpoints of the endpoint service at `endpoint`.

    `kubernetes` reads the credentials of an API server whose policies are to be followed, if any is. Nothing waits for
    it: what is stored is in force.
    """

    name = "muslin-policy"

    def __init__(self, etcd: Sequence[str] | Members, endpoint: str, kubernetes: Load | None = None) -> None:
        super().__init__()
        self._endpoint = endpoint
        self._etcd = Etcd(etcd)
        self._replica = Replica(self._etcd)
        self._kubernetes = Source(self._etcd, self._replica.mirror, self._replica.store, kubernetes,
                                  Complaints(self._replica)) if kubernetes else None
        self._parts: tuple[Part, ...] = ()

    async def start(self, readiness: Readiness) -> None:
        """Begin to follow the store and the endpoint service. Until both are read, nodes get no program."""
        endpoints, store = self._parts = readiness.part("endpoints"), readiness.part("store")
        source = EndpointSource(self._endpoint, self._replica.hub, endpoints)
        self.tasks.spawn("mirror", self._replica.mirror.run())
        self.tasks.spawn("store", self._replica.follow(store))
        self.tasks.spawn("endpoints", source.run())
        self.tasks.spawn("set aside", self._replica.set_aside())
        if self._kubernetes:
            self.tasks.spawn("kubernetes", self._kubernetes.run())

    def register(self, server: grpc.aio.Server) -> tuple[str, ...]:
        """Serve muslin.policy.v1."""
        plugin = Plugin(self._replica, self._trouble)
        policy_pb2_grpc.add_PluginServicer_to_server(plugin, server)
        policy_pb2_grpc.add_PoliciesServicer_to_server(Policies(self._replica), server)
        Programs(self._replica.hub, self._replica.streams).register(server)
        return tuple(service.full_name for service in policy_pb2.DESCRIPTOR.services_by_name.values())

    def _trouble(self) -> str:
        """What is not ready, and why; empty if all is."""
        return "; ".join(f"{part.name}: {part.message}" for part in self._parts if not part.ready)

    async def stop(self) -> None:
        """Let go of the store."""
        await self.tasks.aclose()  # its tasks use the store
        await self._etcd.aclose()
