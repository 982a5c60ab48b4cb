"""YAML is read as Kubernetes' tools read it, and whatever is wrong says where."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from muslin.errors import InvalidArgument
from muslin.kube.document import MAX_DEPTH, documents, plain


def values(text: str) -> list[object]:
    return [plain(document.root) for document in documents(text, "f.yaml")]


@pytest.mark.parametrize(("text", "value"), [
    ("yes", True), ("Off", False), ("~", None), ("n", "n"),
    ("017", 15), ("0o17", 15), ("0x1F", 31), ("0b11", 3), ("1_000", 1000), ("-5", -5), ("08", 8.0), ("1e3", 1000.0),
    ("22:22", "22:22"), ("2001-01-01", "2001-01-01"), ("0x_", "0x_"), ("10.0.0.0/8", "10.0.0.0/8"),
    ("'8'", "8"), ("!!str 8", "8"), ("!!int 8", 8), ("! 8", "8"), ("=", "="),
])
def test_scalars_are_yaml_1_1_without_dates_and_base_60(text: str, value: object) -> None:
    assert values(f"key: {text}") == [{"key": value}]


def test_documents_are_numbered_with_the_empty_ones() -> None:
    """Numbers are those a reader counts in the file."""
    found = documents("---\n# nothing\n---\na: 1\n---\nb: 2\n", "f.yaml")
    assert [(document.number, plain(document.root)) for document in found] == [(2, {"a": 1}), (3, {"b": 2})]


def test_anchors_and_merge_keys() -> None:
    text = "base: &b {x: 1, y: 2}\nother: &o {y: 3, z: 4}\none: *b\ntwo: {<<: *b, x: 9}\nthree: {<<: [*b, *o], w: 0}"
    assert values(text) == [{
        "base": {"x": 1, "y": 2}, "other": {"y": 3, "z": 4}, "one": {"x": 1, "y": 2}, "two": {"x": 9, "y": 2},
        "three": {"x": 1, "y": 2, "z": 4, "w": 0}}]


def test_keys_are_what_json_would_have() -> None:
    assert values("{1: a, true: b, x: c}") == [{"1": "a", "true": "b", "x": "c"}]


def test_an_aliased_value_is_on_the_line_where_it_is_used() -> None:
    root = documents("a: &x\n  b: 1\nc: *x\n", "f.yaml")[0].root.value
    assert isinstance(root, dict)
    assert root["c"].line == 3


@pytest.mark.parametrize(("text", "message"), [
    ("a: 1\nb: 2\na: 3", "line 3, column 1: key 'a' is there twice (first on line 1)"),
    ("a: 1\n---\nb: {c: 1,\n  c: 2}", "document 2, line 4, column 3: key 'c' is there twice"),
    ("&a [*a]", "line 1, column 5: alias *a is used before its anchor is complete"),
    ("x: *nowhere", "line 1, column 4: alias *nowhere"),
    ("x: !secret y", "line 1, column 4: tag !secret is not supported"),
    ("x: !!int y", "line 1, column 4: 'y' is not of its tag's type (int)"),
    ("x: !!python/object:os.system y", "is not supported"),
    ("a: [1, 2", "line 2, column 1: not valid YAML"),
    ("a:\n\t- b", "line 2, column 1: not valid YAML"),
    ("a: \0", "not valid YAML"),
    ("[a]: b\n? {}\n: c", "a key must be a string"),
    ("<<: 5", "a merge key (<<) needs a mapping"),
    ("x: 99999999999999999999", "does not fit in 64 bits"),
    ("x: 1e999", "is too large"),
    ("[" * 100_000, f"nested deeper than {MAX_DEPTH} levels"),
])
def test_what_is_refused_says_where_and_why(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^f\.yaml, document \d+, line \d+, column \d+: ") as caught:
        documents(text, "f.yaml")
    assert message in caught.value.message


def test_a_document_that_grows_by_aliases_is_refused() -> None:
    """A few lines that stand for ten thousand million values end in an error, not in all of the memory."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    with pytest.raises(InvalidArgument, match="aliases counted as what they stand for"):
        documents("\n".join(lines), "f.yaml")


def test_a_document_that_grows_deep_by_aliases_is_refused() -> None:
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, MAX_DEPTH)]
    with pytest.raises(InvalidArgument, match="nested deeper"):
        documents("\n".join(lines), "f.yaml")


# Such as 1e5: a number for Kubernetes' tools, a string for PyYAML, which does not quote it therefore.
FLOAT = re.compile(r"[-+]?([.][0-9]+|[0-9]+([.][0-9]*)?)[eE][-+]?[0-9]+")
TEXT = st.text(max_size=8).filter(lambda text: not FLOAT.fullmatch(text))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 62), 1 << 62) | TEXT
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=12)


@given(JSON)
def test_what_is_written_as_yaml_is_read_back(value: object) -> None:
    """Agreement with an independent writer, PyYAML's, on every JSON value (it writes what it reads, as 1.1)."""
    text = yaml.safe_dump(value, sort_keys=False)
    expected = [] if value is None else [value]
    assert json.dumps(values(text)) == json.dumps(expected)


@given(st.text(alphabet=st.sampled_from(list("ab1:-?&*!|>'\"%@`{}[],#\n\t \\<=.~\0\x85\ufeff\ud7ff")), max_size=60)
       | st.text(max_size=40))
@example("? a\n? b\n")
@example("%TAG ! tag:x,2000:\n--- !y z")
@example('"\\ud83d"')
@example('"\\UFFFFFFFF"')
@example("--- >\n\x85")
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text ends in an exception of the parser's, and every error has file, document and line."""
    try:
        documents(text, "f.yaml")
    except InvalidArgument as error:
        assert re.match(r"f\.yaml, document \d+, line \d+, column \d+: ", error.message)  # noqa: PT017 - not every text is refused
