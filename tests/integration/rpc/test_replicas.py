"""Several replicas behind one channel: frozen, killed, unready ones are left; certificates change while calls go on."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from muslin import rpc
from muslin.api.cni.v1 import cni_pb2
from muslin.api.ipam.v1 import ipam_pb2_grpc
from muslin.api.rpc.v1 import tunnel_pb2_grpc
from muslin.rpc import tls
from muslin.rpc.interceptor import Around
from muslin.rpc.replicas import Replicas
from muslin.rpc.tunnel import Handlers, Tunnels, TunnelServicer, replicated, tunnel_to
from muslin.tls import Certificates as OwnFiles
from tests.integration.rpc.secure import PATIENCE, Secure, secure, until
from tests.support.service import Service
from tests.support.tls import Certificates

STATUS = "/muslin.ipam.v1.Plugin/Status"
REQUEST = cni_pb2.StatusRequest(call=cni_pb2.Call(
    config=b'{"cniVersion": "1.0.0", "name": "net", "type": "muslin"}')).SerializeToString()


def behind(channel: grpc.aio.Channel) -> Replicas:
    return cast(Replicas, channel.replicated)  # type: ignore[attr-defined]  # ours has it


@pytest.fixture
def own() -> Iterator[None]:
    """A test that sets this process' certificate takes it back."""
    yield
    tls.use(None)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Secure, dict[str, Service]]]:
    """Two ipam services on one etcd, by target."""
    with secure(tmp_path_factory.mktemp("replicas")) as running:
        _, endpoint = running.service("endpoint")
        found = [running.service("ipam", f"--endpoint={endpoint}") for _ in range(2)]
        yield running, {target: service for service, target in found}


@pytest.fixture
async def tunnels(world: tuple[Secure, dict[str, Service]], own: None) -> AsyncIterator[tuple[Tunnels, Replicas]]:
    running, services = world
    tls.use(running.certificates.files("n1"))
    async with rpc.channel(",".join(services), "n1") as channel:
        tunnels = tunnel_to(channel)
        assert isinstance(tunnels, Tunnels)
        await until(lambda: [r.rank[0] for r in behind(channel).replicas] == [0, 0], "both serve")
        yield tunnels, behind(channel)
        await tunnels.aclose()


@pytest.mark.parametrize("fault", ["freeze", "kill"])
async def test_a_replica_that_is_gone_is_left_and_taken_again(
        world: tuple[Secure, dict[str, Service]], tunnels: tuple[Tunnels, Replicas], fault: str) -> None:
    """The call that finds it so is answered by the other one; a frozen one is told by its silence."""
    caller, replicas = tunnels
    preferred, other = replicas.replicas
    assert replicas.pick() is preferred
    await caller.call(STATUS, REQUEST, timeout=PATIENCE, again=True)
    service = world[1][preferred.target]
    service.freeze() if fault == "freeze" else service.kill()
    await caller.call(STATUS, REQUEST, timeout=PATIENCE, again=True)
    await until(lambda: replicas.pick() is other, "the other is preferred")
    await caller.call(STATUS, REQUEST, timeout=PATIENCE)
    service.thaw() if fault == "freeze" else service.start()
    await until(lambda: replicas.pick() is preferred, "it is preferred again")
    await caller.call(STATUS, REQUEST, timeout=PATIENCE)


async def test_new_certificates_on_both_sides_fail_no_call(
        world: tuple[Secure, dict[str, Service]], tunnels: tuple[Tunnels, Replicas]) -> None:
    """Calls in tunnels and by themselves, one after the other, while everybody's key is replaced."""
    running, services = world
    caller, replicas = tunnels
    certificates, ended, made = running.certificates, asyncio.Event(), 0
    channel = cast(grpc.aio.Channel, replicas)
    stub: ipam_pb2_grpc.PluginAsyncStub = ipam_pb2_grpc.PluginStub(channel)
    request = cni_pb2.StatusRequest.FromString(REQUEST)

    async def calls() -> None:
        nonlocal made
        while not ended.is_set():
            await caller.call(STATUS, REQUEST, timeout=PATIENCE)
            await stub.Status(request, timeout=PATIENCE)
            made += 1

    going = asyncio.ensure_future(calls())
    before = certificates.files("ipam").certificate.read_bytes()
    await asyncio.to_thread(certificates.renew)
    mine = certificates.files("n1").certificate.read_bytes()
    theirs = certificates.files("ipam").certificate.read_bytes()
    assert theirs != before
    await until(lambda: all(replica.line.material.certificate == mine for replica in replicas.replicas) or going.done(),
                "the new certificate is shown by us")
    so_far = made
    await until(lambda: made > so_far + 10 or going.done(), "calls go on")
    ended.set()
    await going
    for target in services:
        assert await asyncio.to_thread(shown, target, certificates) == theirs.decode()
    preferred, other = replicas.replicas  # and what is known of replicas is known over the new lines
    services[preferred.target].freeze()
    await until(lambda: replicas.pick() is other, "the other is preferred")
    services[preferred.target].thaw()
    await until(lambda: replicas.pick() is preferred, "it is preferred again")


def shown(target: str, certificates: Certificates) -> str:
    """The certificate that a server shows now."""
    files = certificates.files("n1")
    context = ssl.create_default_context(cafile=files.authority)
    context.load_cert_chain(files.certificate, files.key)
    host, _, port = target.rpartition(":")
    with (socket.create_connection((host, int(port)), PATIENCE) as line,
          context.wrap_socket(line, server_hostname=host) as secured):
        raw = secured.getpeercert(binary_form=True)
    assert raw
    return ssl.DER_cert_to_PEM_cert(raw)


@dataclass
class Fake:
    """A server whose Status fails, and counts; without a code it never answers."""

    target: str
    server: grpc.aio.Server
    health: health.aio.HealthServicer
    asked: int = 0
    code: grpc.StatusCode | None = grpc.StatusCode.UNAVAILABLE
    peers: set[str] = field(default_factory=set)

    async def serving(self, yes: bool) -> None:
        answer = health_pb2.HealthCheckResponse
        await self.health.set("", answer.SERVING if yes else answer.NOT_SERVING)


class Plugin(ipam_pb2_grpc.PluginServicer):
    fake: Fake

    async def Status(self, request: cni_pb2.StatusRequest, context: Any) -> cni_pb2.StatusResponse:
        self.fake.asked += 1
        self.fake.peers.add(context.peer())
        if self.fake.code is None:
            await asyncio.Event().wait()
        if self.fake.code is not grpc.StatusCode.OK:
            await context.abort(self.fake.code, "not now")
        return cni_pb2.StatusResponse()


async def fake(certificates: Certificates, *options: tuple[str, int]) -> Fake:
    around, checker, plugin = Around(), health.aio.HealthServicer(), Plugin()  # type: ignore[abstract]  # one is enough
    around.own = frozenset({"muslin.ipam.v1.Plugin"})
    server = grpc.aio.server(interceptors=[around], options=options)
    handlers = Handlers(server)
    health_pb2_grpc.add_HealthServicer_to_server(checker, server)
    ipam_pb2_grpc.add_PluginServicer_to_server(plugin, cast("grpc.aio.Server", handlers))
    tunnel_pb2_grpc.add_TunnelServicer_to_server(TunnelServicer(handlers, around.wrap), server)
    credentials = tls.server_credentials(OwnFiles(certificates.files("ipam")))
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    plugin.fake = Fake(f"127.0.0.1:{port}", server, checker)
    await plugin.fake.serving(True)
    return plugin.fake


@pytest.fixture
async def fakes(tmp_path: Path, own: None) -> AsyncIterator[tuple[list[Fake], Tunnels, Replicas]]:
    """Two such servers, the preferred one first."""
    certificates = Certificates(tmp_path / "certs")
    tls.use(certificates.files("n1"))
    made = [await fake(certificates) for _ in range(2)]
    async with rpc.channel(",".join(each.target for each in made)) as channel:
        replicas, tunnels = behind(channel), tunnel_to(channel)
        assert isinstance(tunnels, Tunnels)
        await until(lambda: [r.rank[0] for r in replicas.replicas] == [0, 0], "both serve")
        made.sort(key=lambda each: [r.target for r in replicas.replicas].index(each.target))
        yield made, tunnels, replicas
        await tunnels.aclose()
    for each in made:
        await each.server.stop(None)


@pytest.mark.parametrize(("again", "code", "asked"), [
    (True, grpc.StatusCode.UNAVAILABLE, [1, 1]),
    (False, grpc.StatusCode.UNAVAILABLE, [1, 0]),
    (True, grpc.StatusCode.ABORTED, [1, 0]),
])
async def test_another_is_asked_only_if_that_does_no_harm(
        fakes: tuple[list[Fake], Tunnels, Replicas], again: bool, code: grpc.StatusCode, asked: list[int]) -> None:
    """Once each, and only where the first was not to be had."""
    servers, tunnels, _ = fakes
    for each in servers:
        each.code = code
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await tunnels.call(STATUS, REQUEST, timeout=PATIENCE, again=again)
    assert failed.value.code() is code
    assert [each.asked for each in servers] == asked


async def test_one_that_serves_as_far_as_it_knows_and_does_not_answer_is_not_waited_for_long(
        fakes: tuple[list[Fake], Tunnels, Replicas], monkeypatch: pytest.MonkeyPatch) -> None:
    """If asking another does no harm; the last one asked has all the time there is."""
    monkeypatch.setattr(replicated, "PATIENCE", 0.2)
    servers, tunnels, _ = fakes
    servers[0].code, servers[1].code = None, grpc.StatusCode.OK
    await tunnels.call(STATUS, REQUEST, timeout=PATIENCE, again=True)
    assert [each.asked for each in servers] == [1, 1]
    with pytest.raises(grpc.aio.AioRpcError) as late:
        await tunnels.call(STATUS, REQUEST, timeout=1)
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert [each.asked for each in servers] == [2, 1]
    servers[1].code = None
    began = asyncio.get_running_loop().time()
    with pytest.raises(grpc.aio.AioRpcError) as late:
        await tunnels.call(STATUS, REQUEST, timeout=1, again=True)
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert asyncio.get_running_loop().time() - began > 0.9
    assert [each.asked for each in servers] == [3, 2]


async def test_one_that_says_it_does_not_serve_is_left_until_it_does(
        fakes: tuple[list[Fake], Tunnels, Replicas]) -> None:
    """But it is asked where there is no better: it knows best what it can answer."""
    servers, tunnels, replicas = fakes
    first, second = servers
    first.code = second.code = grpc.StatusCode.OK
    await first.serving(False)
    await until(lambda: replicas.pick() is replicas.replicas[1], "the other is preferred")
    await tunnels.call(STATUS, REQUEST, timeout=PATIENCE)
    assert (first.asked, second.asked) == (0, 1)
    await second.serving(False)
    await until(lambda: replicas.pick() is replicas.replicas[0], "both are as bad")
    await tunnels.call(STATUS, REQUEST, timeout=PATIENCE)
    assert (first.asked, second.asked) == (1, 1)


async def test_connections_that_a_server_ends_for_their_age_fail_no_call(tmp_path: Path, own: None) -> None:
    """There is no other replica, and nothing is repeated: tunnels have moved when the grace is over."""
    certificates = Certificates(tmp_path / "certs")
    tls.use(certificates.files("n1"))
    one = await fake(certificates, ("grpc.max_connection_age_ms", 200), ("grpc.max_connection_age_grace_ms", 20_000))
    one.code = grpc.StatusCode.OK
    async with rpc.channel(one.target) as channel:
        tunnels = Tunnels(behind(channel), age=0.3)
        async with asyncio.timeout(PATIENCE):
            while len(one.peers) < 4:
                await tunnels.call(STATUS, REQUEST, timeout=PATIENCE)
        await tunnels.aclose()
    await one.server.stop(None)


async def _statuses(channel: Replicas) -> AsyncIterator[int]:
    watch = channel.unary_stream("/grpc.health.v1.Health/Watch", health_pb2.HealthCheckRequest.SerializeToString,
                                 health_pb2.HealthCheckResponse.FromString)
    async for answer in watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE):
        yield answer.status


async def test_a_stream_leaves_a_replica_that_does_not_serve_for_one_that_does(
        fakes: tuple[list[Fake], Tunnels, Replicas]) -> None:
    """It ends as if its server were gone. Where nobody serves it stays: it is as good as any."""
    servers, _, replicas = fakes
    first, second = servers
    stream = _statuses(replicas)
    assert await anext(stream) == health_pb2.HealthCheckResponse.SERVING
    await first.serving(False)
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        [status async for status in stream]
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    stream = _statuses(replicas)
    assert await anext(stream) == health_pb2.HealthCheckResponse.SERVING, "it is the other's"
    await second.serving(False)
    assert await anext(stream) == health_pb2.HealthCheckResponse.NOT_SERVING
    await until(lambda: not replicas.replicas[1].serves, "it is known")
    await second.serving(True)
    assert await anext(stream) == health_pb2.HealthCheckResponse.SERVING
    await stream.aclose()  # type: ignore[attr-defined]  # a generator


async def test_callers_spread_over_replicas(tmp_path: Path, own: None) -> None:
    """Each prefers one, always the same; all together prefer all."""
    targets = ["ipam1:7001", "ipam2:7001", "ipam3:7001"]

    async def first(name: str) -> str:
        async with rpc.channel(",".join(targets), name) as channel:
            return behind(channel).replicas[0].target

    tls.use(Certificates(tmp_path).files("n1"))
    names = [f"node{number}" for number in range(30)]
    once = [await first(name) for name in names]
    assert once == [await first(name) for name in names]
    assert set(once) == set(targets)
