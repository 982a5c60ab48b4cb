"""The index of selectors selects what comparing everything with everything selects."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muslin.selectors import NAMESPACE, And, parse
from services.policy.index import Pair, SelectorIndex, demands
from services.policy.labels import ORCHESTRATOR
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
    ("a == '1'", [(("a", "1"),)]),
    ("a in {'2', '1'}", [(("a", "1"), ("a", "2"))]),
    ("has(a)", [(("a", None),)]),
    (f"a == '1' && {NAMESPACE} == 'x'", [((NAMESPACE, "x"),), (("a", "1"),)]),
    (f"{ORCHESTRATOR} == 'k8s' && a in {{'1', '2'}}", [(("a", "1"), ("a", "2")), ((ORCHESTRATOR, "k8s"),)]),
    ("has(b) && !has(c) && a == '1'", [(("a", "1"),), (("b", None),)]),
    ("a == '1' || has(b)", [(("a", "1"), ("b", None))]),
    ("a == '1' || !has(b)", []),
    ("a != '1'", []),
    ("all()", []),
    ("a in {}", [()]),
])
def test_what_selectors_demand(text: str, expected: list[tuple[Pair, ...]]) -> None:
    assert demands(parse(text)) == expected


def test_an_endpoint_is_compared_only_with_selectors_that_its_change_concerns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is what makes a change cost the same in a large cluster."""
    index = SelectorIndex()
    for number in range(100):
        index.put(Attachment("net", f"c{number}", "eth0"), {"a": "1", NAMESPACE: f"ns-{number}"})
    asked = Counter[str]()
    monkeypatch.setattr(And, "matches", lambda self, labels: bool(asked.update([str(self)])))
    for number in range(100):
        text = f"a == '1' && {NAMESPACE} == 'ns-{number}'"
        index.acquire(text, parse(text))
    assert asked.total() == 100
    asked.clear()
    pod = Attachment("net", "c7", "eth0")
    index.put(pod, {"a": "1", "b": "1", NAMESPACE: "ns-7"})
    assert asked.total() == 0, "no selector asks for b"
    index.put(pod, {"a": "2", "b": "1", NAMESPACE: "ns-7"})
    assert set(asked) == {f"a == '1' && {NAMESPACE} == 'ns-7'"}
