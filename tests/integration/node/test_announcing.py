"""A daemon tells the endpoint service that it is there, where, which version, and why it can not serve if so."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path

import pytest

from muslin import __version__, rpc
from muslin.api.endpoint.v1 import endpoint_pb2, endpoint_pb2_grpc
from tests.support.etcd import EtcdServer
from tests.support.netns import namespace
from tests.support.service import Service

pytestmark = pytest.mark.root

NOBODY = "unix:/nonexistent/service.sock"


async def test_a_daemon_that_waits_for_a_service_says_so_from_the_first(tmp_path: Path) -> None:
    """On a machine that no other can reach as well: what its Node says depends on it."""
    with ExitStack() as stack:
        host = stack.enter_context(namespace("alone"))
        etcd = stack.enter_context(EtcdServer())
        endpoint = stack.enter_context(Service("endpoint", "--etcd", etcd.endpoint))
        daemon = Service("node", "--node", "n1", "--endpoint", endpoint.target, "--ipam", NOBODY, "--policy", NOBODY,
                         "--run-dir", str(tmp_path / "run"), "--state", str(tmp_path / "state"), namespace=host)
        stack.callback(daemon.stop)
        daemon.launch()
        async with rpc.channel(endpoint.target) as channel, asyncio.timeout(60):
            stub: endpoint_pb2_grpc.EndpointsAsyncStub = endpoint_pb2_grpc.EndpointsStub(channel)
            stream = stub.WatchHosts(endpoint_pb2.WatchHostsRequest(), timeout=60)
            seen: list[endpoint_pb2.Host] = []
            async for message in stream:
                seen += message.hosts
                if seen and seen[-1].present:
                    break
            stream.cancel()
    assert all("policy stream" in host.trouble for host in seen if host.present), "never a word that it can serve"
    assert (seen[-1].node, list(seen[-1].addresses), seen[-1].version) == ("n1", [], __version__)
