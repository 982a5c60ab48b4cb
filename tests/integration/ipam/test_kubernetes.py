"""Annotations of pods and namespaces of an API server: from what is followed, and asked for where that is behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from muslin.api.cni.v1 import cni_pb2
from muslin.api.ipam.v1 import ipam_pb2
from muslin.errors import NotFound
from services.ipam.annotations import ADDRESSES, POOLS
from tests.integration.ipam.clients import Client
from tests.support.apiserver import ApiServer
from tests.support.etcd import EtcdServer
from tests.support.service import Service

PODS, NAMESPACES = "/api/v1/pods", "/api/v1/namespaces"


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    async with ApiServer() as server:
        yield server


@pytest.fixture
async def client(api: ApiServer, tmp_path: Path) -> AsyncIterator[Client]:
    """A client of an ipam that is beside an endpoint service that follows the API server."""
    with EtcdServer() as etcd:
        config = api.kubeconfig(tmp_path / "config")
        endpoint = Service("endpoint", "--etcd", etcd.endpoint, "--kubeconfig", str(config))
        ipam = Service("ipam", "--etcd", etcd.endpoint, "--pool", "10.0.0.0/16", "--endpoint", endpoint.target)
        try:
            for service in (endpoint, ipam):
                service.launch()
            for service in (endpoint, ipam):
                await asyncio.to_thread(service.wait)
            async with Client(ipam.target) as made:
                pool = ipam_pb2.Pool(name="named", cidr="10.1.0.0/24")
                await made.ipam.CreatePool(ipam_pb2.CreatePoolRequest(pool=pool), timeout=30)
                yield made
        finally:
            ipam.stop()
            endpoint.stop()


def call(pod: str, uid: str = "", **conf: Any) -> cni_pb2.Call:
    config = {"cniVersion": "1.0.0", "name": "net", "type": "muslin", "policy": {"type": "k8s"}} | conf
    return cni_pb2.Call(container_id=f"c-{pod}", ifname="eth0", netns="/proc/1/ns/net",
                        config=json.dumps(config).encode(),
                        args=f"K8S_POD_NAMESPACE=prod;K8S_POD_NAME={pod};K8S_POD_UID={uid}")


async def address(client: Client, made: cni_pb2.Call) -> str:
    (ip,) = (await client.add(made)).ips
    return ip.address.partition("/")[0]


async def test_pods_that_were_not_told_of_yet_get_what_they_ask_for(api: ApiServer, client: Client) -> None:
    """No watch tells of pod and namespace, and ADD comes: both are asked for, by uid."""
    await api.watched(PODS)
    api.telling.clear()
    await api.put(NAMESPACES, "prod", metadata={"annotations": {POOLS[4][0]: '["named"]'}})
    made = await api.put(PODS, "web", "prod", metadata={"annotations": {ADDRESSES[0]: '["10.0.7.7"]'}})
    assert await address(client, call("web", made["metadata"]["uid"])) == "10.0.7.7"
    await api.put(PODS, "plain", "prod")
    assert (await address(client, call("plain"))).startswith("10.1.0.")
    with pytest.raises(NotFound, match="pod prod/none is not there, says the API server"):
        await client.add(call("none"))
    assert not [handle for handle in await client.handles() if handle.pod == "none"]


async def test_pods_that_were_told_of_need_no_api_server(api: ApiServer, client: Client) -> None:
    await api.put(PODS, "web", "prod", metadata={"annotations": {ADDRESSES[0]: '["10.0.7.8"]'}})
    assert await address(client, call("web")) == "10.0.7.8"
    await client.delete(call("web"))
    asked = len(api.requests)
    await api.put(PODS, "web", "prod", metadata={"annotations": {ADDRESSES[0]: '["10.0.7.9"]'}})
    async with asyncio.timeout(60):
        while await address(client, call("web")) != "10.0.7.9":  # until both services have followed
            await client.delete(call("web"))
    assert {path for path, _ in api.requests[asked:]} <= set(api.kinds)  # no pod was asked for
    await api.down()
    await client.delete(call("web"))
    assert await address(client, call("web")) == "10.0.7.9"
