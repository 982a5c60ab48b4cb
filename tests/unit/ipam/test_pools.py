"""Pools are checked when they are made, and cut into blocks without a gap."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muslin.errors import InvalidArgument
from services.ipam import blocks, pools
from services.ipam.pools import Pool


def test_defaults() -> None:
    assert Pool("default", "192.168.0.0/16", 26) == pools.make("default", "192.168.0.0/16")


def test_a_pool_smaller_than_the_default_block_is_one_block() -> None:
    assert pools.make("small", "10.0.0.0/28").block_size == 28


@pytest.mark.parametrize(("name", "cidr", "block_size", "named"), [
    ("", "10.0.0.0/16", 0, "pool.name"),
    ("Upper", "10.0.0.0/16", 0, "pool.name"),
    ("a/b", "10.0.0.0/16", 0, "pool.name"),
    ("a" * 64, "10.0.0.0/16", 0, "pool.name"),
    ("p", "10.0.0.1/16", 0, "host bits"),
    ("p", "10.0.0.0", 0, "pool.cidr"),
    ("p", "ten", 0, "pool.cidr"),
    ("p", "", 0, "pool.cidr"),
    ("p", "fd00::/64", 64, "pool.block_size"),
    ("p", "fd00::/64", 26, "pool.block_size"),
    ("p", "fe80::/64", 0, "link-local"),
    ("p", "ff00::/64", 0, "multicast"),
    ("p", "::/96", 0, "pool.cidr"),
    ("p", "0.0.0.0/0", 0, "pool.cidr"),
    ("p", "127.0.0.0/16", 0, "loopback"),
    ("p", "169.254.0.0/16", 0, "link-local"),
    ("p", "224.0.0.0/8", 0, "multicast"),
    ("p", "10.0.0.0/16", 19, "pool.block_size"),
    ("p", "10.0.0.0/16", 33, "pool.block_size"),
    ("p", "10.0.0.0/24", 23, "pool.block_size"),
])
def test_bad_input_names_the_field(name: str, cidr: str, block_size: int, named: str) -> None:
    with pytest.raises(InvalidArgument, match=named):
        pools.make(name, cidr, block_size)


def test_overlap_finds_the_other_pool() -> None:
    one, two = pools.make("one", "10.0.0.0/16"), pools.make("two", "10.1.0.0/16")
    assert pools.overlap(pools.make("new", "10.1.128.0/17"), [one, two]) == two
    assert pools.overlap(pools.make("new", "10.0.0.0/8"), [two]) == two
    assert pools.overlap(pools.make("new", "10.2.0.0/16"), [one, two]) is None


@given(prefix=st.integers(18, 28), extra=st.integers(0, 6), node=st.text(min_size=1, max_size=8))
def test_the_walk_meets_every_block_once(prefix: int, extra: int, node: str) -> None:
    """And the blocks make up the pool exactly."""
    pool = pools.make("p", f"10.64.0.0/{prefix}", max(20, min(32, prefix + extra)))
    cidrs = [pools.block_at(pool, first) for first in pools.walk(pool, node)]
    assert len(cidrs) == len(set(cidrs)) == pools.block_count(pool)
    assert all(pools.holds(pool, cidr) for cidr in cidrs)
    networks = [ipaddress.IPv4Network(cidr) for cidr in cidrs]
    assert list(ipaddress.collapse_addresses(networks)) == [ipaddress.IPv4Network(pool.cidr)]
    assert sum(n.num_addresses for n in networks) == pools.size(pool)


def test_the_walk_is_the_same_each_time_and_another_for_each_node() -> None:
    pool = pools.make("p", "10.0.0.0/16")
    assert list(pools.walk(pool, "a")) == list(pools.walk(pool, "a"))
    starts = {next(pools.walk(pool, f"node-{number}")) for number in range(32)}
    assert len(starts) > 28  # of 1024 blocks; the same start for all would be 1


def test_a_pool_does_not_hold_its_neighbours() -> None:
    pool = pools.make("p", "10.0.0.0/24")
    assert not pools.holds(pool, "10.0.1.0/26")
    assert not pools.holds(pool, "10.0.0.0/16")
    assert not pools.holds(pool, "fd00::/122")
    assert blocks.first("10.0.0.64/26") in set(pools.walk(pool, "n"))
