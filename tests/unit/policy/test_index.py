"""The index of selectors selects what comparing everything with everything selects."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muslin.selectors import NAMESPACE, parse
from services.policy.index import Pair, SelectorIndex, demanded
from services.policy.model import Attachment

TERMS = ("a == '1'", "a != '1'", "a in {'1', '2'}", "a in {}", "a not in {'1'}", "has(b)", "!has(b)", "b contains '1'",
         "b starts with '2'", "b ends with '1'", "all()", "global()", f"{NAMESPACE} == '1'", "!(a == '1')")
SELECTORS = st.recursive(st.sampled_from(TERMS), lambda inner: st.builds(
    lambda kind, parts: f" {kind} ".join(f"({part})" for part in parts), st.sampled_from(["&&", "||"]),
    st.lists(inner, min_size=2, max_size=3)), max_leaves=4)
LABELS = st.dictionaries(st.sampled_from(["a", "b", "c", NAMESPACE]), st.sampled_from(["1", "2", "21"]))
STEPS = st.one_of(st.tuples(st.sampled_from("xyz"), LABELS | st.none()), st.tuples(st.just("+"), SELECTORS),
                  st.tuples(st.just("-"), st.integers(0, 9)))


@settings(deadline=None)
@given(st.lists(STEPS, max_size=20))
def test_it_selects_what_comparing_everything_selects(steps: list[tuple[str, object]]) -> None:
    index, used, endpoints = SelectorIndex(), list[str](), dict[Attachment, dict[str, str]]()
    for what, value in steps:
        attachment = Attachment("net", what, "eth0")
        if what == "+":
            used.append(str(value))
            index.acquire(str(value), parse(str(value)))
        elif isinstance(value, int):
            if used:
                index.release(used.pop(value % len(used)))
        elif isinstance(value, dict):
            endpoints[attachment] = value
            index.put(attachment, value)
        else:
            endpoints.pop(attachment, None)
            index.remove(attachment)
        for text in used:
            assert index.members(text) == {a for a, labels in endpoints.items() if parse(text).matches(labels)}
        for known in endpoints:
            assert index.selected_by(known) == {text for text in used if known in index.members(text)}
    assert len(index) == len(set(used))


@pytest.mark.parametrize(("text", "expected"), [
    ("a == '1'", (("a", "1"),)),
    ("a in {'2', '1'}", (("a", "1"), ("a", "2"))),
    ("has(a)", (("a", None),)),
    (f"a == '1' && {NAMESPACE} == 'x'", ((NAMESPACE, "x"),)),
    ("projectcalico.org/orchestrator == 'k8s' && a in {'1', '2'}", (("a", "1"), ("a", "2"))),
    ("has(b) && a == '1'", (("a", "1"),)),
    ("a == '1' || has(b)", (("a", "1"), ("b", None))),
    ("a == '1' || !has(b)", None),
    ("a != '1'", None),
    ("all()", None),
    ("a in {}", ()),
])
def test_what_selectors_demand(text: str, expected: tuple[Pair, ...] | None) -> None:
    assert demanded(parse(text)) == expected
