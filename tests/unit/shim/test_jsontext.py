"""Our JSON against the standard library's: the same values, and the same texts refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim import jsontext

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@given(VALUES, st.booleans(), st.sampled_from([None, 0, 3]))
def test_what_json_writes_is_read_back(value: object, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert jsontext.loads(text.encode("utf-8")) == value


@given(st.text(alphabet='{}[]",:0123456789.-+eE \t\n\\"abfnrtu/truefalsenull', max_size=12))
def test_texts_are_accepted_and_refused_as_json_does(text: str) -> None:
    try:
        expected = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    except ValueError:
        with pytest.raises(jsontext.NotJson):
            jsontext.loads(text.encode())
    else:
        assert jsontext.loads(text.encode()) == expected


@pytest.mark.parametrize("text", [
    "", " ", "{", "[", '"', "{]", "[1,]", '{"a":1,}', "{a:1}", "{'a':1}", "01", "-", "1.", ".5", "1e", "1e+", "+1",
    "0x1", "NaN", "Infinity", "-Infinity", "tru", "nulll", '"\n"', '"\x00"', '"\\x"', '"\\u12"', '"\\u 123"',
    '"\\u+123"', "1 2", "{} {}", '{"a" 1}', '{"a":}', '{,}', "[,]", "[1 2]", "\ufeff{}", "\xa0{}", "\u0661",
    "1" * 1001])
def test_refused(text: str) -> None:
    with pytest.raises(jsontext.NotJson):
        jsontext.loads(text.encode())


@pytest.mark.parametrize(("text", "where"), [
    ("{\n  'a'", "line 2 column 3: a member's name in double quotes was expected"),
    ('{"a": [1, 2}', "line 1 column 12: ',' or ']' was expected"),
    ("", "line 1 column 1: the text ends too early"),
    ('{"a": 1} x', "line 1 column 10: text after the end"),
])
def test_the_place_is_named(text: str, where: str) -> None:
    with pytest.raises(jsontext.NotJson, match=f"^{where}$".replace("[", r"\[")):
        jsontext.loads(text.encode())


def test_nesting_has_an_end() -> None:
    """Rather than the stack's."""
    assert jsontext.loads(b"[" * 128 + b"]" * 128)
    with pytest.raises(jsontext.NotJson, match="deeper than 128"):
        jsontext.loads(b"[" * 129 + b"]" * 129)


@pytest.mark.parametrize(("text", "value"), [
    ('"\\ud83e\\uddf5"', "\U0001f9f5"), ('"\\ud83e"', "\ud83e"), ('"\\ud83e\\u0041"', "\ud83eA"), ('"\\u00e9"', "é"),
    ('{"a":1,"a":2}', {"a": 2}), ("-0", 0), ("1E2", 100.0), ("1e400", float("inf"))])
def test_corners(text: str, value: object) -> None:
    assert jsontext.loads(text.encode()) == value == json.loads(text)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(alphabet=st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@given(ANYTHING)
def test_what_is_written_is_ascii_on_one_line_and_reads_back(value: object) -> None:
    text = jsontext.dumps(value)
    assert text.isascii()
    assert "\n" not in text
    assert json.loads(text) == value == jsontext.loads(text.encode())


def test_tuples_are_lists() -> None:
    assert jsontext.dumps({"a": ("b", 1)}) == '{"a": ["b", 1]}'
