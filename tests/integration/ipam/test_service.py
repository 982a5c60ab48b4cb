"""The service as its callers see it: the CNI verbs, pools, and the errors that each mistake gets."""

from __future__ import annotations

import asyncio
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from muslin.errors import (
    AlreadyExists,
    Corrupt,
    Exhausted,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unsupported,
)
from muslin.etcd import Etcd, keys
from tests.integration.ipam.clients import ARTICLE, Client, call, identity
from tests.support import ipam_invariants
from tests.support.etcd import EtcdServer, free_ports
from tests.support.service import Service


@pytest.fixture(scope="module")
def process(server: EtcdServer) -> Iterator[Service]:
    with Service("ipam", "--etcd", server.endpoint) as running:
        yield running


@pytest.fixture
async def service(etcd: EtcdServer, process: Service) -> Service:
    """The service with the one pool that it makes by itself."""
    async with Client(process.target) as client:
        await client.create_pool("default", "192.168.0.0/16")
    return process


async def test_the_chain_s_verbs(etcd: EtcdServer, service: Service) -> None:
    """ADD gives one /32, the same when repeated, of a block of the node that the daemon says it is.

    DEL frees it, once and again; another container of the pod keeps its own.
    """
    async with Client(service.target) as client, Etcd([etcd.endpoint]) as store:
        first = await client.add(call(), muslin_node="worker")
        assert first == await client.add(call(), muslin_node="worker")
        ip, = first.ips
        assert ip.address.endswith("/32")
        assert ip.address.startswith("192.168.")
        block, = await client.blocks("worker")
        assert (block.pool, block.used, block.size) == ("default", 1, 64)
        handle, = await client.handles("worker")
        assert (handle.namespace, handle.pod) == ("prod", "web")
        assert handle.attachment.network == ARTICLE["name"]
        second = await client.add(call(container_id="def"), muslin_node="worker")
        assert second.ips != first.ips
        await client.delete(call(netns=""))
        await client.delete(call(netns=""))
        await ipam_invariants.check(store, {f"{ARTICLE['name']}/def/eth0": second.ips[0].address.removesuffix("/32")})


async def test_the_configuration_s_node_is_used_without_a_daemon(service: Service) -> None:
    async with Client(service.target) as client:
        await client.add(call(ARTICLE | {"nodename": "named"}))
        assert [handle.node for handle in await client.handles()] == ["named"]


@pytest.mark.parametrize(("config", "error", "named"), [
    (b"garbage", Corrupt, "JSON"),
    (ARTICLE | {"cniVersion": "9.0.0"}, InvalidArgument, "cniVersion"),
    (ARTICLE | {"name": "a/b"}, InvalidArgument, "name"),
    (ARTICLE | {"ipam": {"type": "host-local"}}, Unsupported, "ipam.type"),
])
async def test_a_bad_configuration_gives_nothing(service: Service, config: object, error: type[Exception],
                                                 named: str) -> None:
    async with Client(service.target) as client:
        with pytest.raises(error, match=named):
            await client.add(call(config))
        assert await client.handles() == []


@pytest.mark.parametrize("kind", ["calico-ipam", "muslin-ipam", ""])
async def test_the_types_that_mean_this_service(service: Service, kind: str) -> None:
    async with Client(service.target) as client:
        assert (await client.add(call(ARTICLE | {"ipam": {"type": kind}}))).ips


async def test_bad_attachments_name_the_field(service: Service) -> None:
    async with Client(service.target) as client:
        with pytest.raises(InvalidArgument, match="node"):
            await client.assign(1, node="")
        for field in ("network", "container_id", "ifname"):
            with pytest.raises(InvalidArgument, match=field):
                await client.release(1, but={field: "a/b"})


async def test_pools(service: Service) -> None:
    async with Client(service.target) as client:
        made = await client.create_pool("small", "10.0.0.0/30")
        assert (made.name, made.cidr, made.block_size, made.size) == ("small", "10.0.0.0/30", 30, 4)
        assert list(await client.pools()) == ["default", "small"]
        for name, cidr, named in (("small", "10.1.0.0/16", "exists"), ("other", "10.0.0.0/8", "overlaps pool small"),
                                  ("other", "192.168.128.0/17", "overlaps pool default")):
            with pytest.raises(AlreadyExists, match=named):
                await client.create_pool(name, cidr)
        with pytest.raises(InvalidArgument, match=r"pool\.cidr"):
            await client.create_pool("other", "10.1.0.1/16")
        address = await client.assign(1)
        with pytest.raises(FailedPrecondition, match=f"{address} is held by {identity(1)}"):
            await client.delete_pool("default")
        assert not (await client.pools())["default"].disabled, "a refused deletion changes nothing"
        await client.delete_pool("small")
        with pytest.raises(NotFound):
            await client.delete_pool("small")
        await client.release(1)
        await client.delete_pool("default")
        assert (await client.pools(), await client.blocks()) == ({}, [])
        with pytest.raises(Exhausted, match="there is no pool"):
            await client.assign(1)


async def test_the_first_pool_is_made_once(etcd: EtcdServer) -> None:
    """Not again at the next start, whatever that start's option is, while there is another."""
    with Service("ipam", "--etcd", etcd.endpoint) as first:
        async with Client(first.target) as client:
            assert (await client.pools())["default"].cidr == "192.168.0.0/16"
            await client.create_pool("mine", "10.0.0.0/16")
            await client.delete_pool("default")
        assert first.terminate() == 0
    with Service("ipam", "--etcd", etcd.endpoint, "--pool", "172.16.0.0/16") as again:
        async with Client(again.target) as client:
            assert list(await client.pools()) == ["mine"]


async def test_exhaustion_says_why_and_heals_after_one_release(etcd: EtcdServer, service: Service) -> None:
    async with Client(service.target) as client, Etcd([etcd.endpoint]) as store:
        await client.create_pool("small", "10.0.0.0/30")
        await client.create_pool("off", "10.1.0.0/16", disabled=True)
        await client.delete_pool("default")
        held = {identity(number): await client.assign(number) for number in range(4)}
        with pytest.raises(Exhausted) as refused:
            await client.assign(4)
        assert "small (10.0.0.0/30): 4 of 4 addresses in use" in refused.value.message
        assert "off (10.1.0.0/16): disabled" in refused.value.message
        assert await client.assign(2) == held[identity(2)], "who has an address keeps it"
        await client.release(2)
        assert await client.assign(4) == held.pop(identity(2))
        await ipam_invariants.check(store, held | {identity(4): await client.assign(4)})


async def test_damaged_records_do_not_stop_the_service(etcd: EtcdServer, service: Service) -> None:
    async with Client(service.target) as client, Etcd([etcd.endpoint]) as store:
        await client.assign(1)
        block, = await client.blocks()
        await store.put(keys.block(block.cidr), b"\x00garbage")
        await store.put(keys.IPAM_BLOCKS + "nonsense", b"{}")
        await store.put(keys.handle("net", "c2", "eth0"), b"[]")
        await store.put(keys.pool("broken"), b'{"name": "broken", "cidr": "x"}')
        address = await client.assign(3)
        assert address not in (await client.assign(4), None)
        with pytest.raises(Corrupt, match="damaged"):
            await client.assign(2)
        assert await client.release(1) == [], "its block can not be read; the handle goes all the same"
        assert await client.release(2) == []
    with Service("ipam", "--etcd", etcd.endpoint) as again:
        async with Client(again.target) as client:
            assert await client.assign(3) == address


def scrape(port: int) -> list[str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text: str = answer.read().decode()
    return text.splitlines()


async def test_metrics_count_what_was_done(etcd: EtcdServer) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Service("ipam", "--etcd", etcd.endpoint, "--metrics", f"127.0.0.1:{port}") as process:
        async with Client(process.target) as client:
            for number in range(3):
                await client.assign(number)
            await client.release(0)
        lines = await asyncio.to_thread(scrape, port)
    for line in ("muslin_ipam_assigned_total 3.0", "muslin_ipam_released_total 1.0",
                 'muslin_ipam_pool_used_addresses{pool="default"} 2.0',
                 'muslin_ipam_pool_addresses{pool="default"} 65536.0',
                 'muslin_ipam_pool_cooling_addresses{pool="default"} 1.0',
                 'muslin_ipam_pool_blocks{pool="default",state="partial"} 1.0',
                 'muslin_ipam_pool_blocks{pool="default",state="full"} 0.0'):
        assert line in lines


def probed(port: int, path: str) -> tuple[int, str]:
    """Status and text, as kubelet's probes get them."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()


async def test_probes_by_http_tell_what_it_waits_for() -> None:
    """Without etcd it is not ready, which is no reason to start it anew."""
    [port] = free_ports(1)
    with EtcdServer() as own, Service("ipam", "--etcd", own.endpoint, "--metrics", f"127.0.0.1:{port}"):
        assert probed(port, "readyz")[0] == 200
        own.kill()
        async with asyncio.timeout(30):
            while probed(port, "readyz")[0] == 200:  # noqa: ASYNC110  another process does it
                await asyncio.sleep(0.05)
        assert "store: not ready (etcd at" in probed(port, "readyz")[1]
        assert probed(port, "livez")[0] == 200
        own.start()
        async with asyncio.timeout(30):
            while probed(port, "readyz")[0] != 200:  # noqa: ASYNC110  another process does it
                await asyncio.sleep(0.05)


def test_a_bad_option_is_named(etcd: EtcdServer) -> None:
    process = Service("ipam", "--etcd", etcd.endpoint, "--pool", "10.0.0.1/16")
    try:
        with pytest.raises(RuntimeError, match=r"--pool: 10\.0\.0\.1/16 has host bits set"):
            process.start()
    finally:
        process.stop()
