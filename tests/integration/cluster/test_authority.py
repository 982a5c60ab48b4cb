"""The authority and a node's agent, against a server that speaks as an API server does: who gets which certificate."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from muslin.cli.certs import authority
from muslin.cli.certs.authority import Authority
from muslin.cli.cluster.identity import Identity
from muslin.cli.cluster.keeper import Keeper
from muslin.cli.cluster.leaving import Leaving
from muslin.cli.cluster.signing import Signer
from muslin.errors import Corrupt, Denied
from muslin.kube.access import Access
from muslin.kube.client import Client, Pace
from muslin.tasks import TaskSet
from tests.support.apiserver import ApiServer

OURS = "muslin-system"
SECRETS, CONFIG_MAPS, SERVICES = "/api/v1/secrets", "/api/v1/configmaps", "/api/v1/services"
PODS, NAMESPACES = "/api/v1/pods", "/api/v1/namespaces"
REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
DAEMON_SETS, STATEFUL_SETS = "/apis/apps/v1/daemonsets", "/apis/apps/v1/statefulsets"
SOON = 60.0
QUICK = Pace(pause=0.2)


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    async with ApiServer() as made:
        made.kinds |= {SECRETS: ("v1", "Secret"), CONFIG_MAPS: ("v1", "ConfigMap"), SERVICES: ("v1", "Service"),
                       REQUESTS: ("certificates.k8s.io/v1", "CertificateSigningRequest"),
                       DAEMON_SETS: ("apps/v1", "DaemonSet"), STATEFUL_SETS: ("apps/v1", "StatefulSet")}
        for name, address in (("muslin-ipam", "10.96.0.7"), ("muslin-etcd-0", "10.96.0.8")):
            await made.put(SERVICES, name, OURS, spec={"clusterIP": address})
        await made.put(SERVICES, "muslin-ipam", "elsewhere", spec={"clusterIP": "10.96.0.66"})
        await made.put(PODS, "muslin-node-x", OURS, spec={"nodeName": "worker1", "serviceAccountName": "muslin-node"})
        yield made


@pytest.fixture
async def client(server: ApiServer) -> AsyncIterator[Client]:
    made = Client(lambda: Access(server.url, "the test"), QUICK)
    yield made
    await made.aclose()


def keeper(client: Client, folder: Path, **more: Any) -> Keeper:
    return Keeper(client, OURS, folder, **{"days": 90, "renew": 30, "etcd": True, **more})


def content(server: ApiServer, name: str, key: str = "tls.crt") -> bytes:
    return base64.b64decode(server.one(SECRETS, name, OURS)["data"][key])


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while not holds():  # noqa: ASYNC110  the server is asked, which tells nobody
            await asyncio.sleep(0.01)


# Services.


async def test_services_get_certificates_for_where_they_are(server: ApiServer, client: Client, tmp_path: Path) -> None:
    await keeper(client, tmp_path).keep()
    found = x509.load_pem_x509_certificate(content(server, "muslin-ipam"))
    hosts = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = [str(each) for each in hosts.get_values_for_type(x509.IPAddress)]
    assert "10.96.0.7" in addresses
    assert "10.96.0.66" not in addresses, "which is of another namespace"
    trusted = server.one(CONFIG_MAPS, "muslin-ca", OURS)["data"]["ca.crt"].encode()
    for name in ("ipam", "endpoint", "policy", "operator", "etcd", "etcd-root"):
        assert authority.issued_by(content(server, f"muslin-{name}"), trusted)
        assert authority.fits(content(server, f"muslin-{name}"), content(server, f"muslin-{name}", "tls.key"))
        assert content(server, f"muslin-{name}", "ca.crt") == trusted
    written = [path.rpartition("/")[2] for _, path, _ in server.writes]
    names = [body["metadata"]["name"] for _, _, body in server.writes]
    assert (written[0], names[0]) == ("secrets", "muslin-authority"), "before anything that it signs"
    assert (written[1], names[1]) == ("configmaps", "muslin-ca")


async def test_what_is_well_is_left_alone_wherever_the_authority_runs(
        server: ApiServer, client: Client, tmp_path: Path) -> None:
    await keeper(client, tmp_path / "one").keep()
    written = len(server.writes)
    await keeper(client, tmp_path / "another").keep()
    assert len(server.writes) == written


async def test_what_is_lost_or_elsewhere_is_made_anew_by_the_same_authority(
        server: ApiServer, client: Client, tmp_path: Path) -> None:
    await keeper(client, tmp_path / "one").keep()
    trusted, before = content(server, "muslin-ipam", "ca.crt"), content(server, "muslin-policy")
    await server.delete(SECRETS, "muslin-endpoint", OURS)
    await server.put(SERVICES, "muslin-ipam", OURS, spec={"clusterIP": "10.96.0.99"})
    await keeper(client, tmp_path / "another").keep()
    assert authority.issued_by(content(server, "muslin-endpoint"), trusted)
    found = x509.load_pem_x509_certificate(content(server, "muslin-ipam"))
    hosts = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "10.96.0.99" in [str(each) for each in hosts.get_values_for_type(x509.IPAddress)]
    assert content(server, "muslin-policy") == before


async def test_half_an_authority_is_not_replaced_by_another(server: ApiServer, client: Client, tmp_path: Path) -> None:
    """All nodes would have to be given new certificates at once, and whoever took the key out would not be noticed."""
    await keeper(client, tmp_path / "one").keep()
    data = server.one(SECRETS, "muslin-authority", OURS)["data"]
    await server.put(SECRETS, "muslin-authority", OURS, data={"ca.crt": data["ca.crt"]})
    with pytest.raises(Corrupt, match=r"ca\.key"):
        await keeper(client, tmp_path / "another").keep()


async def test_an_etcd_of_somebody_elses_gets_no_certificates(
        server: ApiServer, client: Client, tmp_path: Path) -> None:
    await keeper(client, tmp_path, etcd=False).keep()
    assert not [body for _, _, body in server.writes if "etcd" in body["metadata"]["name"]]


# Nodes.


@asynccontextmanager
async def signing(client: Client, own: Authority) -> AsyncIterator[None]:
    signer, tasks = Signer(client, OURS, lambda: own, 90), TaskSet()
    tasks.spawn("requests", signer.reflector.run())
    tasks.spawn("signing", signer.run())
    try:
        yield
        assert not tasks.failed.done(), "whatever is asked, it goes on"
    finally:
        await tasks.aclose()


async def say_who(server: ApiServer, name: str, *, uid: str = "", account: str = "muslin-node") -> None:
    """What the API server itself adds to a request: who made it."""
    item = server.one(REQUESTS, name)
    uid = uid or server.one(PODS, "muslin-node-x", OURS)["metadata"]["uid"]
    extra = {"authentication.kubernetes.io/pod-name": ["muslin-node-x"], "authentication.kubernetes.io/pod-uid": [uid]}
    await server.put(REQUESTS, name, spec={
        **item["spec"], "username": f"system:serviceaccount:{OURS}:{account}", "extra": extra})


async def made_by(server: ApiServer, **who: str) -> str:
    """Wait for the next request, and say who made it."""
    def new() -> list[str]:
        return [body["metadata"]["name"] for method, path, body in server.writes
                if (method, path) == ("POST", REQUESTS) and "username" not in server.one(
                    REQUESTS, body["metadata"]["name"])["spec"]]
    await until(lambda: bool(new()))
    name = new()[0]
    await say_who(server, name, **who)
    return name


async def test_a_node_gets_a_certificate_in_its_name_for_a_key_that_only_it_has(
        server: ApiServer, client: Client, tmp_path: Path) -> None:
    own = Authority.make(100)
    await server.put(CONFIG_MAPS, "muslin-ca", OURS, data={"ca.crt": own.pair.certificate.decode()})
    identity = Identity(client, OURS, "worker9", tmp_path / "pki", 30)
    assert identity.complaint() == "there is none"
    having = asyncio.create_task(identity.have())
    await made_by(server)
    async with signing(client, own), asyncio.timeout(SOON):
        await having
    found = x509.load_pem_x509_certificate((tmp_path / "pki/tls.crt").read_bytes())
    assert found.subject.rfc4514_string() == "CN=node:worker1", "where it runs, whatever it says"
    assert identity.complaint() == ""
    key = (tmp_path / "pki/tls.key").read_text()
    assert (tmp_path / "pki/tls.key").stat().st_mode & 0o777 == 0o600
    assert not [body for _, _, body in server.writes if key[30:90] in str(body)]
    requests = len(server.requests)
    await identity.have()
    assert len(server.requests) == requests, "one that is good needs no API server"


async def test_who_is_no_node_is_told_so(server: ApiServer, client: Client, tmp_path: Path) -> None:
    own = Authority.make(100)
    await server.put(CONFIG_MAPS, "muslin-ca", OURS, data={"ca.crt": own.pair.certificate.decode()})
    for who, words in (({"uid": "of another"}, "gone"), ({"account": "default"}, "made by")):
        asking = asyncio.create_task(Identity(client, OURS, "worker1", tmp_path / "pki", 30).renew())
        name = await made_by(server, **who)
        async with signing(client, own), asyncio.timeout(SOON):
            with pytest.raises(Denied, match=words):
                await asking
        assert "certificate" not in server.one(REQUESTS, name).get("status", {})
    assert not (tmp_path / "pki/tls.crt").exists()


@pytest.mark.parametrize(("certificate", "words"), [
    (lambda own, other, subject: other.issue(subject, 90), "not of an authority"),
    (lambda own, other, subject: own.issue(subject, 10), "ends in"),
    (lambda own, other, subject: authority.Pair(own.issue(subject, 90).certificate, b"x"), "do not fit"),
])
def test_what_is_no_longer_good_is_seen(certificate: Callable[..., authority.Pair], words: str,
                                        tmp_path: Path) -> None:
    own, other = Authority.make(100), Authority.make(100)
    from muslin.cli.certs.subjects import Subject
    pair = certificate(own, other, Subject("w", "node:w"))
    for name, text in (("tls.crt", pair.certificate), ("tls.key", pair.key), ("ca.crt", own.pair.certificate)):
        (tmp_path / name).write_bytes(text)
    identity = Identity(Client(lambda: Access("http://127.0.0.1:1", "nobody")), OURS, "w", tmp_path, 30)
    assert words in identity.complaint()


# What becomes of an installation.


@asynccontextmanager
async def following(server: ApiServer, client: Client) -> AsyncIterator[Leaving]:
    await server.put(NAMESPACES, OURS)
    await server.put(NAMESPACES, "another", metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})
    await server.put(DAEMON_SETS, "muslin-node", OURS)
    await server.put(STATEFUL_SETS, "muslin-etcd-0", OURS)
    leaving, tasks = Leaving(client, OURS), TaskSet()
    leaving.start(tasks)
    try:
        for path in (NAMESPACES, DAEMON_SETS, STATEFUL_SETS):
            await server.watched(path)
        yield leaving
    finally:
        await tasks.aclose()


async def test_a_pod_that_is_merely_stopped_removes_nothing(server: ApiServer, client: Client) -> None:
    async with following(server, client) as leaving:
        assert await leaving.decided(SOON) is False
        assert not leaving.etcd_removed


@pytest.mark.parametrize("how", ["namespace leaving", "namespace gone", "daemonset gone", "daemonset leaving"])
async def test_what_is_removed_is_removed(server: ApiServer, client: Client, how: str) -> None:
    what, happened = how.split()
    path, name, namespace = ((NAMESPACES, OURS, "") if what == "namespace" else (DAEMON_SETS, "muslin-node", OURS))
    async with following(server, client) as leaving:
        if happened == "gone":
            await server.delete(path, name, namespace)
        else:
            await server.put(path, name, namespace, metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})
        assert await leaving.decided(SOON) is True
        assert leaving.etcd_removed == (what == "namespace")
        await server.delete(STATEFUL_SETS, "muslin-etcd-0", OURS)
        await until(lambda: leaving.etcd_removed)


async def test_a_removal_is_heard_of_though_nobody_may_ask_any_more(server: ApiServer, client: Client) -> None:
    """As with `kubectl delete -k`, where the rights go before the pods: what was begun to be watched is still told."""
    async with following(server, client) as leaving:
        server.tokens = {"a token that nobody has"}
        asking = asyncio.create_task(leaving.decided(SOON))
        requests = len(server.requests)
        await until(lambda: len(server.requests) > requests)
        assert not asking.done()
        await server.delete(DAEMON_SETS, "muslin-node", OURS)
        async with asyncio.timeout(SOON):
            assert await asking is True


async def test_in_doubt_everything_stays(server: ApiServer, client: Client) -> None:
    """A token that is void, as of a pod that is deleted by force, or an API server that is down: no sign of removal."""
    async with following(server, client) as leaving:
        server.tokens = {"a token that nobody has"}
        assert await leaving.decided(1.0) is False
        await server.down()
        assert await leaving.decided(1.0) is False


async def test_what_was_replaced_stays(server: ApiServer, client: Client) -> None:
    """Deleted and made anew is not removed, as it is now."""
    async with following(server, client) as leaving:
        await server.delete(DAEMON_SETS, "muslin-node", OURS)
        await server.put(DAEMON_SETS, "muslin-node", OURS)
        await until(lambda: str(leaving._nodes.fate) == "Fate.STAYS")
        assert await leaving.decided(SOON) is False
