"""A clock for processes under test that can be set: `Clock.environment` goes to the process."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["Clock"]


class Clock:
    """The time of day of all processes that are started with `environment`; see `sitecustomize` beside this."""

    def __enter__(self) -> Self:
        self._directory = tempfile.TemporaryDirectory(prefix="muslin-clock-")
        self._file = Path(self._directory.name, "offset")
        self.move(0)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._directory.cleanup()

    @property
    def environment(self) -> dict[str, str]:
        """What to add to the environment of a process."""
        return {"PYTHONPATH": str(Path(__file__).parent), "MUSLIN_TEST_CLOCK": str(self._file)}

    def move(self, seconds: float) -> None:
        """Set the clock to so many seconds ahead of the machine's, or behind it."""
        with os.fdopen(os.open(self._file, os.O_RDWR | os.O_CREAT), "wb") as file:
            file.write(round(seconds * 1e9).to_bytes(8, "little", signed=True))
