"""Deletions that could not be done when the runtime asked for them, as files that the CNI plugin wrote.

One file for each: `<unix nanoseconds, 20 digits>.<container id>.<interface>.call` in `<state>/deletions/`, and in it
the serialized muslin.cni.v1.Call. The plugin writes it under another name and renames it, so what has that name is
whole. Configurations may hold secrets: a call is never printed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from muslin.api.cni.v1 import cni_pb2
from muslin.errors import Corrupt

__all__ = ["Entry", "Journal", "Waiting"]

log = logging.getLogger(__name__)

SUFFIX = ".call"

FAILED = "failed"
"""Directory beside the entries for those that can never be done."""

FAILED_KEPT = 100
"""Of those the newest that are kept, for whoever wants to know what they were."""

_NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One deletion that waits."""

    path: Path

    @property
    def name(self) -> str:
        """Its name, which says when and of what; names sort by time."""
        return self.path.name

    def age(self, now_ns: int) -> float:
        """Seconds since it was written, by its name; 0 if that says nothing, or the future."""
        digits = self.name.partition(".")[0]
        return max(0, now_ns - int(digits)) / _NANOSECONDS if digits.isdecimal() else 0.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """How many deletions wait, the oldest since how many seconds, and how many were given up."""

    count: int = 0
    oldest_seconds: float = 0.0
    failed: int = 0


class Journal:
    """The directory. Somebody else writes it, and may do so at any time."""

    def __init__(self, directory: Path) -> None:
        """It need not exist: then nothing waits."""
        self._directory = directory

    @property
    def directory(self) -> Path:
        """Where the files are."""
        return self._directory

    def entries(self) -> list[Entry]:
        """Those that wait, oldest first.

        Raises:
            OSError: the directory can not be read.
        """
        try:
            return [Entry(path) for path in sorted(self._directory.iterdir()) if path.name.endswith(SUFFIX)]
        except FileNotFoundError:
            return []

    def read(self, entry: Entry) -> cni_pb2.Call | None:
        """The call of an entry; None if somebody has done it meanwhile.

        Raises:
            Corrupt: it is none.
            OSError: it can not be read.
        """
        try:
            call = cni_pb2.Call.FromString(entry.path.read_bytes())
        except FileNotFoundError:
            return None
        except DecodeError:
            raise Corrupt(f"{entry.name} does not hold a call") from None
        if not call.container_id or not call.config:
            raise Corrupt(f"{entry.name} holds a call without container or configuration")
        return call

    def remove(self, entry: Entry) -> None:
        """It is done. Raises OSError."""
        entry.path.unlink(missing_ok=True)

    def give_up(self, entry: Entry) -> None:
        """It can not be done, ever: put it aside; of what was put aside before, the oldest go. Raises OSError."""
        aside = self._directory / FAILED
        aside.mkdir(mode=0o700, exist_ok=True)
        try:
            entry.path.replace(aside / entry.name)
        except FileNotFoundError:
            return  # somebody has done it meanwhile
        for path in self._failed()[:-FAILED_KEPT]:
            path.unlink(missing_ok=True)

    def waiting(self) -> Waiting:
        """For people. Raises OSError."""
        entries = self.entries()
        oldest = entries[0].age(time.time_ns()) if entries else 0.0
        return Waiting(len(entries), oldest, len(self._failed()))

    def _failed(self) -> Sequence[Path]:
        try:
            return sorted((self._directory / FAILED).iterdir())
        except FileNotFoundError:
            return []
