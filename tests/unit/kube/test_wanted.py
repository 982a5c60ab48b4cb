"""What is wanted follows from what was told, in whatever order and however often."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from muslin.errors import InvalidArgument
from muslin.kube import kinds
from muslin.kube.client import Listing
from muslin.kube.kinds import Kind, Meta, Name, Plain
from muslin.kube.wanted import Wanted

KINDS = (kinds.NAMESPACES, kinds.SERVICE_ACCOUNTS)
NAMES = st.sampled_from("abcd")


def item(name: str, value: str) -> Plain:
    return Plain(Meta(name, labels={"v": value}))


def key(kind: Kind[Any], name: Name) -> str:
    return f"{kind.plural}/{name[1]}"


def record(_: Kind[Any], thing: Any) -> str | None:
    """`none` has no record, `bad` can not have one."""
    if thing.labels["v"] == "bad":
        raise InvalidArgument("bad")
    return None if thing.labels["v"] == "none" else thing.labels["v"]


def made() -> Wanted[str]:
    return Wanted(KINDS, key, record)


def test_all_kinds_make_it_complete() -> None:
    wanted = made()
    wanted.sink(KINDS[0]).listed(Listing([item("a", "1")], "1"))
    assert not wanted.complete.is_set()
    assert wanted.missing == ["serviceaccounts of v1"]
    wanted.sink(KINDS[1]).listed(Listing([], "1"))
    assert wanted.complete.is_set()
    assert wanted.records == {"namespaces/a": "1"}
    assert wanted.marked() == {"namespaces/a"}
    assert wanted.marked() == set()
    assert not wanted.moved.is_set()


def test_a_kind_that_is_excused_is_not_waited_for_and_nothing_of_it_is_known() -> None:
    """Until it is listed after all: then what is gone of it is to be looked for."""
    wanted = made()
    wanted.sink(KINDS[1]).excused()
    assert not wanted.complete.is_set()
    wanted.sink(KINDS[0]).listed(Listing([], "1"))
    assert wanted.complete.is_set()
    assert (wanted.knows(KINDS[0]), wanted.knows(KINDS[1]), wanted.late) == (True, False, False)
    wanted.sink(KINDS[1]).listed(Listing([], "1"))
    assert (wanted.knows(KINDS[1]), wanted.late, wanted.moved.is_set()) == (True, True, True)


def test_what_is_as_it_was_is_not_marked() -> None:
    wanted = made()
    wanted.put(KINDS[0], item("a", "1"))
    wanted.marked()
    wanted.put(KINDS[0], item("a", "1"))
    wanted.gone(KINDS[0], ("", "b"))
    assert wanted.marked() == set()


def test_what_is_damaged_or_can_have_no_record_is_as_it_was() -> None:
    """Left out, it would be deleted, and open what it shut."""
    wanted = made()
    wanted.listed(KINDS[0], [item("a", "1"), item("b", "1"), item("c", "1")], ())
    wanted.listed(KINDS[0], [item("b", "bad")], {("", "a")})
    wanted.put(KINDS[0], item("b", "bad"))
    assert wanted.records == {"namespaces/a": "1", "namespaces/b": "1"}


STEPS = st.lists(st.one_of(
    st.tuples(st.just("put"), st.sampled_from(KINDS), NAMES, st.sampled_from(["1", "2", "none"])),
    st.tuples(st.just("gone"), st.sampled_from(KINDS), NAMES, st.just("")),
    st.tuples(st.just("listed"), st.sampled_from(KINDS), st.dictionaries(NAMES, st.sampled_from(["1", "2", "none"])),
              st.just("")),
    st.tuples(st.just("written"), st.sampled_from(KINDS), NAMES, st.just("")),
), max_size=30)


@given(STEPS)
def test_a_store_that_follows_the_marks_has_what_is_wanted(steps: list[Any]) -> None:
    """`written`: whoever writes has done all that was marked until then."""
    wanted, store, truth = made(), dict[str, str](), dict[str, str]()

    def write() -> None:
        for one in wanted.marked():
            store.pop(one, None)
            if one in wanted.records:
                store[one] = wanted.records[one]

    for what, kind, name, value in steps:
        match what:
            case "put":
                wanted.put(kind, item(name, value))
                truth[key(kind, ("", name))] = value
            case "gone":
                wanted.gone(kind, ("", name))
                truth.pop(key(kind, ("", name)), None)
            case "listed":
                wanted.listed(kind, [item(*pair) for pair in name.items()], ())
                truth = {one: old for one, old in truth.items() if not one.startswith(f"{kind.plural}/")}
                truth |= {key(kind, ("", one)): new for one, new in name.items()}
            case _:
                write()
    write()
    assert store == {one: value for one, value in truth.items() if value != "none"} == dict(wanted.records)


def stand_in(_: Kind[Any], name: Name, why: str) -> str | None:
    return f"{name[1]}: {why}" if name[1] != "d" else None


def test_something_stands_in_for_what_was_never_understood_and_only_for_that() -> None:
    """It goes when the object is understood, or gone; what was understood before stays in force."""
    wanted = Wanted(KINDS, key, record, stand_in)
    sink = wanted.sink(KINDS[0])
    sink.listed(Listing([item("a", "1"), item("b", "bad")], "1", frozenset({("", "c"), ("", "d")})))
    assert wanted.doubtful == {"namespaces/b": "b: bad", "namespaces/c": "c: it does not decode", "namespaces/d": None}
    assert [wanted.at(f"namespaces/{name}") for name in "abcd"] == ["1", "b: bad", "c: it does not decode", None]
    wanted.marked()
    sink.put(item("a", "bad"))
    sink.damaged(("", "a"))
    assert wanted.at("namespaces/a") == "1"
    sink.put(item("b", "2"))
    sink.gone(("", "c"))
    assert wanted.doubtful == {"namespaces/d": None}
    assert (wanted.at("namespaces/b"), wanted.at("namespaces/c")) == ("2", None)
    assert {"namespaces/b", "namespaces/c"} <= wanted.marked()
    sink.listed(Listing([item("b", "2")], "2"))
    assert wanted.doubtful == {}
    assert wanted.records == {"namespaces/b": "2"}
