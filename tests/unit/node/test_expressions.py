"""Sets of ranges: a value is in exactly if a range holds it, however they lie."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.node.nft import expressions as x
from tests.unit.node.model import Set

bounds = st.integers(0, 65535) | st.sampled_from((0, 1, 65534, 65535))


@given(st.lists(st.tuples(bounds, bounds).map(sorted), min_size=1, max_size=8), st.lists(bounds, max_size=20))
def test_intervals_hold_what_the_ranges_hold(ranges: list[list[int]], probes: list[int]) -> None:
    """Adjacent and overlapping ones too, for the kernel refuses two elements with one key."""
    made = x.intervals(x.PORT, [(first, last) for first, last in ranges])
    keys = [key for key, _ in made.elements]
    assert sorted(set(keys)) == keys
    kernel = Set(flags=4, steps=list(made.elements))
    for port in [*probes, *(p for r in ranges for e in r for p in (e - 1, e, e + 1) if 0 <= p <= 65535)]:
        assert kernel.holds(port.to_bytes(2, "big")) == any(first <= port <= last for first, last in ranges), port


def test_whole_bytes_of_a_prefix_need_no_mask() -> None:
    """Half the instructions for the prefixes that are used most."""
    assert len(x.fits(bytes((10, 0, 0, 0)), 8, x.NETWORK_HEADER, 12)) == 2
    assert len(x.fits(bytes((10, 0, 0, 0)), 9, x.NETWORK_HEADER, 12)) == 3


def test_a_joined_key_pads_its_fields() -> None:
    """As nft(8) numbers and lays out `ipv4_addr . inet_proto . inet_service`."""
    assert x.joined(x.IPV4, x.PROTOCOL, x.PORT) == x.KeyType(7 << 12 | 12 << 6 | 13, 12, 0)
