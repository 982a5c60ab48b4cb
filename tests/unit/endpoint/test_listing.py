"""Pages: together they are the whole list, whatever their size; tokens say all and take no other."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muslin.errors import InvalidArgument
from muslin.etcd import KeyValue
from services.endpoint import codec
from services.endpoint.listing import Filters, Token, decode, encode, page
from services.endpoint.records import WorkloadEndpoint

NODES = st.lists(st.sampled_from("ab"), max_size=30)
FILTERS = st.tuples(st.text(max_size=5), st.text(max_size=5), st.text(max_size=5), st.text(max_size=5))


def record(number: int, node: str) -> WorkloadEndpoint:
    return WorkloadEndpoint("net", f"c{number:03}", "eth0", node, "k8s", "w", labels={"number": str(number)})


def stored(nodes: list[str]) -> list[KeyValue]:
    records = [record(number, node) for number, node in enumerate(nodes)]
    return [KeyValue(codec.key_of(r), codec.encode(r), 1, 1) for r in records]


@given(NODES, st.integers(1, 8), st.sampled_from(["", "a", "b"]))
def test_pages_add_up(nodes: list[str], size: int, node: str) -> None:
    """In order, nothing twice; all but the last are full, and no page follows the last record."""
    items, matches = stored(nodes), Filters(node, "", "", "").matcher()
    whole, more = page(items, "", 0, matches)
    assert not more
    assert [r.container_id for _, r in whole] == [f"c{n:03}" for n, at in enumerate(nodes) if node in ("", at)]
    pages, after = [], ""
    while True:
        found, more = page(items, after, size, matches)
        pages.append(found)
        if not more:
            break
        after = found[-1][0].key
    assert [entry for found in pages for entry in found] == whole
    assert all(len(found) == size for found in pages[:-1])
    assert len(pages) == max(1, -(-len(whole) // size))


def test_what_is_damaged_is_left_out() -> None:
    items = stored(["a", "a", "a"])
    items[1] = KeyValue(items[1].key, b"{", 1, 2)
    found, more = page(items, "", 2, lambda _: True)
    assert ([r.container_id for _, r in found], more) == (["c000", "c002"], False)


@given(st.integers(0, 2**62), st.text(max_size=40), FILTERS)
def test_a_token_says_what_it_was_made_of(revision: int, after: str, filters: tuple[str, str, str, str]) -> None:
    token = Token(revision, after, filters)
    assert decode(encode(token)) == token


@given(st.text(max_size=40))
def test_a_text_that_is_no_token_is_an_error_of_its_own_kind(text: str) -> None:
    with suppress(InvalidArgument):
        assert isinstance(decode(text), Token)


@pytest.mark.parametrize(("filters", "expected"), [
    (Filters("", "", "", ""), True), (Filters("a", "", "", ""), True), (Filters("b", "", "", ""), False),
    (Filters("", "prod", "", ""), False), (Filters("", "", "", "net"), True), (Filters("", "", "", "x"), False),
    (Filters("", "", "number == '7'", ""), True), (Filters("a", "", "number != '7'", "net"), False),
    (Filters("", "", "  ", ""), True),
])
def test_filters(filters: Filters, expected: bool) -> None:
    assert filters.matcher()(record(7, "a")) is expected
