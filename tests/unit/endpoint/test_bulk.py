"""Many records go into few transactions, none of them larger than etcd takes."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from services.endpoint.bulk import AT_ONCE, BYTES, bundles


@given(st.lists(st.sampled_from([10, 200_000, 400_000, BYTES, BYTES + 1]) | st.integers(0, BYTES), max_size=8),
       st.integers(0, 3 * AT_ONCE))
def test_bundles(long: list[int], short: int) -> None:
    """All of it, in order, within the limits unless a single one is beyond them, and never two where one would do."""
    sizes = [*long, *[1] * short]
    encoded = [(str(number), bytes(size)) for number, size in enumerate(sizes)]
    made = list(bundles(encoded))
    assert [pair for some in made for pair in some] == encoded
    for some in made:
        assert 1 <= len(some) <= AT_ONCE
        assert len(some) == 1 or sum(len(value) for _, value in some) <= BYTES
    for some, following in itertools.pairwise(made):
        assert len(some) == AT_ONCE or sum(len(value) for _, value in [*some, following[0]]) > BYTES
