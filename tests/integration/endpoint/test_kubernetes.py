"""The endpoint service follows an API server's pods, namespaces and nodes, and asks it for pods that are not known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.errors import InvalidArgument, NotFound, TimedOut, Unavailable
from tests.integration.endpoint.clients import CONF, Client, call, persist, pod
from tests.support.apiserver import ApiServer
from tests.support.etcd import EtcdServer
from tests.support.service import Service

PODS, NAMESPACES, NODES = "/api/v1/pods", "/api/v1/namespaces", "/api/v1/nodes"
SPEC = {"serviceAccountName": "robot", "containers": [
    {"name": "c", "ports": [{"name": "http", "containerPort": 8080}, {"containerPort": 9}]}]}
_SOON = 60.0


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    async with ApiServer() as server:
        yield server


@asynccontextmanager
async def running(etcd: EtcdServer, *arguments: str) -> AsyncIterator[tuple[Service, Client]]:
    """A process of the test's own, and a client of it."""
    async with Service("endpoint", "--etcd", etcd.endpoint, *arguments) as service, Client(service.target) as client:
        yield service, client


@pytest.fixture
async def followed(api: ApiServer, tmp_path: Path) -> AsyncIterator[tuple[Service, Client]]:
    """A service with an etcd of its own that follows the API server."""
    with EtcdServer() as etcd:
        async with running(etcd, "--kubeconfig", str(api.kubeconfig(tmp_path / "config"))) as both:
            yield both


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(_SOON):
        while not await holds():  # noqa: ASYNC110  another process has it
            await asyncio.sleep(0.02)


async def known(client: Client) -> dict[str, endpoint_pb2.Pod]:
    return {item.name: item for item in await client.pods()}


async def test_what_the_api_server_has_is_the_inventory(api: ApiServer, followed: tuple[Service, Client]) -> None:
    """Of pods with a network of their own that have not finished, and with the annotations that somebody reads."""
    _, client = followed
    await api.put(NODES, "worker", metadata={"labels": {"zone": "a"}}, spec={"podCIDR": "10.1.0.0/24"})
    await api.put(NAMESPACES, "prod", metadata={"annotations": {"cni.projectcalico.org/ipv4pools": "[]", "x/y": "z"}})
    await api.put(PODS, "host", "prod", spec={**SPEC, "hostNetwork": True})
    await api.put(PODS, "done", "prod", spec=SPEC, status={"phase": "Succeeded"})
    made = await api.put(PODS, "web", "prod", spec=SPEC, status={"phase": "Running"}, metadata={
        "labels": {"app": "web"}, "annotations": {"kubernetes.io/ingress-bandwidth": "1M", "other": "x"}})

    async def there() -> bool:
        return bool(await known(client)) and (await client.node("worker")).pod_cidrs == ["10.1.0.0/24"]

    await until(there)
    assert list((await known(client)).values()) == [endpoint_pb2.Pod(
        namespace="prod", name="web", uid=made["metadata"]["uid"], labels={"app": "web"}, service_account="robot",
        annotations={"kubernetes.io/ingress-bandwidth": "1M"},
        ports=[endpoint_pb2.NamedPort(name="http", protocol="TCP", port=8080)])]
    answer = await client.endpoints.GetPod(endpoint_pb2.GetPodRequest(namespace="prod", name="web"), timeout=30)
    assert dict(answer.namespace.annotations) == {"cni.projectcalico.org/ipv4pools": "[]"}


async def test_endpoints_follow_their_pods(api: ApiServer, followed: tuple[Service, Client]) -> None:
    """Labels and named ports; the record of a pod that finished or is gone stays until the runtime's DEL."""
    _, client = followed
    await api.put(PODS, "web", "prod", spec=SPEC, metadata={"labels": {"app": "web"}})
    await client.add(call(1))
    assert dict((await client.get(1)).labels) == {"app": "web", "calico/k8s_ns": "prod"}
    other = {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 81, "protocol": "UDP"}]}]}
    await api.put(PODS, "web", "prod", spec=other, metadata={"labels": {"app": "other"}})

    async def changed() -> bool:
        record = await client.get(1)
        return (record.labels["app"], [(port.protocol, port.port) for port in record.ports]) == ("other", [("UDP", 81)])

    await until(changed)
    await api.put(PODS, "web", "prod", spec=other, metadata={"labels": {"app": "other"}}, status={"phase": "Failed"})

    async def forgotten() -> bool:
        return "web" not in await known(client)

    await until(forgotten)
    assert (await client.get(1)).labels["app"] == "other"
    await client.delete(call(1))
    with pytest.raises(NotFound):
        await client.get(1)


async def test_what_vanished_meanwhile_is_forgotten_and_what_was_told_stays(
        api: ApiServer, followed: tuple[Service, Client]) -> None:
    service, client = followed
    await api.put(PODS, "stays", "prod", spec=SPEC)
    await api.put(PODS, "goes", "prod", spec=SPEC)
    await client.apply(pod("mine"))

    async def all_known() -> bool:
        return len(await known(client)) == 3

    await until(all_known)
    assert service.terminate() == 0
    await api.delete(PODS, "goes", "prod")
    await api.forget()
    service.launch()
    await asyncio.to_thread(service.wait)

    async def gone() -> bool:
        return set(await known(client)) == {"stays", "mine"}

    await until(gone)


async def test_a_pod_that_is_not_known_yet_is_fetched(api: ApiServer, followed: tuple[Service, Client]) -> None:
    """Its watch is held up: nothing tells of the pod, and it can be asked for."""
    _, client = followed
    await api.watched(PODS)
    api.telling.clear()
    made = await api.put(PODS, "web", "prod", spec=SPEC, metadata={"labels": {"app": "web"}})
    uid = made["metadata"]["uid"]
    args = f"K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web;K8S_POD_UID={uid}"
    await client.add(call(1, args=args))
    assert (await client.get(1)).labels["app"] == "web"
    assert await known(client) == {}
    with pytest.raises(NotFound, match="pod prod/other is not there, says the API server"):
        await client.add(call(2, pod="other"))
    with pytest.raises(NotFound, match=f"pod prod/web of uid x is gone: the API server has one of uid {uid}"):
        await client.add(call(3, args="K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web;K8S_POD_UID=x"))
    await api.put(PODS, "web", "prod", spec=SPEC, metadata={"labels": {"app": "newer"}, "uid": uid})
    api.telling.set()

    async def followed_() -> bool:
        return (await client.get(1)).labels["app"] == "newer"

    await until(followed_)


async def test_of_a_pod_made_anew_by_the_same_name_the_new_one_is_fetched(
        api: ApiServer, followed: tuple[Service, Client]) -> None:
    _, client = followed
    await api.put(PODS, "web", "prod", spec=SPEC, metadata={"labels": {"app": "old"}})

    async def there() -> bool:
        return "web" in await known(client)

    await until(there)
    api.telling.clear()
    await api.delete(PODS, "web", "prod")
    made = await api.put(PODS, "web", "prod", spec=SPEC, metadata={"labels": {"app": "new"}})
    await client.add(call(1, args=f"K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web;K8S_POD_UID={made['metadata']['uid']}"))
    assert (await client.get(1)).labels["app"] == "new"
    api.telling.set()


async def test_the_late_add_of_a_pod_deleted_by_force_does_not_take_its_successors_place(
        api: ApiServer, followed: tuple[Service, Client]) -> None:
    """The store may still have the old pod: who is current is asked of the API server where two claim one name."""
    _, client = followed

    async def stored(uid: str) -> None:
        async def there() -> bool:
            return "web" in (seen := await known(client)) and seen["web"].uid == uid

        await until(there)

    async def add(number: int, uid: str) -> None:
        await client.add(call(number, args=f"K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web;K8S_POD_UID={uid}"))

    old = (await api.put(PODS, "web", "prod", spec=SPEC))["metadata"]["uid"]
    await stored(old)
    api.telling.clear()
    await api.delete(PODS, "web", "prod")
    new = (await api.put(PODS, "web", "prod", spec=SPEC))["metadata"]["uid"]
    await add(1, new)
    with pytest.raises(NotFound, match="is gone: the API server has one of uid"):
        await add(2, old)
    assert [record.attachment.container_id for record in (await client.list()).endpoints] == ["c1"]

    api.telling.set()
    await stored(new)
    await api.delete(PODS, "web", "prod")
    newest = (await api.put(PODS, "web", "prod", spec=SPEC))["metadata"]["uid"]
    await stored(newest)
    await api.down()
    await add(3, newest)  # it is known: an API server that is away does not stop it


async def test_an_api_server_that_is_away_or_slow_stops_only_pods_that_are_not_known(
        api: ApiServer, followed: tuple[Service, Client]) -> None:
    """ADD of known pods and DEL go on; what is not known is refused in time, as its labels decide what isolates it."""
    _, client = followed
    await api.put(PODS, "web", "prod", spec=SPEC, metadata={"labels": {"app": "web"}})

    async def there() -> bool:
        return "web" in await known(client)

    await until(there)
    api.answering.clear()  # half open
    await client.add(call(1))
    assert (await client.get(1)).labels["app"] == "web"
    with pytest.raises(TimedOut, match="pod prod/new is not known here, and the API server did not answer within"):
        await client.add(call(2, pod="new"), timeout=30)  # an answer long before that
    await client.delete(call(1))
    await api.down()
    api.answering.set()
    with pytest.raises((Unavailable, TimedOut), match="pod prod/new is not known here"):
        await client.add(call(2, pod="new"))
    await client.add(call(3))
    await client.status()
    await api.up()
    await api.put(PODS, "new", "prod", spec=SPEC)
    await persist(lambda: client.add(call(2, pod="new")), _SOON)


# Credentials of the CNI configuration


@pytest.fixture
async def plain(etcd: EtcdServer, client: Client) -> Client:
    """A service that was told of no API server."""
    return client


async def test_the_configurations_credentials_fetch_where_the_service_has_none(
        api: ApiServer, plain: Client, tmp_path: Path) -> None:
    """As Calico's plugin did: kubernetes.kubeconfig, and policy.k8s_* over it."""
    await api.put(PODS, "web", "prod", spec=SPEC, metadata={"labels": {"app": "web"}})
    config = str(api.kubeconfig(tmp_path / "config", token="file"))
    api.tokens = {"file"}

    async def labels(number: int, **conf: Any) -> str:
        await plain.add(call(number, config={**CONF, **conf}))
        return (await plain.get(number)).labels["app"]

    assert await labels(1, kubernetes={"kubeconfig": config}) == "web"
    api.tokens = {"own"}
    policy = {"type": "k8s", "k8s_api_root": f"{api.url}/api/v1/", "k8s_auth_token": "own"}
    assert await labels(2, policy=policy) == "web"
    elsewhere = api.kubeconfig(tmp_path / "elsewhere", token="file")
    elsewhere.write_text(elsewhere.read_text().replace(api.url, "http://127.0.0.1:9"))
    assert await labels(3, kubernetes={"kubeconfig": str(elsewhere)}, policy=policy) == "web"
    with pytest.raises(NotFound, match="prod/other is not there"):
        await plain.add(call(4, pod="other", config={**CONF, "policy": policy}))


async def test_a_kubeconfig_of_the_configuration_that_can_not_be_used(plain: Client, tmp_path: Path) -> None:
    """One that is not there is passed over with a warning, as pods may be told of otherwise; a wrong one is refused."""
    await plain.add(call(1, config={**CONF, "kubernetes": {"kubeconfig": str(tmp_path / "none")}}))
    assert "app" not in (await plain.get(1)).labels
    with pytest.raises(InvalidArgument, match=f"{tmp_path} is a directory; name a file"):
        await plain.add(call(2, config={**CONF, "kubernetes": {"kubeconfig": str(tmp_path)}}))
    (tmp_path / "ca").write_text("no")
    policy = {"type": "k8s", "k8s_api_root": "https://127.0.0.1:9", "k8s_certificate_authority": str(tmp_path / "ca")}
    with pytest.raises(InvalidArgument, match="the CNI configuration: the authority's certificate can not be used"):
        await plain.add(call(2, config={**CONF, "policy": policy}))
