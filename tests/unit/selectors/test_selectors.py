"""The selector grammar: what it means, how it is written, where its errors point."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muslin.errors import InvalidArgument
from muslin.selectors import (
    COMPARISONS,
    All,
    And,
    Comparison,
    Global,
    Has,
    Membership,
    Not,
    Or,
    Selector,
    SelectorError,
    canonical,
    parse,
)

KEYS = st.sampled_from(["a", "b", "in", "not", "has", "all", "global", "contains", "a.b/c-d_e",
                        "projectcalico.org/namespace"])
VALUES = st.sampled_from(["", "x", "xy", "it's", 'say "x"', "a b", "&&", "}"])
LABELS = st.dictionaries(KEYS, VALUES, max_size=4)


def _extend(children: st.SearchStrategy[Selector]) -> st.SearchStrategy[Selector]:
    several = st.lists(children, min_size=2, max_size=3).map(tuple)
    return st.one_of(children.map(Not), several.map(And), several.map(Or))


SELECTORS: st.SearchStrategy[Selector] = st.recursive(
    st.one_of(
        st.just(All()), st.just(Global()), st.builds(Has, KEYS),
        st.builds(Comparison, KEYS, st.sampled_from(sorted(COMPARISONS)), VALUES),
        st.builds(Membership, KEYS, st.lists(VALUES, max_size=3).map(tuple), st.booleans()),
    ), _extend, max_leaves=8)


@pytest.mark.parametrize(("text", "labels", "expected"), [
    ("", {}, True),
    ("  all( ) ", {}, True),
    ("!all()", {}, False),
    ("a == 'x'", {"a": "x"}, True),
    ('a == "x"', {"a": "x"}, True),
    ("a == 'x'", {"a": "y"}, False),
    ("a == ''", {}, False),
    ("a != 'x'", {"a": "y"}, True),
    ("a != 'x'", {"a": "x"}, False),
    ("a != 'x'", {}, True),
    ("a in {'x', 'y'}", {"a": "y"}, True),
    ("a in{'x'}", {"a": "x"}, True),
    ("a in {}", {"a": "x"}, False),
    ("a in {'x'}", {}, False),
    ("a not in {'x'}", {}, True),
    ("a not  in {'x'}", {"a": "x"}, False),
    ("has(a)", {"a": ""}, True),
    ("has(a)", {"b": ""}, False),
    ("!has(a)", {}, True),
    ("a contains 'ell'", {"a": "hello"}, True),
    ("a contains ''", {}, False),
    ("a starts with 'he'", {"a": "hello"}, True),
    ("a starts with 'lo'", {"a": "hello"}, False),
    ("a ends with 'lo'", {"a": "hello"}, True),
    ("a ends with 'he'", {"a": "hello"}, False),
    ("global()", {}, True),
    ("global()", {"projectcalico.org/namespace": "x"}, False),
    ("has(a) || has(b) && has(c)", {"a": ""}, True),
    ("(has(a) || has(b)) && has(c)", {"a": ""}, False),
    ("!has(a) && has(b)", {"b": ""}, True),
    ("!(has(a) && has(b))", {"b": ""}, True),
    ("!!has(a)", {"a": ""}, True),
    ("! a == 'x'", {"a": "y"}, True),
    ("in in {'in'}", {"in": "in"}, True),
    ("has == 'has'", {"has": "has"}, True),
])
def test_meaning(text: str, labels: dict[str, str], expected: bool) -> None:
    assert expected == parse(text).matches(labels)


@pytest.mark.parametrize(("text", "column", "message"), [
    ("a", 2, "expected '=='"),
    ("a == ", 6, "expected a value in quotes, found the end"),
    ("a == x", 6, "expected a value in quotes, found 'x'"),
    ("a == 'x", 6, "expected a value in quotes"),
    ("a in 'x'", 6, "expected '{'"),
    ("a in {'x' 'y'}", 11, "expected ',' or '}'"),
    ("a in {'x',}", 11, "expected a value"),
    ("a inx {'x'}", 3, "expected '=='"),
    ("(has(a)", 8, "expected ')'"),
    ("has(a) has(b)", 8, "expected '&&'"),
    ("has(a) &&", 10, "expected a label's key"),
    ("has()", 1, "is not a label's key"),
    ("has(a%b)", 1, "is not a label's key"),
    ("&& a", 1, "expected a label's key"),
    ("all() ||| all()", 9, "expected a label's key"),
    ("(" * 100, 66, "nested deeper"),
    ("!" * 100, 66, "nested deeper"),
])
def test_errors_point_at_the_place(text: str, column: int, message: str) -> None:
    with pytest.raises(SelectorError, match=f"column {column}:") as caught:
        parse(text)
    assert message in caught.value.message
    assert column - 1 == caught.value.position


def test_what_could_not_be_written_can_not_be_made() -> None:
    """Else printing would give a text that means something else."""
    with pytest.raises(InvalidArgument, match="both kinds of quotes"):
        Comparison("a", "==", "'\"")
    with pytest.raises(InvalidArgument, match="label's key"):
        Has("a b")


@given(SELECTORS)
def test_printing_parses_back(selector: Selector) -> None:
    assert selector == parse(str(selector))


@given(SELECTORS, LABELS)
def test_canonical_form_means_the_same(selector: Selector, labels: dict[str, str]) -> None:
    assert selector.matches(labels) == canonical(selector).matches(labels)


@given(SELECTORS)
def test_canonical_form_is_final_and_printable(selector: Selector) -> None:
    once = canonical(selector)
    assert once == canonical(once)
    assert once == parse(str(once))


@given(st.lists(SELECTORS, min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_order_and_repetition_do_not_change_the_canonical_form(operands: list[Selector], random: object) -> None:
    shuffled = [*operands, operands[0]]
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis' Random is not exported as a type
    for kind in (And, Or):
        assert canonical(kind(tuple(operands))) == canonical(kind(tuple(shuffled)))


@given(st.text(alphabet="ab ()!&|='\"{},in", max_size=30))
def test_any_text_parses_or_is_refused(text: str) -> None:
    """Nothing but SelectorError, and a position inside the text."""
    position = 0
    try:
        parse(text)
    except SelectorError as problem:
        position = problem.position
    assert 0 <= position <= len(text)
