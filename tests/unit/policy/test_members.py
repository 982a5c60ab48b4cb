"""Sets of which versions share what they have in common: they are sets, whatever their size and history."""

from __future__ import annotations

from collections.abc import Set

from hypothesis import given, settings
from hypothesis import strategies as st

from services.policy.members import Members

NAMES = st.integers(0, 1500).map(str)
SETS = st.one_of(st.frozensets(NAMES, max_size=8), st.integers(0, 1500).map(lambda n: frozenset(map(str, range(n)))))


@settings(deadline=None)
@given(SETS, st.lists(st.tuples(SETS, SETS), max_size=4))
def test_a_set_and_all_its_versions(first: Set[str], changes: list[tuple[Set[str], Set[str]]]) -> None:
    expected, found = first, Members(first)
    versions = [(expected, found)]
    for added, removed in changes:
        expected = (expected - removed) | added
        found = found.changed(added, removed)
        versions.append((expected, found))
    for plain, version in versions:
        assert plain == version
        assert (len(plain), sorted(plain)) == (len(version), sorted(version))
        assert version == Members(plain)
        assert all(name in version for name in plain)
        assert "no name" not in version
        for other, another in versions:
            assert version.without(another) == sorted(plain - other)
            assert (version == another) == (plain == other)


def test_versions_share_the_buckets_that_did_not_change() -> None:
    """Else each change of a large group would cost as much as the group."""
    first = Members(map(str, range(10_000)))
    second = first.changed({"new"}, {"1"})
    different = [1 for mine, theirs in zip(first._buckets, second._buckets, strict=True) if mine is not theirs]
    assert len(different) <= 2 < len(first._buckets)

