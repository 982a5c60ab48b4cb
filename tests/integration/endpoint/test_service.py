"""The service as its callers see it: the CNI verbs, records and pods."""

from __future__ import annotations

import asyncio

import pytest

from muslin.cni.invocation import Invocation
from muslin.errors import Corrupt, InvalidArgument, NotFound
from muslin.etcd import Etcd, keys
from muslin.etcd.mirror import Mirror
from services.endpoint.attachments import Attachments
from services.endpoint.store import Store
from tests.integration.endpoint.clients import CONF, Client, attachment, call, pod
from tests.support.etcd import EtcdServer
from tests.support.service import Service


async def test_the_chain_s_verbs(client: Client) -> None:
    """ADD stores the record and hands the interface's name on; DEL removes it, once and again."""
    await client.apply(pod(labels={"app": "web"}, service_account="runner"))
    handed_on = await client.add(call(1))
    assert handed_on == await client.add(call(1)), "repeating it gives the same"
    record = await client.get(1)
    assert (record.host_interface, record.mac) == (handed_on.host_interface, handed_on.mac)
    assert record.host_interface.startswith("cali")
    assert handed_on.profiles == ("k8s_ns.prod",)
    assert dict(record.labels) == {"app": "web", "calico/k8s_ns": "prod"}
    assert (record.node, record.workload, record.service_account) == ("worker", "prod.web", "runner")
    assert (list(record.addresses), list(record.profiles)) == (["10.0.0.1"], ["k8s_ns.prod"])
    await client.delete(call(1, netns="", result=b"", context=b""))
    await client.delete(call(1))
    with pytest.raises(NotFound, match="net/c1/eth0"):
        await client.get(1)


async def test_a_late_del_of_the_old_sandbox_leaves_the_new_one(client: Client) -> None:
    await client.add(call(1))
    await client.add(call(2))
    await client.delete(call(1))
    assert (await client.get(2)).workload == "prod.web"
    await client.delete(call(2, ifname="eth1"))
    assert (await client.get(2)).attachment == attachment(2)


async def test_lists_are_filtered_and_sorted(client: Client) -> None:
    for number, node in ((3, "a"), (1, "b"), (2, "a")):
        await client.add(call(number, pod=f"p{number}"), node)
    await client.add(call(4, args=""), "b")
    everything = await client.list()
    assert [e.attachment.container_id for e in everything.endpoints] == ["c1", "c2", "c3", "c4"]
    assert everything.revision >= max(e.revision for e in everything.endpoints)
    assert {e.attachment.container_id for e in (await client.list(node="a")).endpoints} == {"c2", "c3"}
    assert {e.attachment.container_id for e in (await client.list(namespace="prod", node="b")).endpoints} == {"c1"}


@pytest.mark.parametrize(("bad", "error", "named"), [
    (call(1, config=CONF | {"cniVersion": "9.9.9"}), InvalidArgument, "cniVersion"),
    (call(1, result=b""), InvalidArgument, "address"),
    (call(1, context=b"{"), Corrupt, "context"),
    (call(1, ifname="a/b"), InvalidArgument, "CNI_IFNAME"),
])
async def test_a_bad_call_stores_nothing(client: Client, bad: object, error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        await client.add(bad)  # type: ignore[arg-type]  # a Call; parametrize does not say
    assert not (await client.list()).endpoints


async def test_records_follow_their_pods(client: Client) -> None:
    """What was applied is in the records when the call returns; forgetting a pod leaves them."""
    await client.add(call(1))
    await client.add(call(2))
    await client.add(call(3, pod="other"))
    assert dict((await client.get(1)).labels) == {"calico/k8s_ns": "prod"}
    port = {"name": "http", "protocol": "TCP", "port": 80}
    await client.apply(pod(labels={"v": "1"}, service_account="runner", ports=[port]), pod("unrelated"))
    for number in (1, 2):
        record = await client.get(number)
        assert (record.labels["v"], record.service_account, record.ports[0].port) == ("1", "runner", 80)
    assert "v" not in (await client.get(3)).labels
    before = (await client.get(1)).revision
    await client.apply(pod(labels={"v": "1"}, service_account="runner", ports=[port]))
    assert (await client.get(1)).revision == before, "applying the same again writes nothing"
    assert [p.name for p in await client.pods()] == ["unrelated", "web"]
    await client.forget("web", "never-known")
    assert [p.name for p in await client.pods()] == ["unrelated"]
    assert (await client.get(1)).labels["v"] == "1"


async def test_many_pods_at_once(client: Client) -> None:
    """More than one transaction takes, of records and of pods."""
    await asyncio.gather(*(client.add(call(n, pod=f"p{n % 90}")) for n in range(180)))
    await client.apply(*(pod(f"p{n}", labels={"n": str(n)}) for n in range(90)))
    for record in (await client.list()).endpoints:
        assert record.labels["n"] == record.pod.removeprefix("p")


async def test_a_pod_and_its_endpoint_at_the_same_moment(replicas: list[Service]) -> None:
    """Applied through one process while its container is added through the other: the labels are there in the end."""
    async with Client(replicas[0].target) as one, Client(replicas[1].target) as other:
        for turn in range(4):
            await asyncio.gather(
                *(one.add(call(n, pod=f"p{n}")) for n in range(20)),
                *(other.apply(pod(f"p{n}", labels={"turn": str(turn)})) for n in range(20)))
            for number in range(20):
                assert (await other.get(number)).labels["turn"] == str(turn)


async def test_a_process_whose_copy_is_old_does_not_store_old_labels(etcd: EtcdServer, client: Client) -> None:
    """It stopped following after its first look; the pod, and a container's record, have changed since."""
    await client.apply(pod(labels={"v": "1"}))
    async with Etcd([etcd.endpoint]) as raw:
        mirror = Mirror(raw, keys.ENDPOINT)
        store = Store(raw, mirror)
        following = asyncio.create_task(mirror.run())
        await mirror.ready.wait()
        following.cancel()
        await client.apply(pod(labels={"v": "2"}))
        attachments, invocation = Attachments(store), Invocation.parse(call(1), "worker")
        assert (await attachments.add(invocation)).labels["v"] == "2"
        assert (await client.get(1)).labels["v"] == "2"
        assert await attachments.delete("net", "c1", "eth0")
        assert not await attachments.delete("net", "c1", "eth0")
        assert not (await client.list()).endpoints


async def test_what_a_process_that_died_left_undone_is_done_by_another(etcd: EtcdServer, client: Client) -> None:
    """A pod was written and its records were not: they follow all the same."""
    await client.apply(pod(labels={"v": "1"}))
    await client.add(call(1))
    async with Etcd([etcd.endpoint]) as store:
        record = await store.get(keys.pod("prod", "web"))
        assert record is not None
        await store.put(record.key, record.value.replace(b'"v":"1"', b'"v":"2"'))
    async with asyncio.timeout(5):
        async for response in client.watch():
            if any(change.endpoint.labels["v"] == "2" for change in response.changes):
                break


async def test_damaged_records_do_not_stop_the_service(etcd: EtcdServer, client: Client) -> None:
    await client.add(call(1))
    await client.add(call(2))
    async with Etcd([etcd.endpoint]) as store:
        await store.put(keys.endpoint("net", "c1", "eth0"), b"\x00garbage")
        await store.put(keys.ENDPOINTS + "nonsense", b"{}")
        await store.put(keys.pod("prod", "web"), b"[]")
    assert [e.attachment.container_id for e in (await client.list()).endpoints] == ["c2"]
    assert list(await client.pods()) == []
    with pytest.raises(Corrupt):
        await client.get(1)
    await client.add(call(3))
    await client.delete(call(1))
    with pytest.raises(NotFound):
        await client.get(1)
