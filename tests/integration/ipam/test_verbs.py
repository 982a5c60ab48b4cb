"""CHECK and STATUS of the address manager, with a real store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator

import pytest

from muslin import rpc
from muslin.api.cni.v1 import cni_pb2
from muslin.api.ipam.v1 import ipam_pb2
from muslin.errors import Corrupt, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from muslin.etcd import Etcd, keys
from tests.integration.ipam.clients import Client, identity
from tests.support.etcd import EtcdServer
from tests.support.service import Service

CONF = {"cniVersion": "1.1.0", "name": "net", "type": "muslin"}


@pytest.fixture(scope="module")
def service(server: EtcdServer) -> Iterator[Service]:
    with Service("ipam", "--etcd", server.endpoint) as running:
        yield running


@pytest.fixture
async def client(service: Service) -> AsyncIterator[Client]:
    async with Client(service.target) as made:
        yield made
        await made.release(1)


async def check(client: Client, addresses: list[str] | None, node: str = "n1",
                args: str = "K8S_POD_NAMESPACE=ns;K8S_POD_NAME=p1") -> None:
    """CHECK of attachment 1 with a result that has some addresses; None for no result."""
    more = {} if addresses is None else {"prevResult": {"cniVersion": "1.0.0", "ips": [
        {"address": f"{address}/32"} for address in addresses]}}
    call = cni_pb2.Call(container_id="c1", ifname="eth0", netns="/x", args=args,
                        config=json.dumps({**CONF, **more}).encode())
    with rpc.translated("CHECK"):
        await client.plugin.Check(cni_pb2.CheckRequest(call=call), timeout=10, metadata=(("muslin-node", node),))


async def test_what_add_answered_is_still_so(client: Client) -> None:
    """Also if another plugin of the list added an address."""
    address = await client.assign(1, "n1")
    await check(client, [address])
    await check(client, [address, "10.99.0.1"])


async def test_each_difference_is_named(client: Client, server: EtcdServer) -> None:
    with pytest.raises(NotFound, match="net/c1/eth0 holds no address"):
        await check(client, ["10.0.0.1"])
    address = await client.assign(1, "n1")
    with pytest.raises(InvalidArgument, match="prevResult"):
        await check(client, None)
    with pytest.raises(FailedPrecondition, match=f"the handle has {address}, prevResult has not"):
        await check(client, ["10.99.0.1"])
    with pytest.raises(FailedPrecondition, match="the handle says n1, this is n2"):
        await check(client, [address], "n2")


async def test_outside_kubernetes_the_interface_may_have_been_on_another_network_first(client: Client) -> None:
    """Then the result has that network's address."""
    await client.assign(1, "n1")
    await check(client, ["10.99.0.1"], args="")


async def test_the_store_itself_is_looked_at(client: Client, server: EtcdServer) -> None:
    """A block that knows nothing of the attachment, another holder, a handle that does not decode."""
    address = await client.assign(1, "n1")
    async with Etcd([server.endpoint]) as store:
        (block,) = [item for item in (await store.range(keys.IPAM_BLOCKS)).items if b"c1" in item.value]
        handle = await store.get(keys.handle("net", "c1", "eth0"))
        assert handle is not None
        for spoilt, why in (({}, "says that nobody holds it"),
                            ({"held": {ordinal: held | {"handle": "net/c9/eth0"} for ordinal, held in
                                       json.loads(block.value)["held"].items()}}, "says that net/c9/eth0 holds it")):
            without = {key: value for key, value in json.loads(block.value).items() if key != "held"}
            await store.put(block.key, json.dumps(without | spoilt).encode())
            with pytest.raises(FailedPrecondition, match=why):
                await check(client, [address])
        await store.put(block.key, block.value)
        await store.put(handle.key, b"{")
        with pytest.raises(Corrupt, match="muslin ipam check"):
            await check(client, [address])
        await store.put(handle.key, handle.value)
    await check(client, [address])
    assert identity(1) == "net/c1/eth0"


async def status(client: Client, config: bytes) -> None:
    with rpc.translated("STATUS"):
        await client.plugin.Status(cni_pb2.StatusRequest(call=cni_pb2.Call(config=config)), timeout=10)


async def test_status_says_whether_an_add_would_get_an_address(client: Client) -> None:
    config = json.dumps(CONF).encode()
    await status(client, config)
    with pytest.raises(InvalidArgument, match="name"):
        await status(client, b'{"cniVersion": "1.1.0", "type": "muslin"}')
    (pool,) = (await client.ipam.ListPools(ipam_pb2.ListPoolsRequest(), timeout=10)).pools
    await client.ipam.UpdatePool(ipam_pb2.UpdatePoolRequest(name=pool.name, disabled=True), timeout=10)
    try:
        with pytest.raises(Unavailable, match="no enabled pool"):
            await status(client, config)
    finally:
        await client.ipam.UpdatePool(ipam_pb2.UpdatePoolRequest(name=pool.name, disabled=False), timeout=10)
    await status(client, config)


async def test_status_is_no_once_the_store_is_lost() -> None:
    """And yes again when it is back; the answer does not wait for the store."""
    with EtcdServer() as etcd, Service("ipam", "--etcd", etcd.endpoint) as service:
        async with Client(service.target) as client:
            config = json.dumps(CONF).encode()
            await status(client, config)
            etcd.kill()
            await eventually(client, config, ready=False)
            etcd.start()
            await eventually(client, config, ready=True)


async def eventually(client: Client, config: bytes, *, ready: bool) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                await status(client, config)
                now = True
            except Unavailable:
                now = False
            if now is ready:
                return
            await asyncio.sleep(0.05)
