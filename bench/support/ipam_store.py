"""A store of the address manager with as many addresses given as one likes, quicker than by asking for each.

A node is given one block full. Its records are then copied as text, with other names and addresses: what a record
looks like is the service's business.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Iterator, Mapping
from itertools import islice

from muslin.api.cni.v1 import cni_pb2
from muslin.api.ipam.v1 import ipam_pb2, ipam_pb2_grpc
from muslin.etcd import Etcd, Put, keys

__all__ = ["BLOCK", "fill", "request"]

BLOCK = 64
"""Addresses of a block."""
_NODE, _CONTAINER = "template-node", "template-"
_AT_ONCE = 8
_OPERATIONS = 120  # in a transaction; etcd takes 128


def request(container: str, node: str) -> ipam_pb2.AssignRequest:
    """What is asked for an attachment, as the chain asks it."""
    attachment = cni_pb2.Attachment(network="bench", container_id=container, ifname="eth0")
    return ipam_pb2.AssignRequest(attachment=attachment, node=node, namespace="bench", pod=container)


async def fill(etcd: Etcd, stub: ipam_pb2_grpc.IpamAsyncStub, counts: Mapping[str, int]) -> None:
    """Make full blocks of /26 by pool. None may have a block yet, and the first must be the first by name."""
    for ordinal in range(BLOCK):
        await stub.Assign(request(f"{_CONTAINER}{ordinal}.", _NODE), timeout=10)
    records = {item.key: item.value.decode() for item in (await etcd.range(keys.IPAM)).items}
    records = {key: value for key, value in records.items() if not key.startswith(keys.IPAM_NODES)  # one for all
               and (_NODE in key + value or _CONTAINER in key + value)}
    template = next(keys.parse_block(key) for key in records if key.startswith(keys.IPAM_BLOCKS))
    listed = await stub.ListPools(ipam_pb2.ListPoolsRequest(), timeout=10)
    source = next(iter(counts))
    copies: list[Put] = []
    for pool in listed.pools:
        cidrs = (str(block) for block in ipaddress.ip_network(pool.cidr).subnets(new_prefix=26))
        others = (cidr for cidr in cidrs if cidr != template)
        for number, cidr in enumerate(islice(others, counts.get(pool.name, 0) - (pool.name == source))):
            copies += (Put(key, value.replace(f'"pool":"{source}"', f'"pool":"{pool.name}"').encode())
                       for key, value in _copies(records, template, cidr, f"{pool.name}-{number}"))
    limit = asyncio.Semaphore(_AT_ONCE)

    async def write(start: int) -> None:
        async with limit:
            await etcd.txn([], copies[start:start + _OPERATIONS], timeout=60)

    await asyncio.gather(*(write(start) for start in range(0, len(copies), _OPERATIONS)))


def _copies(records: Mapping[str, str], template: str, cidr: str, name: str) -> Iterator[tuple[str, str]]:
    """The records of one block, of its affinity and its handles, under other names; ten blocks a node."""
    old, new = (ipaddress.ip_network(each).network_address for each in (template, cidr))
    addresses = {f'"{old + ordinal}"': f'"{new + ordinal}"' for ordinal in range(BLOCK)}
    node = f"full-{name[:-1]}"

    def renamed(text: str) -> str:
        return text.replace(_NODE, node).replace(_CONTAINER, f"{name}-")

    for key, value in records.items():
        value = re.sub(r'"[0-9.]+"', lambda found: addresses.get(found[0], found[0]), value)
        yield (renamed(key.replace(template.replace("/", "-"), cidr.replace("/", "-"))),
               renamed(value.replace(template, cidr)))
