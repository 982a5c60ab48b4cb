"""What upkeep rests on: the copy of the claims, the list of GC, the count of damage."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muslin.api.cni.v1 import cni_pb2
from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.errors import Corrupt, InvalidArgument
from muslin.etcd import KeyValue, keys
from muslin.etcd.mirror import Change
from muslin.tasks import TaskSet
from services.ipam import store
from services.ipam.handles import Handle
from services.ipam.upkeep import gc, metrics
from services.ipam.upkeep.claims import Claim, Copy, combined, trouble
from services.ipam.upkeep.damage import Damage

PUT, DELETE = endpoint_pb2.Change.KIND_PUT, endpoint_pb2.Change.KIND_DELETE


def change(kind: endpoint_pb2.Change.Kind.ValueType, name: str, *addresses: str) -> endpoint_pb2.Change:
    attachment = cni_pb2.Attachment(network="net", container_id=name, ifname="eth0")
    return endpoint_pb2.Change(kind=kind, endpoint=endpoint_pb2.WorkloadEndpoint(
        attachment=attachment, node="n1", addresses=addresses))


def message(*changes: endpoint_pb2.Change, revision: int = 0, complete: bool = False) -> endpoint_pb2.WatchResponse:
    return endpoint_pb2.WatchResponse(changes=changes, revision=revision, snapshot_complete=complete)


class TestCopy:
    def test_it_is_complete_with_the_end_of_the_snapshot(self) -> None:
        told: list[str] = []
        copy = Copy(told.append)
        assert not copy.take(message(change(PUT, "a", "10.0.0.1")))
        assert copy.take(message(change(PUT, "b"), revision=7, complete=True))
        assert copy.take(message(change(DELETE, "b"), revision=8))
        assert copy.claims == {"net/a/eth0": Claim("net/a/eth0", "n1", ("10.0.0.1",))}
        assert (copy.revision, told) == (8, ["net/a/eth0", "net/b/eth0"])

    def test_what_a_later_snapshot_does_not_name_is_gone(self) -> None:
        copy = Copy()
        copy.take(message(change(PUT, "a"), change(PUT, "b"), revision=7, complete=True))
        copy.restart()
        copy.begin()
        assert not copy.take(message(change(PUT, "b")))
        assert set(copy.claims) == {"net/a/eth0", "net/b/eth0"}, "until it is complete"
        assert copy.take(message(revision=9, complete=True))
        assert set(copy.claims) == {"net/b/eth0"}

    def test_a_watch_that_goes_on_needs_no_snapshot(self) -> None:
        copy = Copy()
        copy.take(message(change(PUT, "a"), revision=7, complete=True))
        copy.begin()
        assert copy.take(message(revision=7))
        assert set(copy.claims) == {"net/a/eth0"}

    def test_addresses_are_compared_as_the_address_manager_writes_them(self) -> None:
        copy = Copy()
        copy.take(message(change(PUT, "a", "FD00:0::1", "no address:"), revision=1, complete=True))
        assert copy.claims["net/a/eth0"].addresses == ("fd00::1", "no address:")


def test_what_several_sources_claim_counts_together() -> None:
    one, other = Claim("net/a/eth0", "n1", ("10.0.0.1",)), Claim("net/a/eth0", "n1", ("10.0.0.2",))
    assert combined([{one.identity: one}, {other.identity: other}])["net/a/eth0"].addresses == ("10.0.0.1", "10.0.0.2")


def test_no_source_is_trouble() -> None:
    assert "--endpoint" in trouble([])


class TestGC:
    @given(st.sampled_from(gc.KEYS))
    def test_the_list_is_read_from_either_key(self, key: str) -> None:
        listed = gc.valid(json.dumps({key: [{"containerID": "a", "ifname": "eth0"}]}).encode())
        assert listed == frozenset({("a", "eth0")})

    def test_both_keys_count_together(self) -> None:
        one, other = ({"containerID": name, "ifname": "eth0"} for name in "ab")
        listed = gc.valid(json.dumps({gc.KEYS[0]: [one], gc.KEYS[1]: [other]}).encode())
        assert listed == frozenset({("a", "eth0"), ("b", "eth0")})

    @pytest.mark.parametrize("config", [b"{}", b'{"cni.dev/valid-attachments": null}'])
    def test_a_missing_list_is_not_an_empty_one(self, config: bytes) -> None:
        assert gc.valid(config) is None
        assert gc.valid(b'{"cni.dev/valid-attachments": []}') == frozenset()

    @pytest.mark.parametrize("listed", [{}, "a", ["a"], [None], [{}], [{"containerID": "a"}],
                                        [{"containerID": "a", "ifname": ""}], [{"containerID": 1, "ifname": "eth0"}]])
    def test_a_list_that_is_none_is_refused(self, listed: object) -> None:
        with pytest.raises(InvalidArgument, match=r"cni\.dev/valid-attachments"):
            gc.valid(json.dumps({gc.KEYS[0]: listed}).encode())

    @pytest.mark.parametrize("config", [b"", b"\xff", b"[]", b"{"])
    def test_what_is_no_configuration_is_refused(self, config: bytes) -> None:
        with pytest.raises(Corrupt):
            gc.valid(config)

    def test_only_of_the_node_only_what_is_not_listed_and_nothing_that_is_kept(self) -> None:
        handle = Handle("net", "a", "eth0", "n1")
        assert gc.stale(handle, "n1", frozenset())
        assert not gc.stale(handle, "n2", frozenset())
        assert not gc.stale(handle, "n1", frozenset({("a", "eth0")}))
        assert gc.stale(handle, "n1", frozenset({("a", "eth1")}))
        assert not gc.stale(Handle("net", "a", "eth0", "n1", sticky=60, kept_until_ms=5), "n1", frozenset())


async def test_damage_is_counted_as_it_comes_and_goes() -> None:
    records: dict[str, KeyValue] = {}
    damage, tasks = Damage(records), TaskSet()
    tasks.spawn("damage", damage.run())

    async def put(key: str, value: bytes | None) -> None:
        records.pop(key, None)
        if value is not None:
            records[key] = KeyValue(key, value, 1, 1)
        damage.changed([Change(key, None, records.get(key))], 1)
        await asyncio.sleep(0.02)

    def counted(kind: str) -> float:
        return float(metrics.DAMAGED.labels(kind)._value.get())

    handle = Handle("net", "a", "eth0", "n1")
    key = store.handle_key(handle.identity)
    try:
        await put(key, b"{")
        await put(keys.block("10.0.0.0/26"), b'{"cidr":"10.0.0.0/26","pool":"p","node":"n","fresh":99}')
        await put(keys.IPAM_CONFIG, b"x")
        assert (counted("handle"), counted("block"), counted("config")) == (1, 1, 1)
        await put(key, store.encode(handle))
        await put(keys.block("10.0.0.0/26"), None)
        assert (counted("handle"), counted("block"), counted("config")) == (0, 0, 1)
    finally:
        await tasks.aclose()


async def test_what_this_process_wrote_is_not_looked_at_unless_it_mends_something() -> None:
    """A damaged record of another's is counted until it is overwritten, by whomever; one's own are never decoded."""
    records: dict[str, KeyValue] = {}
    ours: set[str] = set()
    damage, tasks = Damage(records, lambda: ours), TaskSet()
    tasks.spawn("damage", damage.run())

    async def put(key: str, value: bytes) -> None:
        records[key] = KeyValue(key, value, 1, 1)
        damage.changed([Change(key, None, records[key])], 1)
        await asyncio.sleep(0.02)

    def counted() -> float:
        return float(metrics.DAMAGED.labels("handle")._value.get())

    mended, own = (Handle("net", name, "eth0", "n1") for name in "ab")
    try:
        await put(store.handle_key(mended.identity), b"{")
        assert counted() == 1
        ours |= {store.handle_key(mended.identity), store.handle_key(own.identity)}
        await put(store.handle_key(own.identity), b"{")  # it never writes that: so it is seen whether it is looked at
        assert counted() == 1
        await put(store.handle_key(mended.identity), store.encode(mended))
        assert counted() == 0
    finally:
        await tasks.aclose()
