"""The plugin's log file: what is written, and rotation by many at once."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from shim import log
from shim.log import Log, Settings

WRITER = """
import sys
from shim.log import Log, Settings
for number in range(200):
    said = Log()
    said.settings = Settings(path=sys.argv[1], size=4096, count=100)
    said.add(20, f"writer {sys.argv[2]} line {number}")
    said.write()
"""


def said(path: Path, *messages: str, level: int = log.INFO, size: int = 1 << 20, count: int = 2) -> None:
    made = Log()
    made.settings, made.request_id = Settings(log.INFO, str(path), size, count), "a" * 32
    for message in messages:
        made.add(level, message)
    made.write()


def test_a_line_is_like_those_of_the_services(tmp_path: Path) -> None:
    said(tmp_path / "log", "one", "two")
    first, second = (tmp_path / "log").read_text().splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info shim req=a{32} one", first)
    assert second.endswith(" two")
    assert (tmp_path / "log").stat().st_mode & 0o137 == 0


@pytest.mark.parametrize(("level", "written"), [
    (log.DEBUG, False), (log.INFO, True), (log.WARNING, True), (log.ERROR, True)])
def test_what_is_less_than_the_level_is_left_out(tmp_path: Path, level: int, written: bool) -> None:
    said(tmp_path / "log", "x", level=level)
    assert (tmp_path / "log").exists() == written


def test_a_message_is_one_line_of_bounded_length(tmp_path: Path) -> None:
    said(tmp_path / "log", "a\nb\x1b[31m\u2028é", "x" * 100_000)
    first, second = (tmp_path / "log").read_text().split("\n")[:2]
    assert first.endswith("a\\nb\\u001b[31m\\u2028é")
    assert len(second) == 4096


def test_it_is_rotated_and_the_oldest_goes(tmp_path: Path) -> None:
    for number in range(10):
        said(tmp_path / "log", f"line {number}", size=1)
    found = {path.name: path.read_text().split()[-1] for path in tmp_path.iterdir()}
    assert found == {"log": "9", "log.1": "8", "log.2": "7"}


@pytest.mark.parametrize("path", ["nowhere/log", "file/log", "."])
def test_where_it_can_not_be_there_is_none(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").touch()
    said(tmp_path / path, "x")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_device_is_never_rotated() -> None:
    said(Path("/dev/null"), "x", size=1)
    assert Path("/dev/null").is_char_device()


def test_no_line_is_lost_while_many_write_and_rotate(tmp_path: Path) -> None:
    """Eight processes, and a file is full after eighty lines."""
    root = Path(__file__).resolve().parents[3]
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "log"), str(number)], cwd=root)
               for number in range(8)]
    assert [writer.wait(60) for writer in writers] == [0] * 8
    lines = [line.split(" shim ")[1] for path in tmp_path.iterdir() for line in path.read_text().splitlines()]
    assert sorted(lines) == sorted(f"writer {w} line {n}" for w in range(8) for n in range(200))
    assert len(list(tmp_path.iterdir())) > 2
