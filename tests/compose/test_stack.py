"""What the stack is before anything breaks: rights, keys, and who is refused."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import grpc
import pytest

from muslin import rpc
from muslin.api.cni.v1 import cni_pb2
from muslin.api.endpoint.v1 import endpoint_pb2, endpoint_pb2_grpc
from muslin.api.ipam.v1 import ipam_pb2, ipam_pb2_grpc
from muslin.api.policy.v1 import policy_pb2, policy_pb2_grpc
from muslin.cli.certs.authority import Authority
from muslin.cli.certs.subjects import Subject
from muslin.errors import Denied
from muslin.etcd import keys
from muslin.rpc import tls
from muslin.tls import Material
from tests.compose.stack import NODES, REPLICAS, ROOT, Stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

PROBE = ("muslin-probe", "/run/muslin/muslin.sock")
PREFIXES = {"ipam": keys.IPAM, "endpoint": keys.ENDPOINT, "policy": keys.POLICY}


@pytest.mark.parametrize("service", [*REPLICAS, *NODES])
async def test_a_process_has_only_the_rights_it_needs(stack: Stack, service: str) -> None:
    told = stack.inspect(service)["HostConfig"]
    assert (told["Privileged"], told["ReadonlyRootfs"]) == (False, True)
    status = dict(line.split(":", 1) for line in stack.exec(service, "cat", "/proc/1/status").splitlines())
    user, rights = int(status["Uid"].split()[0]), int(status["CapEff"], 16)
    if service in NODES:
        assert (user, rights) == (0, 1 << 10 | 1 << 12 | 1 << 13 | 1 << 21)  # as docker-compose.yml says: capability.h
    else:
        assert (user, rights) == (65532, 0)
    assert "Read-only file system" in stack.exec(service, "sh", "-c", "touch /opt/muslin/x", check=False)


@pytest.mark.parametrize("service", PREFIXES)
async def test_a_service_may_write_below_its_own_prefix_of_etcd_and_nowhere_else(stack: Stack, service: str) -> None:
    for owner, prefix in PREFIXES.items():
        said = stack.etcdctl(service, "put", f"{prefix}test/key", "value")
        assert ("permission denied" not in said) == (owner == service), said
        said = stack.etcdctl(service, "get", "--prefix", "--keys-only", prefix)
        assert ("permission denied" not in said) == (owner == service), said
    assert "permission denied" not in stack.etcdctl(service, "del", f"{PREFIXES[service]}test/key")
    assert "permission denied" in stack.etcdctl(service, "user", "list")


async def test_nobody_gets_in_without_a_certificate_of_this_authority(stack: Stack, tmp_path: Path) -> None:
    other = Authority.make(1)
    stranger = other.issue(Subject("operator", "operator", ()), 1)
    trusted = stack.copy_certificates("operator", tmp_path)
    strange = tls.channel_credentials(
        Material(stranger.certificate, stranger.key, (trusted / "ca.crt").read_bytes()))
    bare = grpc.ssl_channel_credentials((trusted / "ca.crt").read_bytes())
    for service, port in stack.ports.items():
        target = f"127.0.0.1:{port}"
        for channel in (grpc.aio.insecure_channel(target), grpc.aio.secure_channel(target, strange),
                        grpc.aio.secure_channel(target, bare)):
            async with channel:
                ask = channel.unary_unary("/grpc.health.v1.Health/Check", bytes, bytes)
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await ask(b"", timeout=20)
            assert refused.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED), service


async def test_a_node_acts_for_itself_only(stack: Stack, tmp_path: Path) -> None:
    place = stack.copy_certificates("node1", tmp_path)
    credentials = tls.channel_credentials(
        Material(*((place / name).read_bytes() for name in ("tls.crt", "tls.key", "ca.crt"))))
    async with grpc.aio.secure_channel(f"127.0.0.1:{stack.ports['policy']}", credentials) as channel:
        with pytest.raises(Denied), rpc.translated("policy: apply"):
            await policy_pb2_grpc.PoliciesStub(channel).Apply(policy_pb2.ApplyRequest(), timeout=20)
    async with grpc.aio.secure_channel(f"127.0.0.1:{stack.ports['endpoint']}", credentials) as channel:
        with pytest.raises(Denied), rpc.translated("endpoint: apply pods"):
            await endpoint_pb2_grpc.EndpointsStub(channel).ApplyPods(endpoint_pb2.ApplyPodsRequest(), timeout=20)
    async with grpc.aio.secure_channel(f"127.0.0.1:{stack.ports['ipam']}", credentials) as channel:
        with pytest.raises(Denied), rpc.translated("ipam: add"):
            await ipam_pb2_grpc.PluginStub(channel).Add(
                cni_pb2.AddRequest(call=cni_pb2.Call(container_id="c", ifname="eth0", config=b"{}")),
                metadata=(("muslin-node", "node2"),), timeout=20)
        with pytest.raises(Denied), rpc.translated("ipam: rebuild"):
            await ipam_pb2_grpc.IpamStub(channel).Rebuild(ipam_pb2.RebuildRequest(), timeout=20)


async def test_certificates_are_renewed_while_all_runs(stack: Stack, tmp_path: Path,
                                                       channels: dict[str, grpc.aio.Channel]) -> None:
    place = stack.copy_certificates("operator", tmp_path)
    shown = {service: _shown(place, port) for service, port in stack.ports.items()}
    began = {service: stack.inspect(service)["State"]["StartedAt"] for service in REPLICAS}
    stack.renew()
    assert all(_shown(place, port) != shown[service] for service, port in stack.ports.items())
    assert {service: stack.inspect(service)["State"]["StartedAt"] for service in REPLICAS} == began
    with rpc.translated("policy: list"):
        await policy_pb2_grpc.PoliciesStub(channels["policy"]).List(policy_pb2.ListRequest(), timeout=20)


def _three_tiers(stack: Stack, folder: Path) -> None:
    """Play the example on three nodes: every pair of pods is probed with packets and asked of Explain."""
    operator = stack.copy_certificates("operator", folder)
    played = stack.play(operator, folder / "state", str(ROOT / "examples/three-tier"))
    assert {pod["node"] for pod in played["pods"]} == set(NODES)
    assert (played["disagree"], played["not_probed"]) == (0, 0)
    assert min(played["allowed"], played["denied"]) > 10


def _shown(place: Path, port: int) -> bytes | None:
    """The certificate that a service shows."""
    context = ssl.create_default_context(cafile=str(place / "ca.crt"))
    context.load_cert_chain(place / "tls.crt", place / "tls.key")
    context.set_alpn_protocols(["h2"])
    with socket.create_connection(("127.0.0.1", port), 20) as plain, \
            context.wrap_socket(plain, server_hostname="localhost") as secure:
        return secure.getpeercert(binary_form=True)


async def test_pods_of_all_nodes_reach_whom_policy_lets_them(stack: Stack, tmp_path: Path) -> None:
    _three_tiers(stack, tmp_path)


async def test_one_of_each_is_a_cluster_too_and_vxlan_a_way_between_nodes(tmp_path: Path) -> None:
    alone = Stack("muslin-test-single", "single", apart=100, encapsulation="vxlan")
    try:
        alone.up()
        assert all(alone.exec(service, *PROBE).strip() == "SERVING" for service in NODES)
        _three_tiers(alone, tmp_path)
    finally:
        alone.down()

