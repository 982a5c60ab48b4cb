"""One `muslin up` for a directory, and what it says about itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from muslin.cli.lock import UpLock, last_run, running
from muslin.cli.places import Places
from muslin.cli.process import this_process
from muslin.errors import FailedPrecondition


def test_a_second_one_is_told_who_is_first(tmp_path: Path) -> None:
    places = Places(tmp_path / "run", tmp_path / "state")
    assert running(places.run) is None
    lock = UpLock(places)
    lock.describe("node-1", "127.0.0.1:1")
    found = running(places.run)
    assert found is not None
    assert (found.process, found.node, found.state) == (this_process(), "node-1", str(places.state))
    with pytest.raises(FailedPrecondition, match=rf"up already on {places.run} \(process {this_process().pid}, state"):
        UpLock(Places(places.run, tmp_path / "other"))
    with pytest.raises(FailedPrecondition, match=rf"up already on {places.state}; stop it with: muslin down"):
        UpLock(Places(tmp_path / "elsewhere", places.state))
    lock.close()
    assert running(places.run) is None
    assert last_run(places.run) == found
    UpLock(places).close()


def test_directories_are_closed_to_others(tmp_path: Path) -> None:
    places = Places(tmp_path / "run", tmp_path / "state")
    UpLock(places).close()
    assert {path.stat().st_mode & 0o777 for path in (places.run, places.state)} == {0o700}
    places.run.chmod(0o755)
    with pytest.raises(FailedPrecondition, match=f"chmod 0700 {places.run}"):
        UpLock(places)
