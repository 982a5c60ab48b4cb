"""From an API server to packets: pods wired by the shim, isolated and let through by what that server has."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.integration.node.world import reaches
from tests.support.apiserver import ApiServer
from tests.support.netns import namespace
from tests.support.stack import Pod, Stack

pytestmark = pytest.mark.root

PODS, POLICIES = "/api/v1/pods", "/apis/networking.k8s.io/v1/networkpolicies"
CONF: dict[str, Any] = {"type": "calico", "ipam": {"type": "calico-ipam"}}
_SOON = 60.0


@pytest.fixture
def host() -> Any:
    with namespace("node") as node:
        yield node


@pytest.fixture
async def api(host: Path) -> AsyncIterator[ApiServer]:
    async with ApiServer(namespace=host) as server:
        yield server


@pytest.fixture
async def stack(host: Path, api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stack]:
    """`muslin up` with a kubeconfig."""
    monkeypatch.setenv("MUSLIN_KUBECONFIG", str(api.kubeconfig(tmp_path / "config")))
    made = Stack(tmp_path, host)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(_SOON):
        while not await asyncio.to_thread(holds):  # noqa: ASYNC110  the kernel tells nobody
            await asyncio.sleep(0.05)


async def test_what_an_api_server_has_is_what_packets_meet(api: ApiServer, stack: Stack) -> None:
    """Policies made, changed and deleted, labels changed; and while the server is away all stays as it is."""
    await api.put("/api/v1/namespaces", "shop")
    with ExitStack() as scope:
        pods = {name: Pod(name, scope.enter_context(namespace(name)), "shop") for name in ("web", "db")}
        addresses = {}
        for name, pod in pods.items():
            await api.put(PODS, name, "shop", metadata={"labels": {"app": name}})
            done = await stack.invoke("ADD", pod, stack.configuration(**CONF))  # at once: told of or not
            assert done.status == 0, done.stdout
            addresses[name] = str(json.loads(done.stdout)["ips"][0]["address"]).partition("/")[0]

        def passes() -> bool:
            return reaches(pods["web"].netns, addresses["db"], 80)

        await until(passes)
        await api.put(POLICIES, "db", "shop", spec={"podSelector": {"matchLabels": {"app": "db"}}})
        await until(lambda: not passes())
        allowed = {"podSelector": {"matchLabels": {"app": "db"}},
                   "ingress": [{"from": [{"podSelector": {"matchLabels": {"role": "client"}}}]}]}
        await api.put(POLICIES, "db", "shop", spec=allowed)
        await api.put(PODS, "web", "shop", metadata={"labels": {"app": "web", "role": "client"}})
        await until(passes)

        await api.down()
        assert passes()
        other = Pod("again", scope.enter_context(namespace("again")), "shop", "web")
        assert (await stack.invoke("DEL", pods["web"])).status == 0
        assert (await stack.invoke("ADD", other, stack.configuration(**CONF))).status == 0  # of a pod that is known
        assert await asyncio.to_thread(reaches, other.netns, addresses["db"], 80)
        unknown = Pod("new", scope.enter_context(namespace("new")), "shop")
        refused = await stack.invoke("ADD", unknown, stack.configuration(**CONF))
        assert refused.status
        assert refused.error["code"] == 11, refused.stdout
        assert "pod shop/new is not known here: the API server" in refused.stdout.decode()
        await api.up()

        await api.put(PODS, "web", "shop", metadata={"labels": {"app": "web"}})
        await until(lambda: not reaches(other.netns, addresses["db"], 80))
        await api.delete(POLICIES, "db", "shop")
        await until(lambda: reaches(other.netns, addresses["db"], 80))
        for pod in (other, pods["db"], unknown):
            assert (await stack.invoke("DEL", pod)).status == 0
        assert not [key for key in stack.records() if "/endpoints/" in key or "/handles/" in key]
