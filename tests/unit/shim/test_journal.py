"""The files of deletions that are put off."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from muslin.api.cni.v1 import cni_pb2
from shim import journal
from shim.journal import Full, Journal

IDS = st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*", fullmatch=True)
NAMES = st.from_regex(r"[a-z0-9.\-é]{1,7}", fullmatch=True)


def call(container: str, ifname: str = "eth0", config: bytes = b"{}") -> bytes:
    return cni_pb2.Call(container_id=container, ifname=ifname, config=config).SerializeToString()


def calls(found: list[tuple[str, bytes]]) -> list[bytes]:
    return [content for _, content in found]


def test_what_is_put_off_is_found_again_and_is_for_root_alone(tmp_path: Path) -> None:
    made = Journal(f"{tmp_path}/state")
    assert made.of("c1", "eth0") == []
    made.add("c1", "eth0", call("c1"))
    entry, = Path(made.directory).iterdir()
    assert re.fullmatch(r"\d{20}\.c1\.eth0\.call", entry.name)
    assert (entry.stat().st_mode & 0o777, entry.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert made.of("c1", "eth0") == [(str(entry), call("c1"))]
    journal.remove(str(entry))
    journal.remove(str(entry))
    assert made.of("c1", "eth0") == []


def test_names_sort_by_time_and_repetition_adds_nothing(tmp_path: Path) -> None:
    made = Journal(str(tmp_path))
    for config in (b"{1}", b"{2}", b"{1}", b"{0}"):
        made.add("c1", "eth0", call("c1", config=config))
    assert calls(made.of("c1", "eth0")) == [call("c1", config=config) for config in (b"{1}", b"{2}", b"{0}")]


def test_names_that_look_alike_are_told_apart(tmp_path: Path) -> None:
    """`c.eth0` with interface `x` and `c` with interface `eth0.x` have the same file name but for the time."""
    made = Journal(str(tmp_path))
    pairs = [("c.eth0", "x"), ("c", "eth0.x")]
    for pair in pairs:
        made.add(*pair, call(*pair))
    for pair in pairs:
        assert calls(made.of(*pair)) == [call(*pair)]


@given(st.lists(st.tuples(IDS, NAMES), min_size=1, max_size=4, unique=True), st.integers(1, 300))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_attachment_finds_its_own_and_no_other(tmp_path: Path, pairs: list[tuple[str, str]], times: int) -> None:
    made = Journal(str(tmp_path))
    long = [((container * times)[:1000], ifname) for container, ifname in pairs]
    for pair in dict.fromkeys(long):
        made.add(*pair, call(*pair))
    for pair in dict.fromkeys(long):
        found = made.of(*pair)
        assert calls(found) == [call(*pair)]
        assert len(Path(found[0][0]).name.encode()) <= 255
    for entry in Path(made.directory).iterdir():
        entry.unlink()


def test_long_ids_that_begin_alike_have_names_of_their_own(tmp_path: Path) -> None:
    made = Journal(str(tmp_path))
    ids = ["c" * 300 + end for end in "ab"]
    for each in ids:
        made.add(each, "eth0", call(each))
    assert len({entry.name[20:] for entry in Path(made.directory).iterdir()}) == 2


def test_there_is_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "MOST", 3)
    made = Journal(str(tmp_path))
    for container in "abc":
        made.add(container, "eth0", call(container))
    made.add("a", "eth0", call("a"))
    with pytest.raises(Full, match=r"3 deletions wait in .*deletions for the node daemon"):
        made.add("d", "eth0", call("d"))
    assert made.of("d", "eth0") == []


def test_a_file_that_is_no_call_is_left_to_the_daemon(tmp_path: Path) -> None:
    made = Journal(str(tmp_path))
    made.add("c1", "eth0", call("c1"))
    damaged = Path(made.directory, f"{0:020}.c1.eth0.call")
    damaged.write_bytes(b"\xff")
    assert calls(made.of("c1", "eth0")) == [call("c1")]


def test_what_a_killed_process_left_half_written_is_no_deletion(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "getpid", lambda: 7)
    made = Journal(str(tmp_path))
    made.add("c1", "eth0", call("c1"))
    half = Path(made.directory, ".7.new")
    half.write_bytes(b"half")
    made.add("c2", "eth0", call("c2"))
    assert sorted(entry.name[21:] for entry in Path(made.directory).iterdir()) == ["c1.eth0.call", "c2.eth0.call"]


def test_a_disk_that_takes_nothing_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal, "fsync", full)
    made = Journal(str(tmp_path))
    with pytest.raises(OSError, match="No space left"):
        made.add("c1", "eth0", call("c1"))
    assert list(Path(made.directory).iterdir()) == []
