"""The mirror's two pure steps: from a snapshot, and from events, to changes."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from muslin.etcd import Event, KeyValue, Kind, Snapshot
from muslin.etcd.mirror import Change, difference, effect

KEYS = st.sampled_from(["a", "b", "c", "d"])
RECORDS = st.builds(KeyValue, KEYS, st.binary(max_size=1), st.integers(1, 3), st.integers(1, 3))
STORES = st.lists(RECORDS, unique_by=lambda record: record.key).map(lambda items: {item.key: item for item in items})
STEPS = st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=1)))


def applied(items: dict[str, KeyValue], changes: Iterable[Change]) -> dict[str, KeyValue]:
    """What a subscriber has who follows the changes; each must begin where the one before it ended."""
    items = dict(items)
    for change in changes:
        assert items.get(change.key) == change.old
        assert change.old != change.new, "a change changes something"
        if change.new is None:
            del items[change.key]
        else:
            items[change.key] = change.new
    return items


@given(STORES, STORES)
def test_the_difference_leads_to_the_snapshot_and_names_each_key_once(old: dict[str, KeyValue],
                                                                     new: dict[str, KeyValue]) -> None:
    changes = difference(old, Snapshot(tuple(new.values()), 9))
    assert applied(old, changes) == new
    assert len({change.key for change in changes}) == len(changes)


@given(STORES)
def test_an_equal_snapshot_changes_nothing(items: dict[str, KeyValue]) -> None:
    assert difference(items, Snapshot(tuple(items.values()), 9)) == []


@given(STORES, STEPS)
def test_events_lead_to_what_the_store_holds(items: dict[str, KeyValue],
                                             steps: list[tuple[str, bytes | None]]) -> None:
    """Any writes and deletions, also several of one key in a batch, and deletions of what is not there."""
    expected = dict(items)
    events = []
    for revision, (key, value) in enumerate(steps, start=10):
        if value is None:
            events.append(Event(Kind.DELETE, key, b"", revision))
            expected.pop(key, None)
        else:
            events.append(Event(Kind.PUT, key, value, revision, create_revision=revision))
            expected[key] = KeyValue(key, value, revision, revision)
    changes = effect(items, events)
    assert applied(items, changes) == expected


def test_the_changes_of_a_key_are_all_told_in_order() -> None:
    events = [Event(Kind.PUT, "a", b"1", 5, 5), Event(Kind.DELETE, "a", b"", 6), Event(Kind.PUT, "a", b"2", 7, 7)]
    one, two = KeyValue("a", b"1", 5, 5), KeyValue("a", b"2", 7, 7)
    assert effect({}, events) == [Change("a", None, one), Change("a", one, None), Change("a", None, two)]
