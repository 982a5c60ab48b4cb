"""The client against an API server's protocol: pages, watches, refusals, credentials that change."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from muslin.errors import (
    Compacted,
    Corrupt,
    Denied,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    TimedOut,
    Unauthenticated,
    Unavailable,
)
from muslin.kube import kinds, kubeconfig
from muslin.kube.access import Access, in_cluster
from muslin.kube.client import Client, Pace
from muslin.kube.decode import Event
from tests.support.apiserver import ApiServer

PODS = "/api/v1/pods"


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    async with ApiServer() as made:
        yield made


@pytest.fixture
async def client(server: ApiServer) -> AsyncIterator[Client]:
    made = Client(lambda: Access(server.url, "the test"), Pace(page=3, list=30.0))
    yield made
    await made.aclose()


async def test_a_list_is_read_in_pages(server: ApiServer, client: Client) -> None:
    for number in range(10):
        await server.put(PODS, f"pod-{number}", "default")
    listing = await client.list(kinds.PODS)
    assert [item.name for item in listing.objects] == [("default", f"pod-{number}") for number in range(10)]
    assert listing.version == str(server.version)
    assert [query.get("limit") for _, query in server.requests] == ["3"] * 4
    assert "continue" not in server.requests[0][1]


async def test_pages_that_are_forgotten_halfway_are_one_list_instead(server: ApiServer, client: Client) -> None:
    for number in range(10):
        await server.put(PODS, f"pod-{number}", "default")
    server.keeps_pages = False
    assert len((await client.list(kinds.PODS)).objects) == 10
    assert [query.get("limit") for _, query in server.requests] == ["3", "3", None]


async def test_one_object_and_none(server: ApiServer, client: Client) -> None:
    await server.put(PODS, "web", "shop", metadata={"labels": {"app": "web"}})
    found = await client.get(kinds.PODS, ("shop", "web"), 30.0)
    assert found is not None
    assert found.labels == {"app": "web"}
    assert await client.get(kinds.PODS, ("shop", "other"), 30.0) is None
    assert await client.get(kinds.NAMESPACES, ("", "shop"), 30.0) is None


async def test_a_watch_tells_what_changes_and_ends_when_it_was_asked_to(server: ApiServer) -> None:
    client = Client(lambda: Access(server.url, "the test"))
    seen: list[Event[Any]] = []
    complete = asyncio.Event()

    def take(event: Event[Any]) -> None:
        seen.append(event)
        if event.type == "DELETED":
            complete.set()

    version = str(server.version)
    await server.put(PODS, "a", "default")
    await server.put(PODS, "a", "default", metadata={"labels": {"x": "y"}})
    await server.bookmark(PODS)
    await server.delete(PODS, "a", "default")
    watch = asyncio.create_task(client.watch(kinds.PODS, version, take))
    async with asyncio.timeout(60):
        await complete.wait()
        await server.end_watches()
        await watch
    assert [event.type for event in seen] == ["ADDED", "MODIFIED", "BOOKMARK", "DELETED"]
    assert [event.object is not None for event in seen] == [True, True, False, True]
    assert seen[-1].version == str(server.version)
    await client.aclose()


async def test_a_watch_from_a_forgotten_version_is_compacted(server: ApiServer, client: Client) -> None:
    version = str(server.version)
    await server.forget()
    with pytest.raises(Compacted, match="too old"):
        await client.watch(kinds.PODS, version, lambda _: None)


async def test_a_version_forgotten_during_a_watch_is_compacted(server: ApiServer, client: Client) -> None:
    watch = asyncio.create_task(client.watch(kinds.PODS, str(server.version), lambda _: None))
    await server.watched(PODS)
    await server.inject(PODS, json.dumps({"type": "ERROR", "object": {"kind": "Status", "code": 410,
                                                                      "message": "too old resource version"}}).encode())
    with pytest.raises(Compacted, match="too old resource version"):
        await watch


@pytest.mark.parametrize("line", [b"{", b"null", b'{"type":"ADDED"}', b'{"type":"ADDED","object":{}}', b"\xff\xfe"])
async def test_what_is_no_event_is_corrupt(server: ApiServer, client: Client, line: bytes) -> None:
    watch = asyncio.create_task(client.watch(kinds.PODS, str(server.version), lambda _: None))
    await server.watched(PODS)
    await server.inject(PODS, line)
    with pytest.raises(Corrupt, match="pods of v1"):
        await watch


async def test_an_object_that_does_not_decode_is_named_and_spoils_nothing(server: ApiServer, client: Client) -> None:
    await server.put(PODS, "good", "default")
    await server.put(PODS, "bad", "default", spec={"containers": "none"})
    listing = await client.list(kinds.PODS)
    assert [item.name for item in listing.objects] == [("default", "good")]
    assert listing.damaged == {("default", "bad")}


async def test_a_half_open_connection_ends_a_watch(server: ApiServer) -> None:
    """The server has said nothing long after it should have ended the watch."""
    client = Client(lambda: Access(server.url, "the test"), Pace(watch=0.2, grace=0.1))
    server.answering.clear()
    with pytest.raises(TimedOut, match="GET /api/v1/pods"):
        await client.watch(kinds.PODS, "1", lambda _: None)
    with pytest.raises(TimedOut):
        await client.get(kinds.PODS, ("default", "web"), 0.1)
    await client.aclose()


async def test_a_server_that_is_away_is_unavailable(server: ApiServer, client: Client) -> None:
    await server.down()
    with pytest.raises(Unavailable, match="GET /api/v1/pods"):
        await client.list(kinds.PODS)
    await server.up()
    assert (await client.list(kinds.PODS)).objects == []


async def test_a_watch_that_breaks_off_is_unavailable(server: ApiServer, client: Client) -> None:
    told = asyncio.Event()
    watch = asyncio.create_task(client.watch(kinds.PODS, str(server.version), lambda _: told.set()))
    await server.put(PODS, "a", "default")
    async with asyncio.timeout(30):
        await told.wait()
    await server.down()
    with pytest.raises((Unavailable, TimedOut)):
        await watch


async def test_refusals_say_who_must_do_what(server: ApiServer, client: Client) -> None:
    server.forbidden.add(PODS)
    with pytest.raises(Denied, match=r"HTTP 403: /api/v1/pods is forbidden; a role must allow it to the user"):
        await client.list(kinds.PODS)
    server.forbidden.clear()
    server.refusals = [(500, {}), (400, {}), (429, {"Retry-After": "7"})]
    with pytest.raises(Unavailable):
        await client.list(kinds.PODS)
    with pytest.raises(InvalidArgument):
        await client.list(kinds.PODS)
    with pytest.raises(Unavailable) as caught:
        await client.list(kinds.PODS)
    assert getattr(caught.value, "seconds", 0) == 7


async def test_a_token_that_was_renewed_is_read_again_when_it_is_refused(server: ApiServer, tmp_path: Path) -> None:
    server.tokens = {"first"}
    (tmp_path / "token").write_text("first\n")
    config = server.kubeconfig(tmp_path / "config", tokenFile="token")
    client = Client(kubeconfig.loader(config))
    assert (await client.list(kinds.PODS)).objects == []
    server.tokens = {"second"}
    with pytest.raises(Unauthenticated, match=f"the credentials of kubeconfig {config} have expired") as caught:
        await client.list(kinds.PODS)
    assert "first" not in str(caught.value)
    (tmp_path / "token").write_text("second\n")
    assert (await client.list(kinds.PODS)).objects == []
    await client.aclose()


async def test_in_a_pod(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("abc")
    (tmp_path / "ca.crt").write_text("x")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    access = in_cluster(tmp_path)()
    assert (access.server, access.token, access.ca) == ("https://[fd00::1]:443", "abc", b"x")
    (tmp_path / "token").write_text("rotated")
    assert in_cluster(tmp_path)().token == "rotated"
    client = Client(lambda: access)
    with pytest.raises(InvalidArgument, match="service account of this pod: the authority's certificate can not be"):
        await client.list(kinds.PODS)
    await client.aclose()


def test_outside_a_pod_it_says_what_to_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(FailedPrecondition, match=r"KUBERNETES_SERVICE_PORT are not set, .* outside one use --kube"):
        in_cluster(tmp_path)()
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    with pytest.raises(NotFound, match=r"--kubernetes in-cluster: .*ca\.crt does not exist"):
        in_cluster(tmp_path)()


# Encrypted


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca, server (for 127.0.0.1 and api.test) and client: .crt and .key."""
    place = tmp_path_factory.mktemp("pki")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=place, check=True, capture_output=True)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=ca", "-days", "2")
    for name, names in (("server", "IP:127.0.0.1,DNS:api.test"), ("client", "DNS:client")):
        openssl("req", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (place / "ext").write_text(f"subjectAltName={names}")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                "-out", f"{name}.crt", "-days", "2", "-extfile", "ext")
    return place


@pytest.fixture
async def encrypted(pki: Path) -> AsyncIterator[ApiServer]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(pki / "ca.crt"))
    context.load_cert_chain(pki / "server.crt", pki / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    async with ApiServer(tls=context) as server:
        yield server


async def listed(access: Access) -> int:
    client = Client(lambda: access)
    try:
        return len((await client.list(kinds.PODS)).objects)
    finally:
        await client.aclose()


async def test_certificates_of_both_sides(encrypted: ApiServer, pki: Path) -> None:
    def access(**changed: Any) -> Access:
        given: dict[str, Any] = {"ca": (pki / "ca.crt").read_bytes(), "certificate": (pki / "client.crt").read_bytes(),
                                 "key": (pki / "client.key").read_bytes(), **changed}
        return Access(encrypted.url, "the test", **given)

    assert await listed(access()) == 0
    assert await listed(access(ca=b"", insecure=True)) == 0
    assert await listed(access(server_name="api.test")) == 0
    with pytest.raises(Unavailable, match="its certificate is not accepted"):
        await listed(access(server_name="other.test"))
    with pytest.raises(Unavailable, match="its certificate is not accepted"):
        await listed(access(ca=b""))
    with pytest.raises(Unavailable):
        await listed(access(certificate=b"", key=b""))
    with pytest.raises(InvalidArgument, match="the client's certificate and key can not be used"):
        await listed(access(key=(pki / "server.key").read_bytes()))
    with pytest.raises(InvalidArgument, match="the authority's certificate can not be used"):
        await listed(access(ca=b"nonsense"))


async def test_certificates_are_rotated_under_a_watch(encrypted: ApiServer, pki: Path) -> None:
    """The watch goes on over its connection; what is asked next goes over one with the new certificate."""
    now = Access(encrypted.url, "the test", ca=(pki / "ca.crt").read_bytes(),
                 certificate=(pki / "client.crt").read_bytes(), key=(pki / "client.key").read_bytes())
    client = Client(lambda: now, Pace(renew=0.0))
    told: asyncio.Queue[Event[Any]] = asyncio.Queue()
    watch = asyncio.create_task(client.watch(kinds.PODS, str(encrypted.version), told.put_nowait))
    async with asyncio.timeout(30):
        await encrypted.put(PODS, "a", "default")
        await told.get()
        now = replace(now, ca=now.ca + b"\n")
        assert len((await client.list(kinds.PODS)).objects) == 1
        await encrypted.put(PODS, "b", "default")
        assert (await told.get()).type == "ADDED"
    watch.cancel()
    await asyncio.wait([watch])
    await client.aclose()
