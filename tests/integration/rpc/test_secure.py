"""Who gets in over TCP, as whom, and what each may do: real services, real TLS, an etcd that knows users."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from muslin.api.cni.v1 import cni_pb2
from muslin.api.endpoint.v1 import endpoint_pb2, endpoint_pb2_grpc
from muslin.api.ipam.v1 import ipam_pb2, ipam_pb2_grpc
from muslin.rpc.tunnel import Tunnel
from tests.integration.rpc.secure import PATIENCE, Secure, metric, secure, until
from tests.support.apiserver import ApiServer
from tests.support.etcd import free_ports
from tests.support.service import Service
from tests.support.tls import Certificates, expired

CONFIG = {"cniVersion": "1.0.0", "name": "net", "type": "muslin", "ipam": {"type": "muslin-ipam"}}
STATUS = grpc.StatusCode


@dataclass
class World:
    secure: Secure
    ipam: Service
    endpoint: Service
    at_ipam: str
    at_endpoint: str
    metrics: int
    """Port of ipam's."""

    def refusals(self, reason: str) -> float:
        return metric(self.metrics, f'muslin_rpc_refused_total{{reason="{reason}"}}')

    def said(self, text: str) -> bool:
        return text in self.ipam.log.read_text()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with secure(tmp_path_factory.mktemp("secure")) as running:
        endpoint, at_endpoint = running.service("endpoint")
        (port,) = free_ports(1)
        ipam, at_ipam = running.service("ipam", f"--endpoint={at_endpoint}", f"--metrics=127.0.0.1:{port}")
        yield World(running, ipam, endpoint, at_ipam, at_endpoint, port)


def call(container: str = "c1", **config: object) -> cni_pb2.Call:
    return cni_pb2.Call(container_id=container, ifname="eth0", netns="/var/run/netns/x",
                        config=json.dumps(CONFIG | config).encode())


async def add(world: World, name: str, container: str, metadata: tuple[tuple[str, str], ...] = (), **config: object,
              ) -> cni_pb2.AddResponse:
    async with world.secure.channel(world.at_ipam, name) as channel:
        stub: ipam_pb2_grpc.PluginAsyncStub = ipam_pb2_grpc.PluginStub(channel)
        return await stub.Add(cni_pb2.AddRequest(call=call(container, **config)), timeout=PATIENCE, metadata=metadata)


async def holder(world: World, container: str) -> list[str]:
    """The nodes on which a container holds addresses."""
    async with world.secure.channel(world.at_ipam, "operator") as channel:
        stub: ipam_pb2_grpc.IpamAsyncStub = ipam_pb2_grpc.IpamStub(channel)
        answer = await stub.ListHandles(ipam_pb2.ListHandlesRequest(), timeout=PATIENCE)
    return [handle.node for handle in answer.handles if handle.attachment.container_id == container]


async def test_a_node_is_who_its_certificate_says_whatever_its_configuration_says(world: World) -> None:
    await add(world, "n1", "own", nodename="n2")
    assert await holder(world, "own") == ["n1"]


async def test_a_node_does_not_act_for_another(world: World) -> None:
    """Neither by the name that its daemon would add, nor by the attachment's identity: not once is n2's touched."""
    before = world.refusals("other node")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await add(world, "n1", "forged", (("muslin-node", "n2"),))
    assert refused.value.code() is STATUS.PERMISSION_DENIED
    assert await holder(world, "forged") == []
    assert world.refusals("other node") == before + 1
    assert world.said("refused reason=other node from=node:n1 at ipv4:127.0.0.1:")

    await add(world, "n2", "theirs")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await add(world, "n1", "theirs")
    assert refused.value.code() is STATUS.PERMISSION_DENIED
    async with world.secure.channel(world.at_ipam, "n1") as channel:
        stub: ipam_pb2_grpc.PluginAsyncStub = ipam_pb2_grpc.PluginStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Del(cni_pb2.DelRequest(call=call("theirs")), timeout=PATIENCE)
    assert refused.value.code() is STATUS.PERMISSION_DENIED
    assert await holder(world, "theirs") == ["n2"]


async def test_a_record_is_its_nodes(world: World) -> None:
    """It is not overwritten by another node's ADD, nor deleted by its DEL or Delete."""
    result = {"cniVersion": "1.0.0", "ips": [{"address": "192.168.7.7/32"}]}
    made = call("recorded")
    made.result = json.dumps(result).encode()
    attachment = cni_pb2.Attachment(network="net", container_id="recorded", ifname="eth0")
    async with (world.secure.channel(world.at_endpoint, "n2") as theirs,
                world.secure.channel(world.at_endpoint, "n1") as other,
                world.secure.channel(world.at_endpoint, "operator") as operator):
        own: endpoint_pb2_grpc.PluginAsyncStub = endpoint_pb2_grpc.PluginStub(theirs)
        await own.Add(cni_pb2.AddRequest(call=made), timeout=PATIENCE)
        plugin: endpoint_pb2_grpc.PluginAsyncStub = endpoint_pb2_grpc.PluginStub(other)
        records: endpoint_pb2_grpc.EndpointsAsyncStub = endpoint_pb2_grpc.EndpointsStub(other)
        for asked in (plugin.Add(cni_pb2.AddRequest(call=made), timeout=PATIENCE),
                      plugin.Del(cni_pb2.DelRequest(call=made), timeout=PATIENCE),
                      records.Delete(endpoint_pb2.DeleteRequest(attachment=attachment), timeout=PATIENCE)):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await asked
            assert refused.value.code() is STATUS.PERMISSION_DENIED
        everything: endpoint_pb2_grpc.EndpointsAsyncStub = endpoint_pb2_grpc.EndpointsStub(operator)
        answer = await everything.Get(endpoint_pb2.GetRequest(attachment=attachment), timeout=PATIENCE)
        assert answer.endpoint.node == "n2"
        await own.Del(cni_pb2.DelRequest(call=made), timeout=PATIENCE)


async def test_a_configuration_from_elsewhere_makes_nobody_read_files_or_call_servers(
        world: World, tmp_path: Path) -> None:
    """Its kubeconfig is the node's own; on a service's host the path may be anything, and lead anywhere."""
    async with ApiServer() as api:
        kubernetes = {"kubeconfig": str(api.kubeconfig(tmp_path / "config"))}
        made = call("elsewhere", kubernetes=kubernetes, policy={"type": "k8s", "k8s_api_root": api.url})
        made.args = "K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web"
        async with (world.secure.channel(world.at_ipam, "n1") as to_ipam,
                    world.secure.channel(world.at_endpoint, "n1") as to_endpoint,
                    world.secure.channel(world.at_endpoint, "operator") as operator):
            first: ipam_pb2_grpc.PluginAsyncStub = ipam_pb2_grpc.PluginStub(to_ipam)
            answer = await first.Add(cni_pb2.AddRequest(call=made), timeout=PATIENCE)
            second: endpoint_pb2_grpc.PluginAsyncStub = endpoint_pb2_grpc.PluginStub(to_endpoint)
            made.result = answer.result
            await second.Add(cni_pb2.AddRequest(call=made), timeout=PATIENCE)
            records: endpoint_pb2_grpc.EndpointsAsyncStub = endpoint_pb2_grpc.EndpointsStub(operator)
            asked = endpoint_pb2.GetPodRequest(namespace="prod", name="web", config=made.config)
            assert not (await records.GetPod(asked, timeout=PATIENCE)).HasField("pod")
            await second.Del(cni_pb2.DelRequest(call=made), timeout=PATIENCE)
            await first.Del(cni_pb2.DelRequest(call=made), timeout=PATIENCE)
        assert api.requests == []


async def test_what_is_the_operators_is_not_a_nodes_through_a_tunnel_either(world: World) -> None:
    before = world.refusals("role")
    request = ipam_pb2.DeletePoolRequest(name="default")
    async with world.secure.channel(world.at_ipam, "n1") as channel:
        stub: ipam_pb2_grpc.IpamAsyncStub = ipam_pb2_grpc.IpamStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.DeletePool(request, timeout=PATIENCE)
        assert refused.value.code() is STATUS.PERMISSION_DENIED
        tunnel = Tunnel(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await tunnel.call("/muslin.ipam.v1.Ipam/DeletePool", request.SerializeToString(), timeout=PATIENCE)
        assert refused.value.code() is STATUS.PERMISSION_DENIED
        assert "node:n1 does not allow /muslin.ipam.v1.Ipam/DeletePool: it is for operator" in (
            refused.value.details() or "")
        await tunnel.aclose()
    assert world.refusals("role") == before + 2


async def test_a_watch_of_all_nodes_is_no_nodes(world: World) -> None:
    async with world.secure.channel(world.at_endpoint, "n1") as channel:
        stub: endpoint_pb2_grpc.EndpointsAsyncStub = endpoint_pb2_grpc.EndpointsStub(channel)
        for node in ("", "n2"):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.Watch(endpoint_pb2.WatchRequest(node=node), timeout=PATIENCE).read()
            assert refused.value.code() is STATUS.PERMISSION_DENIED
        assert await stub.Watch(endpoint_pb2.WatchRequest(node="n1"), timeout=PATIENCE).read()


async def test_a_certificate_of_ours_with_a_name_of_no_role_may_nothing(world: World) -> None:
    """Such as an etcd member's: it is trusted, and nobody here."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await add(world, "etcd1", "stranger")
    assert refused.value.code() is STATUS.UNAUTHENTICATED
    assert world.refusals("unknown caller") >= 1


@pytest.fixture
def strangers(tmp_path: Path) -> Certificates:
    """Another authority, with the same names."""
    return Certificates(tmp_path / "others")


async def dial(target: str, credentials: grpc.ChannelCredentials | None) -> grpc.StatusCode:
    """How an attempt to call ends."""
    async with grpc.aio.secure_channel(target, credentials) if credentials else grpc.aio.insecure_channel(
            target) as channel:
        stub: ipam_pb2_grpc.PluginAsyncStub = ipam_pb2_grpc.PluginStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Status(cni_pb2.StatusRequest(call=call()), timeout=PATIENCE)
        return refused.value.code()


@pytest.mark.parametrize(("how", "reason", "says"), [
    ("another authority's", "untrusted", "a certificate of an authority that is not trusted"),
    ("expired", "expired", "a certificate that has expired"),
    ("none", "no certificate", "a caller without a certificate"),
    ("plaintext", "plaintext", "plaintext"),
])
async def test_a_connection_without_a_good_certificate_is_refused(
        world: World, strangers: Certificates, how: str, reason: str, says: str) -> None:
    """It never comes to a call; there is a line in the log, a count, and the next one is served as before."""
    ours = world.secure.certificates
    old = Certificates(strangers.folder.parent / "copy")
    authority = ours.files("n1").authority
    credentials: grpc.ChannelCredentials | None = None
    if how == "another authority's":
        credentials = strangers.credentials("n1", trusted=authority)
    elif how == "expired":
        for name in ("ca.crt", "ca.key"):
            (old.folder / name).write_bytes((ours.folder / name).read_bytes())
        expired(old, "n1")
        credentials = old.credentials("n1")
    elif how == "none":
        credentials = grpc.ssl_channel_credentials(authority.read_bytes())
    before = world.refusals(reason)
    assert await dial(world.at_ipam, credentials) is STATUS.UNAVAILABLE
    await until(lambda: world.refusals(reason) > before, "it is counted")
    await until(lambda: world.said(f"refused reason={reason} from=a peer, in its TLS handshake: {says}"), "it is said")
    await add(world, "n1", "after")


async def test_a_server_that_is_not_the_one_meant_is_not_called(world: World, strangers: Certificates) -> None:
    """Its certificate must be of our authority, and for the host that was dialled."""
    trusting_others = world.secure.certificates.credentials("n1", trusted=strangers.files("n1").authority)
    assert await dial(world.at_ipam, trusting_others) is STATUS.UNAVAILABLE
    port = world.at_ipam.rpartition(":")[2]
    assert await dial(f"127.0.0.2:{port}", world.secure.certificates.credentials("n1")) is STATUS.UNAVAILABLE


async def test_malformed_and_oversized_messages_are_refused_and_harm_nobody(world: World) -> None:
    async with world.secure.channel(world.at_ipam, "n1") as channel:
        raw: Any = channel.unary_unary("/muslin.ipam.v1.Plugin/Add")
        before = world.refusals("malformed"), world.refusals("oversized")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await raw(b"\xff\xff\xff", timeout=PATIENCE)
        assert refused.value.code() is STATUS.DATA_LOSS
        large = cni_pb2.AddRequest(call=cni_pb2.Call(config=b"x" * (5 << 20))).SerializeToString()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await raw(large, timeout=PATIENCE)
        assert refused.value.code() is STATUS.RESOURCE_EXHAUSTED
        assert "a node's may have 4,194,304" in (refused.value.details() or "")
        assert (world.refusals("malformed"), world.refusals("oversized")) == (before[0] + 1, before[1] + 1)
    # What is larger than gRPC takes at all does not even come to us, and is counted and said all the same.
    options = (("grpc.max_send_message_length", -1),)
    credentials = world.secure.certificates.credentials("operator")
    async with grpc.aio.secure_channel(world.at_ipam, credentials, options=options) as channel:
        raw = channel.unary_unary("/muslin.ipam.v1.Plugin/Add")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await raw(b"\0" * (65 << 20), timeout=PATIENCE)
        assert refused.value.code() is STATUS.RESOURCE_EXHAUSTED
    await until(lambda: world.refusals("oversized") == before[1] + 2, "it is counted")
    await until(lambda: world.said("no request came: it had more than 67,108,864 bytes"), "it is said")
    await add(world, "n1", "after")


async def test_garbage_on_the_line_harms_nobody(world: World) -> None:
    host, _, port = world.at_ipam.rpartition(":")
    for garbage in (b"\0" * 70_000, b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\xa5" * 70_000):
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as line:
            try:
                line.sendall(garbage)
                while line.recv(4096):
                    pass
            except OSError:
                pass  # cut, as it should be
    await add(world, "n1", "after")


async def test_a_thousand_connections_that_say_nothing_are_ended_and_harm_nobody(world: World) -> None:
    host, _, port = world.at_ipam.rpartition(":")
    lines, before = [], world.refusals("silent")
    try:
        for _ in range(1000):
            reader, writer = await asyncio.open_connection(host, int(port))
            lines.append((reader, writer))
        await add(world, "n1", "meanwhile")
        assert await holder(world, "meanwhile") == ["n1"]
        async with asyncio.timeout(PATIENCE):  # the server's patience is ten seconds
            assert set(await asyncio.gather(*(_ended(reader) for reader, _ in lines))) == {True}
        await add(world, "n1", "after")
        await until(lambda: world.refusals("silent") > before, "they are counted")
        assert world.said("refused reason=silent from=ipv4:127.0.0.1:")
    finally:
        for _, writer in lines:
            writer.transport.abort()


async def _ended(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True


async def test_a_service_without_a_certificate_does_not_start_on_tcp() -> None:
    (port,) = free_ports(1)
    service = Service("endpoint", f"--listen=127.0.0.1:{port}")
    try:
        with pytest.raises(RuntimeError, match=r"TCP needs a certificate: give --tls-cert, --tls-key and --tls-ca"):
            service.start()
    finally:
        service.stop()


async def test_the_operators_command_line_reaches_services_elsewhere(world: World) -> None:
    """By environment and certificate, without a `muslin up`; a node's certificate shows nobody the endpoints."""
    await add(world, "n1", "listed")

    async def muslin(name: str, *arguments: str) -> tuple[int | None, str]:
        done = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "muslin.cli.main", *world.secure.certificates.options(name), *arguments,
            env={**os.environ, "MUSLIN_IPAM": world.at_ipam, "MUSLIN_ENDPOINT": world.at_endpoint},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
        said, _ = await asyncio.wait_for(done.communicate(), PATIENCE)
        return done.returncode, said.decode()

    code, said = await muslin("operator", "ipam", "show", "--format=json")
    assert code == 0, said
    assert "192.168.0.0/16" in said
    code, said = await muslin("operator", "endpoint", "list", "--format=json")
    assert code == 0, said
    code, said = await muslin("n1", "endpoint", "list")
    assert code == 1
    assert "node:n1 does not allow /muslin.endpoint.v1.Endpoints/List" in said
