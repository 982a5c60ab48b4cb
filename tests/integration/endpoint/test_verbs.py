"""CHECK, GC and STATUS of the chain, for records."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from muslin.errors import Conflict, Corrupt, FailedPrecondition, InvalidArgument, MuslinError, NotFound, Unavailable
from muslin.etcd import Etcd, keys
from services.endpoint import bulk
from services.endpoint.attachments import Attachments
from services.endpoint.store import Store
from tests.integration.endpoint.clients import CONF, Client, call, persist
from tests.support.etcd import EtcdServer
from tests.support.service import Service

VALID, OLDER = "cni.dev/valid-attachments", "cni.dev/attachments"


def listed(*numbers: int) -> list[dict[str, str]]:
    return [{"containerID": f"c{number}", "ifname": "eth0"} for number in numbers]


async def left(client: Client) -> list[str]:
    return [e.attachment.container_id for e in (await client.list()).endpoints]


class TestCheck:
    async def answered(self, client: Client) -> dict[str, Any]:
        """What the whole chain answers to the ADD of container 1, a chained plugin's interface included."""
        context = await client.add(call(1))
        return {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.1/32", "interface": 1},
                                               {"address": "172.16.0.9/24", "interface": 2}],
                "interfaces": [{"name": context.host_interface, "mac": "ee:ee:ee:ee:ee:ee"},
                               {"name": "eth0", "mac": context.mac.upper(), "sandbox": "/run/netns/x"},
                               {"name": "other", "mac": "00:00:00:00:00:01", "sandbox": "/run/netns/x"}]}

    async def check(self, client: Client, previous: object, node: str = "worker", **fields: Any) -> None:
        config = CONF | {"cniVersion": "1.0.0", "prevResult": previous}
        await client.check(call(1, config=config, result=b"", context=b"", **fields), node)

    async def test_as_add_left_it(self, client: Client) -> None:
        await self.check(client, await self.answered(client))

    async def test_what_differs_is_said(self, client: Client) -> None:
        """Address, MAC address, both interfaces; all at once."""
        answered = await self.answered(client)
        answered["ips"][0]["address"] = "10.0.0.2/32"
        answered["interfaces"][0]["name"] = "calix"
        answered["interfaces"][1]["mac"] = "00:00:00:00:00:02"
        with pytest.raises(FailedPrecondition) as caught:
            await self.check(client, answered)
        for part in ("record has 10.0.0.1, prevResult", "prevResult has 10.0.0.2, the", "mac:", "host interface: "):
            assert part in caught.value.message
        answered["interfaces"][1]["name"] = "eth7"
        with pytest.raises(FailedPrecondition, match="prevResult has no eth0 in a sandbox"):
            await self.check(client, answered)

    async def test_a_record_that_is_gone_another_s_or_of_another_node(self, client: Client) -> None:
        answered = await self.answered(client)
        with pytest.raises(FailedPrecondition, match="node: the record says worker, this is other"):
            await self.check(client, answered, "other")
        with pytest.raises(NotFound):
            await self.check(client, answered, container_id="c2")
        await client.delete(call(1))
        with pytest.raises(NotFound, match="net/c1/eth0 has no endpoint"):
            await self.check(client, answered)

    async def test_a_record_that_was_damaged(self, etcd: EtcdServer, client: Client) -> None:
        answered = await self.answered(client)
        async with Etcd([etcd.endpoint]) as store:
            await store.put(keys.endpoint("net", "c1", "eth0"), b"{")
        with pytest.raises(Corrupt):
            await self.check(client, answered)

    @pytest.mark.parametrize(("previous", "error"), [(None, InvalidArgument), ({}, InvalidArgument),
                                                     ({"ips": [{}]}, Corrupt), ("x", InvalidArgument)])
    async def test_without_a_result_to_compare_with(self, client: Client, previous: object, error: type[MuslinError],
                                                    ) -> None:
        await client.add(call(1))
        with pytest.raises(error):
            await self.check(client, previous)


class TestCollect:
    @pytest.fixture(autouse=True)
    async def records(self, client: Client) -> None:
        """Three on this node, one on another, one on another network."""
        await client.add(call(1))
        await client.add(call(2))
        await client.add(call(3))
        await client.add(call(4), "other")
        await client.add(call(5, config=CONF | {"name": "second"}))

    @pytest.mark.parametrize("key", [VALID, OLDER])
    async def test_what_is_not_listed_goes(self, client: Client, key: str) -> None:
        """Of this node and this network only."""
        await client.collect(CONF | {key: listed(2)})
        assert await left(client) == ["c2", "c4", "c5"]
        await client.collect(CONF | {key: listed(2)})
        assert await left(client) == ["c2", "c4", "c5"]

    async def test_both_keys_count_together(self, client: Client) -> None:
        await client.collect(CONF | {VALID: listed(1), OLDER: listed(3)})
        assert await left(client) == ["c1", "c3", "c4", "c5"]

    async def test_another_interface_of_a_listed_container_goes(self, client: Client) -> None:
        await client.add(call(1, ifname="eth1"))
        await client.collect(CONF | {VALID: listed(1, 2, 3)})
        assert len(await left(client)) == 5

    @pytest.mark.parametrize("extra", [{}, {VALID: None}])
    async def test_a_missing_list_frees_nothing(self, client: Client, extra: dict[str, Any]) -> None:
        await client.collect(CONF | extra)
        assert len(await left(client)) == 5

    async def test_an_empty_list_frees_all(self, client: Client) -> None:
        await client.collect(CONF | {VALID: []})
        assert await left(client) == ["c4", "c5"]

    async def test_a_list_that_is_none_frees_nothing(self, client: Client) -> None:
        with pytest.raises(InvalidArgument, match="valid-attachments"):
            await client.collect(CONF | {VALID: [{"containerID": "c1"}]})
        assert len(await left(client)) == 5

    async def test_an_error_does_not_keep_the_others(self, client: Client, store: Store,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
        """Of more records than go at once the first ones can not be removed; the rest is, and the error says so."""
        await asyncio.gather(*(client.add(call(n, pod=f"p{n}")) for n in range(100, 200)))
        await store.current(10)
        delete, turns = bulk.delete, 0

        async def failing_once(to: Store, some: Sequence[str]) -> None:
            nonlocal turns
            turns += 1
            if turns == 1:
                raise Unavailable("not now")
            await delete(to, some)

        monkeypatch.setattr(bulk, "delete", failing_once)
        with pytest.raises(Unavailable, match=f"{bulk.AT_ONCE} of 103 records were not removed, .* not now"):
            await Attachments(store).collect("net", "worker", frozenset(), 10)
        assert len(await left(client)) == bulk.AT_ONCE + 2
        await Attachments(store).collect("net", "worker", frozenset(), 10)
        assert await left(client) == ["c4", "c5"]


class TestStatus:
    async def test_ready(self, client: Client) -> None:
        await client.status()
        with pytest.raises(InvalidArgument, match="name"):
            await client.status({"type": "muslin"})

    async def test_without_the_store(self) -> None:
        """What is known is told at once, also while etcd is frozen and answers nobody."""
        with EtcdServer() as etcd, Service("endpoint", "--etcd", etcd.endpoint) as service:
            async with Client(service.target) as client:
                etcd.freeze()
                try:
                    await client.status()
                finally:
                    etcd.kill()

                async def unavailable() -> None:
                    try:
                        await client.status()
                    except Unavailable as problem:
                        assert "the store is lost" in problem.message  # noqa: PT017  raised by the persistence below
                        return
                    raise Conflict("not noticed yet")

                await persist(unavailable)
                await asyncio.to_thread(etcd.start)
                await persist(client.status)
