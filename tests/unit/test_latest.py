"""Telling many what holds now: whatever was changed in whatever order, a reader ends with what there is."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from muslin.latest import Latest

KEYS = st.sampled_from("abc")
STEPS = st.lists(st.one_of(st.tuples(KEYS, st.none() | st.integers(0, 2)), st.integers(0, 4)), max_size=40)
"""A value that changes, or a reader that takes up to so many."""


@given(STEPS, STEPS)
def test_a_reader_ends_with_what_there_is(before: list[object], after: list[object]) -> None:
    latest: Latest[str, int] = Latest()
    for step in before:
        if isinstance(step, tuple):
            latest.put(*step)
    with latest.reader() as reader:
        seen: dict[str, int] = {}

        def take(most: int) -> int:
            changes = reader.take(most)
            for key, value in changes.items():
                if value is None:
                    seen.pop(key, None)
                else:
                    seen[key] = value
            return len(changes)

        for step in after:
            if isinstance(step, tuple):
                latest.put(*step)
            elif isinstance(step, int):
                assert take(step) <= step
        take(10)
        assert seen == latest.values


async def test_a_reader_waits_until_something_has_changed_and_not_for_what_has_not() -> None:
    latest: Latest[str, int] = Latest()
    latest.put("a", 1)
    with latest.reader() as reader:
        assert reader.take(5) == {"a": 1}
        waiting = asyncio.ensure_future(reader.moved())
        latest.put("a", 1)
        await asyncio.sleep(0)
        assert not waiting.done()
        latest.put("a", None)
        await asyncio.wait_for(waiting, 10)
        assert reader.take(5) == {"a": None}
