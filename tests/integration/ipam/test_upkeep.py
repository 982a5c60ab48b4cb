"""Upkeep with real processes: etcd, the address manager, the endpoint service."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass

import pytest

from muslin import rpc
from muslin.api.cni.v1 import cni_pb2
from muslin.api.ipam.v1 import ipam_pb2
from muslin.errors import Corrupt, FailedPrecondition, InvalidArgument
from muslin.etcd import Etcd, keys
from tests.integration.endpoint import clients as endpoint_clients
from tests.integration.ipam import clients as ipam_clients
from tests.integration.ipam.clients import attachment, identity
from tests.support import ipam_invariants
from tests.support.etcd import EtcdServer
from tests.support.service import Service

Kind = ipam_pb2.Problem.Kind

CONF = {"name": "net", "type": "calico", "ipam": {"type": "calico-ipam"}, "policy": {"type": "k8s"}}


@dataclass
class World:
    etcd: Etcd
    ipam: ipam_clients.Client
    endpoint: endpoint_clients.Client
    endpoint_service: Service

    async def attach(self, number: int, node: str = "n1") -> str:
        """What a chain's ADD does here: an address, then the record."""
        address = await self.ipam.assign(number, node)
        await self.record(number, address, node)
        return address

    async def record(self, number: int, address: str, node: str = "n1") -> None:
        result = json.dumps({"cniVersion": "0.1.0", "ip4": {"ip": f"{address}/32"}}).encode()
        call = endpoint_clients.call(number, f"p{number}", CONF, result=result)
        await endpoint_clients.persist(lambda: self.endpoint.add(call, node))

    async def collect(self, dry_run: bool = False) -> list[ipam_pb2.Finding]:
        with rpc.translated("collect"):
            answer = await self.ipam.ipam.Collect(ipam_pb2.CollectRequest(dry_run=dry_run), timeout=20)
        return list(answer.findings)

    async def check(self) -> ipam_pb2.Report:
        with rpc.translated("check"):
            return (await self.ipam.ipam.Check(ipam_pb2.CheckRequest(), timeout=20)).report

    async def release(self, report: ipam_pb2.Report) -> ipam_pb2.ReleaseReportedResponse:
        with rpc.translated("release reported"):
            return await self.ipam.ipam.ReleaseReported(ipam_pb2.ReleaseReportedRequest(report=report), timeout=20)

    async def rebuild(self, dry_run: bool = False) -> list[str]:
        with rpc.translated("rebuild"):
            answer = await self.ipam.ipam.Rebuild(ipam_pb2.RebuildRequest(dry_run=dry_run), timeout=20)
        return list(answer.actions)

    async def gc(self, valid: object, node: str = "n1", key: str = "cni.dev/valid-attachments") -> None:
        config = {**CONF, "cniVersion": "1.1.0", key: valid}
        call = cni_pb2.Call(config=json.dumps(config).encode())
        with rpc.translated("GC"):
            await self.ipam.plugin.GC(cni_pb2.GCRequest(call=call), timeout=10, metadata=(("muslin-node", node),))

    async def held(self) -> set[str]:
        """Identities of all handles."""
        return {"/".join(keys.parse_handle(item.key)) for item in (await self.etcd.range(keys.IPAM_HANDLES)).items}


@pytest.fixture(scope="module")
def processes() -> Iterator[tuple[EtcdServer, Service, Service]]:
    with ExitStack() as stack:
        server = stack.enter_context(EtcdServer())
        endpoint = stack.enter_context(Service("endpoint", "--etcd", server.endpoint))
        ipam = stack.enter_context(Service(
            "ipam", "--etcd", server.endpoint, "--endpoint", endpoint.target, "--collect-interval", "0.3",
            "--collect-grace", "1"))
        yield server, ipam, endpoint


@pytest.fixture(scope="module")
def by_hand(processes: tuple[EtcdServer, Service, Service]) -> Iterator[Service]:
    """A second address manager on the same store, that collects only when it is asked to."""
    server, _, endpoint = processes
    with Service("ipam", "--etcd", server.endpoint, "--endpoint", endpoint.target, "--collect-interval", "0",
                 "--collect-grace", "3600") as service:
        yield service


async def _world(stack: AsyncExitStack, server: EtcdServer, ipam: Service, endpoint: Service) -> World:
    store = await stack.enter_async_context(Etcd([server.endpoint]))
    for prefix in (keys.IPAM_HANDLES, keys.IPAM_BLOCKS, keys.IPAM_AFFINITIES, keys.ENDPOINTS):
        for record in (await store.range(prefix)).items:
            await store.delete(record.key)
    return World(store, await stack.enter_async_context(ipam_clients.Client(ipam.target)),
                 await stack.enter_async_context(endpoint_clients.Client(endpoint.target)), endpoint)


@pytest.fixture
async def world(processes: tuple[EtcdServer, Service, Service]) -> AsyncIterator[World]:
    """With an address manager that collects every moment."""
    server, ipam, endpoint = processes
    async with AsyncExitStack() as stack:
        yield await _world(stack, server, ipam, endpoint)


@pytest.fixture
async def quiet(processes: tuple[EtcdServer, Service, Service], by_hand: Service) -> AsyncIterator[World]:
    """With one that does nothing by itself; the other one is frozen meanwhile."""
    server, ipam, endpoint = processes
    ipam.kill()
    async with AsyncExitStack() as stack:
        yield await _world(stack, server, by_hand, endpoint)
    ipam.start()


async def until(holds: Callable[[], Awaitable[bool]], seconds: float = 15) -> None:
    """Wait for what the services do by themselves, in their own time: there is no event to wait for."""
    async with asyncio.timeout(seconds):
        while not await holds():  # noqa: ASYNC110  see above
            await asyncio.sleep(0.05)


class TestCollector:
    async def test_a_leak_is_collected_after_the_grace_period_and_what_lives_never(self, world: World) -> None:
        live = {number: await world.attach(number) for number in range(5)}
        for number in range(5, 10):
            await world.ipam.assign(number)  # its ADD never went on

        async def only_live() -> bool:
            return await world.held() == {identity(number) for number in live}

        await until(only_live)
        await asyncio.sleep(2)  # several more rounds
        await ipam_invariants.check(world.etcd, {identity(number): address for number, address in live.items()})

    async def test_nothing_is_freed_while_the_endpoint_service_is_away(self, world: World) -> None:
        """Not knowing who is alive is not the same as nobody being alive."""
        await world.attach(1)
        world.endpoint_service.kill()
        try:
            await world.ipam.assign(2)
            await asyncio.sleep(3)  # many rounds, and longer than grace and interval
            assert await world.held() == {identity(1), identity(2)}
            with pytest.raises(FailedPrecondition, match="endpoint"):
                await world.collect()
            with pytest.raises(FailedPrecondition, match="endpoint"):
                await world.check()
        finally:
            world.endpoint_service.start()

        async def leak_is_gone() -> bool:
            return await world.held() == {identity(1)}

        await until(leak_is_gone)

    async def test_nothing_is_freed_while_the_endpoint_service_is_frozen(self, world: World) -> None:
        """Its watch is open and silent, as if nothing happened; only asking it anew tells."""
        await world.attach(1)
        os.kill(world.endpoint_service.pid, signal.SIGSTOP)
        try:
            await world.ipam.assign(2)
            await asyncio.sleep(3)  # many rounds, and longer than grace and interval
            assert await world.held() == {identity(1), identity(2)}
        finally:
            os.kill(world.endpoint_service.pid, signal.SIGCONT)

        async def leak_is_gone() -> bool:
            return await world.held() == {identity(1)}

        await until(leak_is_gone, 30)

    async def test_several_collectors_at_once_do_no_harm(
            self, world: World, processes: tuple[EtcdServer, Service, Service]) -> None:
        server, _, endpoint = processes
        with Service("ipam", "--etcd", server.endpoint, "--endpoint", endpoint.target, "--collect-interval", "0.3",
                     "--collect-grace", "1"):
            live = {number: await world.attach(number, f"n{number % 3}") for number in range(6)}
            await asyncio.gather(*(world.ipam.assign(number, f"n{number % 3}") for number in range(10, 40)))

            async def only_live() -> bool:
                return await world.held() == {identity(number) for number in live}

            await until(only_live)
            await ipam_invariants.check(world.etcd, {identity(number): address for number, address in live.items()})

    async def test_an_endpoint_record_that_does_not_decode_still_protects_its_address(self, world: World) -> None:
        await world.attach(1)
        await world.etcd.put(keys.endpoint("net", "c1", "eth0"), b"\xff")
        await world.ipam.assign(2)

        async def leak_is_gone() -> bool:
            return identity(2) not in await world.held()

        await until(leak_is_gone)
        await asyncio.sleep(1)  # several more rounds
        assert await world.held() == {identity(1)}

    async def test_a_handle_without_an_address_is_collected(self, world: World) -> None:
        await world.attach(1)
        key = keys.handle("net", "c9", "eth0")
        await world.etcd.put(key, json.dumps({"network": "net", "container_id": "c9", "ifname": "eth0",
                                              "node": "n1"}).encode())
        cidr = (await world.ipam.blocks())[0].cidr
        nonsense = keys.handle("net", "c8", "eth0")
        await world.etcd.put(nonsense, json.dumps({
            "network": "net", "container_id": "c8", "ifname": "eth0", "node": "n1",
            "addresses": [{"address": "nonsense", "block": cidr, "sequence": 1}]}).encode())

        async def gone() -> bool:
            return await world.etcd.get(key) is None and await world.etcd.get(nonsense) is None

        await until(gone)
        assert await world.held() == {identity(1)}

    async def test_a_node_keeps_its_last_block_when_it_is_empty(self, world: World) -> None:
        await world.ipam.assign(1)
        await world.ipam.release(1)
        await asyncio.sleep(2)
        assert len(await world.ipam.blocks("n1")) == 1

    async def test_a_dry_run_frees_nothing_and_says_what_it_would(self, quiet: World) -> None:
        await quiet.ipam.assign(1)
        findings: list[ipam_pb2.Finding] = []

        async def told() -> bool:  # once it has heard that what an earlier test attached is gone
            findings[:] = [finding for finding in await quiet.collect(dry_run=True) if finding.HasField("handle")]
            return bool(findings)

        await until(told)
        found, = findings
        assert found.handle.attachment == attachment(1)
        assert "grace" in found.reason
        assert not found.freed
        assert await quiet.held() == {identity(1)}


class TestGC:
    async def test_it_frees_what_the_runtime_does_not_list_of_this_node(self, quiet: World) -> None:
        for number, node in ((1, "n1"), (2, "n1"), (3, "n2")):
            await quiet.ipam.assign(number, node)
        await quiet.gc([{"containerID": "c1", "ifname": "eth0"}])
        assert await quiet.held() == {identity(1), identity(3)}

    async def test_the_older_key_counts_too_and_an_empty_list_frees_all_of_the_node(self, quiet: World) -> None:
        await quiet.ipam.assign(1, "n1")
        await quiet.ipam.assign(2, "n2")
        await quiet.gc([], key="cni.dev/attachments")
        assert await quiet.held() == {identity(2)}

    async def test_a_missing_list_frees_nothing(self, quiet: World) -> None:
        await quiet.ipam.assign(1)
        await quiet.gc([], key="something.else")
        await quiet.gc(None)
        assert await quiet.held() == {identity(1)}

    async def test_a_list_that_can_not_be_read_frees_nothing(self, quiet: World) -> None:
        await quiet.ipam.assign(1)
        with pytest.raises(InvalidArgument, match=r"valid-attachments\[0\]"):
            await quiet.gc(["c1"])
        assert await quiet.held() == {identity(1)}

    async def test_one_that_can_not_be_freed_does_not_keep_the_others(self, quiet: World) -> None:
        await quiet.ipam.assign(1, "n1")
        await quiet.ipam.create_pool("other", "10.9.0.0/24")
        try:
            await quiet.ipam.assign(2, "n1")
            key = keys.handle("net", "c3", "eth0")
            await quiet.etcd.put(key, json.dumps({
                "network": "net", "container_id": "c3", "ifname": "eth0", "node": "n1",
                "addresses": [{"address": "10.9.0.1", "block": "10.9.0.0/26", "sequence": 1}]}).encode())
            await quiet.etcd.put(keys.block("10.9.0.0/26"), b"{")
            with pytest.raises(Corrupt, match="c3"):
                await quiet.gc([])
            assert await quiet.held() == {"net/c3/eth0"}
        finally:
            for left in (keys.handle("net", "c3", "eth0"), keys.block("10.9.0.0/26")):
                await quiet.etcd.delete(left)
            await quiet.ipam.delete_pool("other")


class TestCheck:
    async def test_a_store_in_order_has_no_lines(self, quiet: World) -> None:
        for number in range(3):
            await quiet.attach(number)
        report = await quiet.check()
        assert list(report.problems) == []
        assert (report.allocated, report.in_use) == (3, 3)
        assert report.cluster
        assert report.revision > 0

    async def test_a_damaged_store_is_reported_line_by_line_and_rebuilt(self, quiet: World) -> None:
        live = {number: await quiet.attach(number, f"n{number % 2}") for number in range(6)}
        one, other = sorted({block.cidr for block in await quiet.ipam.blocks()})
        await quiet.etcd.put(keys.block(one), b"\xff{not json")
        await quiet.etcd.put(keys.handle("net", "c0", "eth0"), b"[]")
        spoiled = json.loads((await quiet.etcd.get(keys.block(other))).value)  # type: ignore[union-attr]  # it is there
        lost = next(iter(spoiled["held"]))
        del spoiled["held"][lost]
        spoiled["released"] = [int(lost)]
        await quiet.etcd.put(keys.block(other), json.dumps(spoiled).encode())
        await quiet.etcd.delete(keys.affinity(spoiled["node"], other))

        kinds = [line.kind for line in (await quiet.check()).problems]
        assert kinds.count(Kind.KIND_UNDECODABLE) == 2
        assert Kind.KIND_AFFINITY in kinds
        assert Kind.KIND_NOT_ALLOCATED in kinds or Kind.KIND_HANDLE_WITHOUT_ADDRESS in kinds
        assert Kind.KIND_NOT_IN_USE not in kinds

        assert await quiet.ipam.assign(6) not in live.values(), "nothing is given from what can not be read"
        await quiet.ipam.release(6)
        said = await quiet.rebuild(dry_run=True)
        assert said
        assert (await quiet.etcd.get(keys.block(one))).value == b"\xff{not json"  # type: ignore[union-attr]  # it is there
        assert await quiet.rebuild() == said
        assert list((await quiet.check()).problems) == []
        await ipam_invariants.check(quiet.etcd, {identity(number): address for number, address in live.items()})
        kept = [item.value for item in (await quiet.etcd.range(keys.IPAM_QUARANTINE)).items]
        assert b"\xff{not json" in kept
        assert b"[]" in kept
        assert await quiet.rebuild() == []
        assert await quiet.ipam.assign(7) not in live.values()

    async def test_releasing_from_a_report_frees_leaks_only(self, quiet: World) -> None:
        await quiet.attach(1)
        await quiet.ipam.assign(2)
        await quiet.ipam.assign(3)
        for number in (2, 3):  # they were assigned long ago
            key = keys.handle("net", f"c{number}", "eth0")
            handle = json.loads((await quiet.etcd.get(key)).value)  # type: ignore[union-attr]  # it is there
            await quiet.etcd.put(key, json.dumps({**handle, "created_ms": handle["created_ms"] - 7_200_000}).encode())
        report = await quiet.check()
        assert [line.kind for line in report.problems] == [Kind.KIND_NOT_IN_USE] * 2
        await quiet.record(3, next(line.subject for line in report.problems if line.handle == identity(3)))
        answer = await quiet.release(report)
        assert [line.handle for line in answer.skipped] == [identity(3)]
        assert len(answer.addresses) == 1
        assert await quiet.held() == {identity(1), identity(3)}
        assert list((await quiet.check()).problems) == []

    async def test_a_stale_report_is_refused(self, quiet: World) -> None:
        await quiet.attach(1)
        report = await quiet.check()
        nonsense = ipam_pb2.Problem(kind=Kind.KIND_ADDRESS_WITHOUT_HANDLE, subject="x", handle="y")
        made_up = ipam_pb2.Report(cluster=report.cluster, revision=report.revision, created_ms=report.created_ms,
                                  problems=[nonsense])
        assert list((await quiet.release(made_up)).skipped) == [nonsense]
        for change in ({"cluster": "another"}, {"created_ms": report.created_ms - 1_000_000},
                       {"revision": report.revision + 1_000_000}, {"revision": 0}):
            stale = ipam_pb2.Report()
            stale.CopyFrom(report)
            for field, value in change.items():
                setattr(stale, field, value)
            with pytest.raises(FailedPrecondition):
                await quiet.release(stale)

    async def test_a_rebuild_while_others_assign_and_release_takes_nothing_from_anybody(self, quiet: World) -> None:
        live = {number: await quiet.attach(number) for number in range(4)}
        cidr = (await quiet.ipam.blocks())[0].cidr
        stop = asyncio.Event()

        async def churn(first: int) -> dict[int, str]:
            mine: dict[int, str] = {}
            number = first
            while not stop.is_set():
                number += 10
                mine[number] = await quiet.attach(number, f"n{first % 3}")
                if len(mine) > 5:
                    gone = next(iter(mine))
                    del mine[gone]
                    await quiet.endpoint.delete(endpoint_clients.call(gone, f"p{gone}", CONF))
                    await quiet.ipam.release(gone)
            return mine

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(churn(first)) for first in range(100, 104)]
            for _ in range(3):
                await quiet.etcd.put(keys.block(cidr), b"damaged")
                await quiet.rebuild()
                await asyncio.sleep(0.2)
            stop.set()
        for task in tasks:
            live |= task.result()
        assert await quiet.rebuild() == []
        await ipam_invariants.check(quiet.etcd, {identity(number): address for number, address in live.items()})
        assert list((await quiet.check()).problems) == []
