"""Users in etcd: each service may touch its own keys, others nothing; certificates are replaced while we run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest

from muslin.errors import Denied, FailedPrecondition, InvalidArgument, MuslinError, Unavailable, Unsupported
from muslin.etcd import Etcd, Members, Put, keys
from muslin.etcd.auth import PREFIXES, set_up
from muslin.etcd.election import Election, Term
from muslin.etcd.stubs import auth_pb2
from muslin.etcd.stubs import rpc_pb2 as pb
from muslin.etcd.stubs import rpc_pb2_grpc as rpc
from tests.support.etcd import EtcdServer
from tests.support.tls import Certificates

PATIENCE = 60.0


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certs"))


@pytest.fixture(scope="module")
def server(certificates: Certificates) -> Iterator[EtcdServer]:
    with EtcdServer(name="etcd1", tls=certificates.files("etcd1")) as running:
        asyncio.run(set_up(Members((running.endpoint,), certificates.files("etcd-root"))))
        yield running


@pytest.fixture
def members(server: EtcdServer, certificates: Certificates) -> dict[str, Members]:
    """How each of them reaches etcd."""
    return {name: Members((server.endpoint,), certificates.files(name))
            for name in (*PREFIXES, "etcd-root", "operator", "n1")}


@pytest.fixture
async def ipam(members: dict[str, Members]) -> AsyncIterator[Etcd]:
    async with Etcd(members["ipam"], timeout=PATIENCE) as client:
        yield client


@pytest.mark.parametrize(("name", "place"), [("endpoint", keys.ENDPOINT_WRITER), ("policy", keys.POLICY_WRITER)])
async def test_a_service_can_be_elected_to_its_own_place(members: dict[str, Members], name: str, place: str) -> None:
    """Its lease is granted, refreshed, and ended when it goes."""
    elected, refreshed = asyncio.Event(), asyncio.Event()

    async def lead(_: Term) -> None:
        elected.set()
        await asyncio.sleep(3)  # longer than the lease
        refreshed.set()
        await asyncio.Event().wait()

    async with Etcd(members[name]) as client:
        task = asyncio.create_task(Election(client, place, "a", ttl=2).run(lead))
        async with asyncio.timeout(PATIENCE):
            await elected.wait()
            assert await client.get(place) is not None
            await refreshed.wait()
            task.cancel()
            await asyncio.wait([task])
            while await client.get(place) is not None:  # noqa: ASYNC110  another process has it
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("name", sorted(PREFIXES))
async def test_a_service_writes_and_watches_its_own_keys_and_no_others(members: dict[str, Members], name: str) -> None:
    async with Etcd(members[name], timeout=PATIENCE) as client:
        for owner, prefix in PREFIXES.items():
            key = prefix + "v1/test"
            if owner == name:
                async with client.watch(prefix) as watch:
                    changes = asyncio.ensure_future(anext(watch))
                    while not changes.done():  # the watch may begin after a write
                        await client.put(key, b"x")
                        await asyncio.wait([changes], timeout=0.1)
                    await changes
                assert (await client.range(prefix)).items
                await client.delete(key)
                continue
            for attempt in (client.put(key, b"x"), client.delete(key), client.get(key), client.range(prefix),
                            client.txn((), [Put(PREFIXES[name] + "v1/both", b"x"), Put(key, b"x")])):
                with pytest.raises(Denied, match="permission denied"):
                    await attempt
            with pytest.raises(Denied):
                await anext(client.watch(prefix))
        assert await client.get(PREFIXES[name] + "v1/both") is None, "half of a transaction is none"


@pytest.mark.parametrize("name", ["operator", "n1"])
async def test_who_is_no_user_there_may_nothing(members: dict[str, Members], name: str) -> None:
    """A certificate of the same authority is not enough."""
    async with Etcd(members[name], timeout=PATIENCE) as client:
        with pytest.raises(MuslinError):
            await client.get(keys.IPAM_CONFIG)
        with pytest.raises(MuslinError):
            await client.put(keys.IPAM_CONFIG, b"x")


async def test_plaintext_and_another_authoritys_certificate_get_no_connection(
        server: EtcdServer, tmp_path: Path) -> None:
    others = Certificates(tmp_path / "others")
    for stranger in (Members((server.endpoint,)), Members((server.endpoint,), others.files("ipam"))):
        async with Etcd(stranger, timeout=1.0) as client:
            with pytest.raises(Unavailable):
                await client.get(keys.IPAM_CONFIG)


async def test_leases_and_the_rest_of_python_etcd3_go_over_tls_too(ipam: Etcd) -> None:
    assert (await ipam.status()).version
    lease = await ipam.lease(60)
    await ipam.put(keys.IPAM + "v1/leased", b"x", lease.id)
    await lease.revoke()
    assert await ipam.get(keys.IPAM + "v1/leased") is None


async def test_repeating_changes_nothing_and_undoes_what_was_granted_besides(members: dict[str, Members]) -> None:
    assert await set_up(members["etcd-root"]) == []
    files = members["etcd-root"].tls
    assert files
    credentials = grpc.ssl_channel_credentials(files.authority.read_bytes(), files.key.read_bytes(),
                                               files.certificate.read_bytes())
    async with grpc.aio.secure_channel(members["etcd-root"].endpoints[0], credentials) as channel:
        stub: rpc.AuthAsyncStub = rpc.AuthStub(channel)
        await stub.RoleGrantPermission(pb.AuthRoleGrantPermissionRequest(name="ipam", perm=auth_pb2.Permission(
            permType=auth_pb2.Permission.READWRITE, key=b"/muslin/policy/", range_end=b"/muslin/policy0")),
            timeout=PATIENCE)
        await stub.UserGrantRole(pb.AuthUserGrantRoleRequest(user="ipam", role="policy"), timeout=PATIENCE)
    assert await set_up(members["etcd-root"]) == [
        "role ipam: no longer for /muslin/policy/", "user ipam: no longer has role policy"]
    assert await set_up(members["etcd-root"]) == []


async def test_only_roots_certificate_may_set_up_again(members: dict[str, Members]) -> None:
    with pytest.raises(Denied):
        await set_up(members["ipam"])
    with pytest.raises(FailedPrecondition, match="--etcd-cert"):
        await set_up(Members(("127.0.0.1:1",)))


async def test_new_certificates_are_taken_while_a_watch_and_calls_go_on(
        tmp_path: Path, certificates: Certificates) -> None:
    """Of another authority, so that with the old ones nothing would work; etcd is restarted with only those."""
    own, later = Certificates(tmp_path / "own"), Certificates(tmp_path / "later")
    with EtcdServer(name="etcd1", tls=own.files("etcd1")) as server:
        await set_up(Members((server.endpoint,), own.files("etcd-root")))
        async with Etcd(Members((server.endpoint,), own.files("ipam"))) as client:
            key = keys.IPAM + "v1/test"
            revision = await client.put(key, b"before")
            assert (await client.status()).version
            watch = client.watch(keys.IPAM, revision + 1)
            for name in ("etcd1", "ipam"):
                for file in ("ca.crt", "tls.key", "tls.crt"):
                    (own.folder / name / file).write_bytes((later.folder / name / file).read_bytes())
            await asyncio.to_thread(server.restart)
            async with asyncio.timeout(PATIENCE):
                while True:  # as long as the old connection is being given up
                    try:
                        await client.put(key, b"after")
                        break
                    except MuslinError:
                        await asyncio.sleep(0.1)
                assert [event.value for event in (await anext(watch)).events] == [b"after"]
            assert (await client.status()).version
            await watch.aclose()


@pytest.mark.parametrize("endpoint", ["etcd1:2379", "10.0.0.1:2379"])
def test_plaintext_does_not_leave_this_host(endpoint: str, certificates: Certificates) -> None:
    with pytest.raises(InvalidArgument, match="plaintext is for this host only; give --etcd-cert"):
        Members((endpoint,))
    assert Members((endpoint,), certificates.files("ipam")).endpoints == (endpoint,)


def test_the_scheme_must_fit(certificates: Certificates) -> None:
    files = certificates.files("ipam")
    assert Members(("https://etcd1:2379",), files).endpoints
    with pytest.raises(InvalidArgument, match="plaintext"):
        Members(("http://etcd1:2379",), files)
    with pytest.raises(Unsupported, match="--etcd-cert"):
        Members(("https://127.0.0.1:2379",))
    assert Members.of(["a:1,b:2", "c:3"], files).endpoints == ("a:1", "b:2", "c:3")
