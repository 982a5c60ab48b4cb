"""A process whose copy is old can not give anything to a node that was drained meanwhile, wherever it would be from."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from muslin.etcd import keys
from services.ipam import drain, pools, store
from services.ipam.blocks import Block
from services.ipam.handles import Request as Assign
from services.ipam.outcomes import Granted, Short
from services.ipam.plan import plan
from tests.unit.ipam.records import Records, Replica, wanted


def mark(records: Records, node: str, *, draining: bool = True) -> None:
    """What draining writes, by another process."""
    records.put(keys.ipam_node(node), store.encode(store.Node("", draining)))
    for key, item in list(records.items.items()):
        if key.startswith(keys.IPAM_BLOCKS):
            block = store.decode(Block, key, item.value)
            if block.node == node:
                records.put(key, store.encode(msgspec.structs.replace(block, leaving=draining)))


def request(number: int, node: str = "n1", *addresses: str) -> Assign:
    return Assign(wanted(number, node), addresses=addresses)


def own(replica: Replica) -> Assign:
    replica.once("n1", request(1))
    return request(2)


def claimed(replica: Replica) -> Assign:
    return request(2)


def borrowed(replica: Replica) -> Assign:
    for number, node in enumerate(("n1", "n2", "n3", "n4")):  # all four blocks; two have two addresses left
        replica.once(node, *(request(10 * number + each, node) for each in range(4 if node == "n1" else 2)))
    return request(99)


def specific(replica: Replica) -> Assign:
    replica.once("n2", request(1, "n2"))
    (block,) = replica.view.blocks()
    return request(2, "n1", f"{block.cidr.partition('/')[0][:-1]}{int(block.cidr.partition('/')[0][-1]) + 3}")


def returned(replica: Replica) -> Assign:
    """Kept for a pod, in the block of the node that it was on."""
    pod = msgspec.structs.replace(wanted(1, "n2"), namespace="ns", pod="p")
    replica.once("n2", Assign(pod, sticky_seconds=3600))
    held = replica.view.handle(pod.identity).value
    assert held is not None
    kept = msgspec.structs.replace(held, kept_until_ms=replica.clock.wall_ms() + 3_600_000)
    replica.records.put(store.handle_key(pod.identity), store.encode(kept))
    replica.catch_up()
    return Assign(msgspec.structs.replace(wanted(2, "n1"), namespace="ns", pod="p"), sticky_seconds=3600)


@pytest.mark.parametrize("way", [own, claimed, borrowed, specific, returned])
def test_what_was_decided_before_is_not_committed_after(way: Callable[[Replica], Assign]) -> None:
    records = Records(pools.make("a", "10.0.0.0/28", 30))
    replica = Replica(records)
    asked = way(replica)
    made = plan(replica.view, [asked])
    assert isinstance(made.outcomes[0], Granted), "there is an address to give"
    mark(records, "n1")
    assert not replica.commit(made)
    replica.catch_up()
    (outcome,) = plan(replica.view, [asked]).outcomes
    assert isinstance(outcome, Short)
    assert "node n1 is drained of addresses" in outcome.reason
    mark(records, "n1", draining=False)
    replica.catch_up()
    (outcome,) = plan(replica.view, [asked]).outcomes
    assert isinstance(outcome, Granted), "and it is what it was again"


def test_what_is_held_is_answered_again() -> None:
    records = Records(pools.make("a", "10.0.0.0/28", 30))
    replica = Replica(records)
    (first,) = replica.once("n1", request(1))[1]
    mark(records, "n1")
    replica.catch_up()
    (again,) = replica.once("n1", request(1))[1]
    assert isinstance(first, Granted)
    assert isinstance(again, Granted)
    assert again.handle.addresses == first.handle.addresses
    assert [block.node for block in replica.view.blocks()] == ["n1"]


def test_what_nodes_have() -> None:
    records = Records(pools.make("a", "10.0.0.0/28", 30))
    replica = Replica(records)
    replica.once("n1", *(request(number) for number in range(5)))
    replica.once("n2", request(10, "n2"))
    mark(records, "n3")
    replica.catch_up()
    held = [known.value for _, known in replica.view.handles() if known.value]
    assert drain.use(replica.view, held) == [drain.Use("n1", 2, 5), drain.Use("n2", 1, 1),
                                             drain.Use("n3", draining=True)]
