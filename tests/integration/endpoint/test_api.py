"""Records made, listed, changed, deleted and given back by other ways than the chain's."""

from __future__ import annotations

import asyncio

import pytest

from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.errors import (
    AlreadyExists,
    Compacted,
    Conflict,
    Denied,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from muslin.etcd import Etcd, keys
from tests.integration.endpoint.clients import Client, attachment, call, pod
from tests.support.etcd import EtcdServer
from tests.support.service import Service

PLAIN = {"name": "net", "type": "muslin"}


def record(number: int, **fields: object) -> endpoint_pb2.WorkloadEndpoint:
    """What a node knows of pod `web` in container `cNUMBER`."""
    base: dict[str, object] = {
        "attachment": attachment(number), "node": "worker", "namespace": "prod", "pod": "web",
        "addresses": [f"10.0.0.{number}"], "profiles": ["k8s_ns.prod"], "host_interface": f"cali{number}",
        "mac": "0A:00:00:00:00:01", "netns": "/run/netns/x"}
    return endpoint_pb2.WorkloadEndpoint(**(base | fields))  # type: ignore[arg-type]  # the fields' own types


def names(records: object) -> list[str]:
    return [item.attachment.container_id for item in records]  # type: ignore[attr-defined]  # repeated field


class TestCreate:
    async def test_is_stored_with_what_follows_from_its_names(self, client: Client) -> None:
        await client.apply(pod(labels={"v": "1"}))
        made = await client.create(record(1))
        assert (made.orchestrator, made.workload, made.mac) == ("k8s", "prod.web", "0a:00:00:00:00:01")
        assert dict(made.labels) == {"v": "1", "calico/k8s_ns": "prod"}
        assert await client.get(1) == made

    async def test_never_overwrites_and_shares_no_address(self, client: Client) -> None:
        made = await client.create(record(1))
        with pytest.raises(AlreadyExists, match="net/c1/eth0 has an endpoint already"):
            await client.create(record(1, addresses=["10.0.0.9"]))
        with pytest.raises(AlreadyExists, match=r"10\.0\.0\.1 is held by net/c1/eth0"):
            await client.create(record(2, addresses=["10.0.0.1"]))
        assert list((await client.list()).endpoints) == [made]
        await client.remove(1)
        await client.create(record(2, addresses=["10.0.0.1"]))

    @pytest.mark.parametrize(("fields", "named"), [
        ({"addresses": []}, "endpoint.addresses"), ({"addresses": ["10.0.0"]}, r"endpoint.addresses\[0\]"),
        ({"host_interface": ""}, "endpoint.host_interface"), ({"mac": "x"}, "endpoint.mac"),
        ({"pod": ""}, "namespace and pod"), ({"namespace": "A"}, "endpoint.namespace"),
        ({"attachment": None}, "endpoint.attachment.network"),
    ])
    async def test_what_can_not_be_is_refused(self, client: Client, fields: dict[str, object], named: str) -> None:
        with pytest.raises(InvalidArgument, match=named):
            await client.create(record(1, **fields))


class TestDelete:
    async def test_of_exactly_one_attachment(self, client: Client) -> None:
        await client.add(call(1))
        await client.add(call(2))
        assert await client.remove(1)
        assert not await client.remove(1)
        assert names((await client.list()).endpoints) == ["c2"], "another container of the same pod"

    async def test_only_of_what_was_looked_at(self, client: Client) -> None:
        """A record that has changed since is left alone, and so is one that was made anew."""
        await client.add(call(1))
        seen = (await client.get(1)).revision
        await client.apply(pod(labels={"v": "1"}))
        with pytest.raises(Conflict, match="look at it anew"):
            await client.remove(1, seen)
        assert await client.remove(1, (await client.get(1)).revision)
        await client.add(call(1))
        with pytest.raises(Conflict):
            await client.remove(1, seen)
        assert not await client.remove(7, seen)


class TestLabels:
    async def test_outside_kubernetes_they_are_changed(self, client: Client) -> None:
        await client.add(call(1, config=PLAIN, args=""))
        before = await client.get(1)
        made = await client.relabel(attachment(1), {"a": "1", "b": "2"})
        assert (dict(made.labels), made) == ({"a": "1", "b": "2"}, await client.get(1))
        assert made.revision > before.revision
        again = await client.relabel(attachment(1), {"a": "1"}, remove=["c"])
        assert again.revision == made.revision, "nothing was changed, nothing is written"
        with pytest.raises(Conflict):
            await client.relabel(attachment(1), {"a": "3"}, revision=before.revision)
        last = await client.relabel(attachment(1), remove=["a"], revision=made.revision)
        assert dict(last.labels) == {"b": "2"}

    async def test_a_pod_s_are_the_pod_s(self, client: Client) -> None:
        await client.add(call(1))
        with pytest.raises(FailedPrecondition, match="prod/web"):
            await client.relabel(attachment(1), {"a": "1"})
        with pytest.raises(NotFound):
            await client.relabel(attachment(2), {"a": "1"})
        with pytest.raises(InvalidArgument, match="can not be a label"):
            await client.relabel(attachment(1), {"a b": "1"})


class TestList:
    async def test_by_node_namespace_network_and_selector(self, client: Client) -> None:
        await client.apply(pod("web", labels={"app": "web", "tier": "1"}), pod("db", labels={"app": "db"}))
        await client.add(call(1), "a")
        await client.add(call(2, pod="db"), "b")
        await client.add(call(3, config={"name": "other", "type": "muslin"}, args=""), "a")

        async def found(**filters: str) -> list[str]:
            return names((await client.list(**filters)).endpoints)

        assert await found() == ["c1", "c2", "c3"]
        assert await found(node="a") == ["c1", "c3"]
        assert await found(namespace="prod", selector="app in {'web', 'x'}") == ["c1"]
        assert await found(selector="!has(tier)") == ["c2", "c3"]
        assert await found(network="other") == ["c3"]
        assert await found(network="other", selector="app == 'web'") == []
        with pytest.raises(InvalidArgument, match="selector, column 5"):
            await found(selector="app =")

    async def test_pages_show_one_revision(self, client: Client, replicas: list[Service]) -> None:
        """Whatever changes while the pages are read, and whichever process serves the next."""
        await asyncio.gather(*(client.add(call(n, pod=f"p{n}")) for n in range(10, 35)))
        expected = await client.list()
        async with Client(replicas[0].target) as other:
            page, pages = await client.list(page_size=7), []
            for through in (client, other, other, client):
                pages.append(page)
                await asyncio.gather(through.delete(call(len(pages) * 6 + 4)), through.add(call(50 + len(pages))))
                page = await through.list(page_size=7, page_token=pages[-1].next_page_token)
                if not page.next_page_token:
                    pages.append(page)
                    break
        assert [len(page.endpoints) for page in pages] == [7, 7, 7, 4]
        assert {page.revision for page in pages} == {pages[0].revision}
        assert [item for page in pages for item in page.endpoints] == list(expected.endpoints)

    async def test_pages_of_what_matches(self, client: Client) -> None:
        """Each is full, though what does not match lies between; one that ends exactly with the last has no next."""
        await asyncio.gather(*(client.add(call(n, pod=f"p{n}"), "ab"[n % 2]) for n in range(10, 22)))
        first = await client.list(node="a", page_size=3)
        second = await client.list(node="a", page_size=3, page_token=first.next_page_token)
        assert names(first.endpoints) + names(second.endpoints) == [f"c{n}" for n in range(10, 22, 2)]
        assert not second.next_page_token

    async def test_a_token_of_another_list_or_of_none_is_refused(self, client: Client) -> None:
        await asyncio.gather(*(client.add(call(n, pod=f"p{n}")) for n in range(4)))
        token = (await client.list(page_size=2)).next_page_token
        with pytest.raises(InvalidArgument, match="other filters"):
            await client.list(page_size=2, page_token=token, node="a")
        for wrong in ("x", "%%%", token[:-5], "W10"):
            with pytest.raises(InvalidArgument, match="page_token"):
                await client.list(page_size=2, page_token=wrong)

    async def test_a_revision_that_is_gone_says_so(self, etcd: EtcdServer, client: Client, replicas: list[Service],
                                                  ) -> None:
        """A process that has not served the page before asks etcd's history, which may be compacted."""
        await asyncio.gather(*(client.add(call(n, pod=f"p{n}")) for n in range(4)))
        token = (await client.list(page_size=2)).next_page_token
        await client.delete(call(1))
        etcd.compact()
        async with Client(replicas[0].target) as other:
            with pytest.raises(Compacted):
                await other.list(page_size=2, page_token=token)


class TestRestore:
    async def test_creates_what_is_absent_and_touches_nothing_else(self, client: Client) -> None:
        await client.apply(pod(labels={"v": "1"}))
        await client.add(call(1))
        there = await client.get(1)
        done = await client.restore(record(1, addresses=["10.9.9.9"]), record(2), revision=there.revision)
        assert (names(done.refused), [a.container_id for a in done.restored]) == ([], ["c2"])
        assert await client.get(1) == there
        assert (await client.get(2)).labels["v"] == "1", "the pod is known, and says more than the node"

    async def test_a_held_address_is_not_given_twice(self, client: Client) -> None:
        await client.add(call(1))
        revision = (await client.list()).revision
        done = await client.restore(record(2, addresses=["10.0.0.1"]), record(3), revision=revision)
        assert [(r.attachment.container_id, r.reason) for r in done.refused] == [
            ("c2", "address 10.0.0.1 is held by net/c1/eth0")]
        assert [a.container_id for a in done.restored] == ["c3"]
        with pytest.raises(NotFound):
            await client.get(2)

    async def test_what_was_deleted_meanwhile_does_not_come_back(self, client: Client) -> None:
        """The node saw that the record was missing, then the runtime's DEL came, then the node restores."""
        revision = (await client.list()).revision
        await client.delete(call(1))
        done = await client.restore(record(1), revision=revision)
        assert "list again" in done.refused[0].reason
        assert not (await client.list()).endpoints
        done = await client.restore(record(1), revision=(await client.list()).revision)
        assert len(done.restored) == 1, "with a later list it is not missing for that reason"

    async def test_a_node_restores_only_its_own(self, client: Client) -> None:
        revision = (await client.list()).revision
        with pytest.raises(Denied, match=r"endpoints\[1\].node is 'worker'"):
            await client.restore(record(1, node="other"), record(2), revision=revision, node="other")
        assert not (await client.list()).endpoints

    @pytest.mark.parametrize("revision", [0, 1 << 40])
    async def test_a_revision_of_another_store_restores_nothing(self, client: Client, revision: int) -> None:
        """Above all one of a store that has been replaced by an empty one."""
        with pytest.raises(InvalidArgument, match="not one of this store"):
            await client.restore(record(1), revision=revision)
        assert not (await client.list()).endpoints

    async def test_two_at_once(self, client: Client, replicas: list[Service]) -> None:
        """Both nodes' requests are for the same attachment: one record, restored once."""
        revision = (await client.list()).revision
        async with Client(replicas[0].target) as other:
            done = await asyncio.gather(*(through.restore(record(1), revision=revision)
                                          for through in (client, other) * 3))
        assert sum(len(one.restored) for one in done) == 1
        assert not any(one.refused for one in done)


class TestNode:
    async def test_ranges_are_kept(self, client: Client) -> None:
        await client.apply_node("worker", labels={"zone": "a"}, pod_cidrs=["10.1.0.0/24", "fd00::/64"])
        expected = endpoint_pb2.Node(name="worker", labels={"zone": "a"}, pod_cidrs=["10.1.0.0/24", "fd00::/64"])
        assert await client.node("worker") == expected
        assert await client.node() == expected, "the one that asks"
        with pytest.raises(NotFound, match="node other is not known"):
            await client.node(caller="other")
        with pytest.raises(InvalidArgument, match=r"nodes\[0\].pod_cidrs\[0\]"):
            await client.apply_node("worker", pod_cidrs=["10.1.0.1/24"])

    async def test_one_that_was_just_applied_through_another_process(self, client: Client, replicas: list[Service],
                                                                     ) -> None:
        async with Client(replicas[0].target) as other:
            for number in range(20):
                await other.apply_node(f"n{number}", pod_cidrs=["10.1.0.0/24"])
                assert (await client.node(f"n{number}")).pod_cidrs

    async def test_a_record_of_before_has_none(self, etcd: EtcdServer, client: Client) -> None:
        async with Etcd([etcd.endpoint]) as store:
            await store.put(keys.node("old"), b'{"name":"old","labels":{}}')
        assert not (await client.node("old")).pod_cidrs
