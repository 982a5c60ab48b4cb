"""Reports in files: what was found is what is sent back; nothing else is taken for a report."""

from __future__ import annotations

from pathlib import Path

import pytest

from muslin.api.ipam.v1 import ipam_pb2
from muslin.cli.ipam import report
from muslin.errors import Corrupt, InvalidArgument

REPORT = ipam_pb2.Report(created_ms=2 ** 62, revision=7, cluster="c", allocated=3, in_use=2, problems=[
    ipam_pb2.Problem(kind=ipam_pb2.Problem.KIND_NOT_IN_USE, subject="10.0.0.7", detail="d", handle="n/c/e",
                     sequence=9)])


def test_a_report_is_read_as_it_was_written_and_replaces_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    for written in (REPORT, ipam_pb2.Report(created_ms=1)):
        report.write(path, written)
        assert report.read(path) == written
    assert list(tmp_path.iterdir()) == [path]


def test_a_report_that_can_not_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "report.json").mkdir()
    with pytest.raises(OSError, match=r"report\.json"):
        report.write(tmp_path / "report.json", REPORT)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


NOT_JSON = ("{", "", "\xff")
NO_REPORT = ("[]", "[1]", "7", '"a"', "null", "{}", '{"other": 1}', '{"created_ms": "x"}',
             '{"created_ms": 1, "problems": [{"kind": "KIND_X"}]}')


@pytest.mark.parametrize(("content", "error"), [
    *((content, Corrupt) for content in NOT_JSON), *((content, InvalidArgument) for content in NO_REPORT)])
def test_what_is_no_report_is_refused_by_name(tmp_path: Path, content: str, error: type[Exception]) -> None:
    path = tmp_path / "report.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(error, match=r"report\.json: not "):
        report.read(path)
