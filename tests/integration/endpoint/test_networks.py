"""Outside Kubernetes: profiles are networks, labels come from the configuration, and one interface is on several."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from muslin.api.cni.v1 import cni_pb2
from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.cni import context, result
from muslin.errors import FailedPrecondition, NotFound
from muslin.etcd import Etcd, keys
from tests.integration.endpoint.clients import Client, call
from tests.integration.endpoint.test_late import withheld
from tests.support.etcd import EtcdServer
from tests.support.service import Service


def plain(network: str, number: int = 1, address: str = "", labels: dict[str, str] | None = None, **extra: Any,
          ) -> cni_pb2.Call:
    """A call for container `cNUMBER` on a network, after ipam and policy."""
    listed = [{"key": key, "value": value} for key, value in (labels or {}).items()]
    config = {"cniVersion": "1.0.0", "name": network, "type": "muslin",
              "args": {"org.apache.mesos": {"network_info": {"labels": {"labels": listed}}}}} | extra
    fields: dict[str, Any] = {"args": "", "context": json.dumps({"profiles": [network]}).encode()}
    if address:
        fields["result"] = json.dumps({"cniVersion": "1.0.0", "ips": [{"address": address}]}).encode()
    return call(number, config=config, **fields)


async def records(client: Client) -> dict[str, endpoint_pb2.WorkloadEndpoint]:
    return {e.attachment.network: e for e in (await client.list()).endpoints}


async def shared(client: Client) -> list[tuple[str, list[str]]]:
    return [(network, list(record.profiles)) for network, record in (await records(client)).items()]


async def left_behind(etcd: EtcdServer) -> list[str]:
    async with Etcd([etcd.endpoint]) as store:
        return [item.key for prefix in (keys.ENDPOINTS, keys.ENDPOINT_INTERFACES)
                for item in (await store.range(prefix)).items]


async def test_labels_of_the_configuration(client: Client) -> None:
    await client.add(plain("blue", labels={"app": "web", "tier": "1"}))
    record = (await records(client))["blue"]
    assert (record.orchestrator, record.workload, record.namespace, record.pod) == ("cni", "c1", "", "")
    assert (dict(record.labels), list(record.profiles)) == ({"app": "web", "tier": "1"}, ["blue"])


async def test_a_second_network_appends_its_profile(client: Client) -> None:
    """The interface and its address stay the first network's, and are what the second's ADD answers."""
    first = await client.add(plain("blue"))
    for _ in range(2):  # an ADD that is repeated appends nothing
        answer = await client.plugin.Add(cni_pb2.AddRequest(call=plain("red", address="10.9.9.9/32")), timeout=10)
        handed_on = context.parse(answer.context)
        assert (handed_on.joined, handed_on.host_interface, handed_on.mac) == ("blue", first.host_interface, first.mac)
        assert [ip.address for ip in result.parse(answer.result).ips] == ["10.0.0.1/32"]
        assert await shared(client) == [("blue", ["blue", "red"])]
    await client.add(plain("green"))
    assert await shared(client) == [("blue", ["blue", "red", "green"])]
    assert (await client.add(plain("blue"))).joined == ""
    assert await shared(client) == [("blue", ["blue", "red", "green"])], "the first one's ADD repeated keeps them"


async def test_another_interface_or_container_is_on_its_own(client: Client) -> None:
    await client.add(plain("blue"))
    await client.add(call(1, ifname="eth1", config=json.loads(plain("red").config), args=""))
    await client.add(plain("red", 2))
    assert len((await client.list()).endpoints) == 3


async def test_a_network_is_left(etcd: EtcdServer, client: Client) -> None:
    """The second one's DEL takes its profile; the first one's takes the record, after which others have nothing."""
    await client.add(plain("blue"))
    await client.add(plain("red"))
    await client.add(plain("green"))
    await client.delete(plain("red"))
    await client.delete(plain("red"))
    assert await shared(client) == [("blue", ["blue", "green"])]
    await client.delete(plain("blue"))
    await client.delete(plain("green"))
    assert await left_behind(etcd) == []
    await client.add(plain("green"))
    assert await shared(client) == [("green", ["green"])]


async def test_both_networks_at_once(etcd: EtcdServer, client: Client, replicas: list[Service]) -> None:
    """Through two processes: one makes the record, the other joins it; and all goes with both DELs."""
    async with Client(replicas[0].target) as one, Client(replicas[1].target) as other:
        for number in range(12):
            await asyncio.gather(one.add(plain("blue", number)), other.add(plain("red", number)))
        found = (await client.list()).endpoints
        assert sorted(e.attachment.container_id for e in found) == sorted(f"c{n}" for n in range(12))
        assert all(sorted(e.profiles) == ["blue", "red"] for e in found)
        await asyncio.gather(*(through.delete(plain(network, number)) for number in range(12)
                               for through, network in ((one, "red"), (other, "blue"))))
    assert await left_behind(etcd) == []


async def test_a_join_that_arrives_after_its_del(etcd: EtcdServer, client: Client) -> None:
    """It makes no record, and must not append its profile either."""
    await client.add(plain("blue"))
    async with withheld(etcd, keys.endpoint("blue", "c1", "eth0"), lambda dying: dying.add(plain("red"))) as arrive:
        await client.delete(plain("red"))
        await arrive()
        assert await shared(client) == [("blue", ["blue"])]


async def test_check_looks_at_what_is_shared(client: Client) -> None:
    first = await client.add(plain("blue"))
    await client.add(plain("red"))
    answered = {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.1/32", "interface": 1}],
                "interfaces": [{"name": first.host_interface},
                               {"name": "eth0", "mac": first.mac, "sandbox": "/run/netns/x"}]}
    await client.check(plain("red", prevResult=answered))
    with pytest.raises(NotFound):
        await client.check(plain("green", prevResult=answered))
    answered["ips"] = [{"address": "10.0.0.7/32", "interface": 1}]
    with pytest.raises(FailedPrecondition, match="addresses"):
        await client.check(plain("red", prevResult=answered))


async def test_collection_leaves_the_other_network(etcd: EtcdServer, client: Client) -> None:
    """What the second network's list does not name loses its profile; the first one's takes the record."""
    for number in (1, 2):
        await client.add(plain("blue", number))
        await client.add(plain("red", number))
    listed = {"cni.dev/valid-attachments": [{"containerID": "c2", "ifname": "eth0"}]}
    await client.collect(json.loads(plain("red").config) | listed)
    profiles = {e.attachment.container_id: list(e.profiles) for e in (await client.list()).endpoints}
    assert profiles == {"c1": ["blue"], "c2": ["blue", "red"]}
    await client.collect(json.loads(plain("blue").config) | {"cni.dev/valid-attachments": []})
    assert await left_behind(etcd) == []


@pytest.mark.parametrize("damage", [b"", b"{", b'"a/b"', b"[]"])
async def test_a_damaged_key_of_an_interface_is_written_anew(etcd: EtcdServer, client: Client, damage: bytes) -> None:
    async with Etcd([etcd.endpoint]) as store:
        await store.put(keys.endpoint_interface("c1", "eth0"), damage)
    await client.add(plain("blue"))
    await client.add(plain("red"))
    assert await shared(client) == [("blue", ["blue", "red"])]


async def test_an_interface_whose_record_was_lost_is_taken_over(etcd: EtcdServer, client: Client) -> None:
    await client.add(plain("blue"))
    async with Etcd([etcd.endpoint]) as store:
        await store.delete(keys.endpoint("blue", "c1", "eth0"))
    await client.add(plain("red"))
    assert await shared(client) == [("red", ["red"])]
    await client.delete(plain("blue"))
    assert await shared(client) == [("red", ["red"])]
    await client.delete(plain("red"))
    assert await left_behind(etcd) == []
