"""What the tests of muslin-ipam ask it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, TypeVar

from muslin import rpc
from muslin.api.cni.v1 import cni_pb2
from muslin.api.ipam.v1 import ipam_pb2, ipam_pb2_grpc
from muslin.cni import result
from muslin.errors import Conflict, MuslinError, TimedOut, Unavailable

T = TypeVar("T")

ARTICLE = {"name": "calico-k8s-network", "type": "calico", "etcd_authority": "127.0.0.1:2379", "log_level": "info",
           "ipam": {"type": "calico-ipam"}, "policy": {"type": "k8s"},
           "kubernetes": {"kubeconfig": "/etc/kubernetes/kubelet.conf"}}
"""The configuration that Calico's users have."""


def identity(number: int) -> str:
    return f"net/c{number}/eth0"


def attachment(number: int) -> cni_pb2.Attachment:
    return cni_pb2.Attachment(network="net", container_id=f"c{number}", ifname="eth0")


class Client:
    """One process' API; errors come as `muslin.errors`."""

    def __init__(self, target: str) -> None:
        self._channel = rpc.channel(target)
        self.ipam = ipam_pb2_grpc.IpamStub(self._channel)
        self.plugin = ipam_pb2_grpc.PluginStub(self._channel)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def assign(self, number: int, node: str = "n1", timeout: float = 10) -> str:
        request = ipam_pb2.AssignRequest(attachment=attachment(number), node=node, namespace="ns", pod=f"p{number}")
        with rpc.translated("assign"):
            answer = await self.ipam.Assign(request, timeout=timeout)
        address, = answer.handle.addresses
        return address

    async def release(self, number: int, timeout: float = 10, but: Mapping[str, str] = MappingProxyType({}),
                      ) -> list[str]:
        whose = attachment(number)
        for field, value in but.items():
            setattr(whose, field, value)
        with rpc.translated("release"):
            answer = await self.ipam.Release(ipam_pb2.ReleaseRequest(attachment=whose), timeout=timeout)
        return list(answer.addresses)

    async def create_pool(self, name: str, cidr: str, block_size: int = 0, disabled: bool = False,
                          cool_down: int = 0) -> ipam_pb2.Pool:
        pool = ipam_pb2.Pool(name=name, cidr=cidr, block_size=block_size, disabled=disabled,
                             cool_down_seconds=cool_down)
        with rpc.translated("create pool"):
            answer = await self.ipam.CreatePool(ipam_pb2.CreatePoolRequest(pool=pool), timeout=10)
        return answer.pool

    async def delete_pool(self, name: str) -> None:
        with rpc.translated("delete pool"):
            await self.ipam.DeletePool(ipam_pb2.DeletePoolRequest(name=name), timeout=10)

    async def pools(self) -> dict[str, ipam_pb2.Pool]:
        answer = await self.ipam.ListPools(ipam_pb2.ListPoolsRequest(), timeout=10)
        return {pool.name: pool for pool in answer.pools}

    async def blocks(self, node: str = "") -> list[ipam_pb2.Block]:
        answer = await self.ipam.ListBlocks(ipam_pb2.ListBlocksRequest(node=node), timeout=10)
        return list(answer.blocks)

    async def handles(self, node: str = "") -> list[ipam_pb2.Handle]:
        answer = await self.ipam.ListHandles(ipam_pb2.ListHandlesRequest(node=node), timeout=10)
        return list(answer.handles)

    async def both(self, number: int, node: str = "n1") -> list[str]:
        request = ipam_pb2.AssignRequest(attachment=attachment(number), node=node, families=[4, 6])
        with rpc.translated("assign"):
            answer = await self.ipam.Assign(request, timeout=10)
        return list(answer.handle.addresses)

    async def configure(self, config: ipam_pb2.Config) -> None:
        with rpc.translated("configure"):
            await self.ipam.SetConfig(ipam_pb2.SetConfigRequest(config=config), timeout=10)

    async def reserve(self, name: str, *cidrs: str) -> tuple[list[str], list[str]]:
        """The ranges as stored, and the addresses of them that are held."""
        request = ipam_pb2.CreateReservationRequest(reservation=ipam_pb2.Reservation(name=name, cidrs=cidrs))
        with rpc.translated("reserve"):
            answer = await self.ipam.CreateReservation(request, timeout=10)
        return list(answer.reservation.cidrs), list(answer.held)

    async def unreserve(self, name: str) -> None:
        with rpc.translated("unreserve"):
            await self.ipam.DeleteReservation(ipam_pb2.DeleteReservationRequest(name=name), timeout=10)

    async def release_affinity(self, node: str, cidr: str = "") -> tuple[list[str], list[str]]:
        """The blocks deleted, and those that are nobody's now."""
        with rpc.translated("release affinity"):
            answer = await self.ipam.ReleaseAffinity(ipam_pb2.ReleaseAffinityRequest(node=node, cidr=cidr), timeout=10)
        return list(answer.deleted), list(answer.orphaned)

    async def add(self, call: cni_pb2.Call, **metadata: str) -> result.Result:
        with rpc.translated("ADD"):
            answer = await self.plugin.Add(cni_pb2.AddRequest(call=call), timeout=10,
                                           metadata=tuple((k.replace("_", "-"), v) for k, v in metadata.items()))
        return result.parse(answer.result)

    async def delete(self, call: cni_pb2.Call) -> None:
        with rpc.translated("DEL"):
            await self.plugin.Del(cni_pb2.DelRequest(call=call), timeout=10)


def call(config: Any = None, **fields: Any) -> cni_pb2.Call:
    """A runtime's call with the article's configuration, or another."""
    raw = config if isinstance(config, bytes) else json.dumps(ARTICLE if config is None else config).encode()
    base: dict[str, Any] = {"container_id": "abc", "ifname": "eth0", "netns": "/proc/1/ns/net",
                            "args": "K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web", "config": raw}
    return cni_pb2.Call(**(base | fields))


async def persist(ask: Callable[[], Awaitable[T]], seconds: float = 30) -> T:
    """What a runtime does: ask again, until there is an answer that is not "try again later"."""
    async with asyncio.timeout(seconds):
        while True:
            with suppress(Unavailable, TimedOut, Conflict):
                return await ask()
            await asyncio.sleep(0.05)


async def outcome(ask: Awaitable[T]) -> T | MuslinError:
    """The answer or the error, for counting."""
    try:
        return await ask
    except MuslinError as problem:
        return problem
