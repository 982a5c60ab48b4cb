"""A clock for processes under test that can be set while they run, as an administrator does.

All of a process must see the same time, gRPC's C core too, which turns deadlines by the time of day into waiting. So
libc's functions are replaced, by a small library that is built with the C compiler that is there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["Clock"]


class Clock:
    """The time of day of all processes that are started with `environment`; the monotonic clock stays as it is."""

    possible = shutil.which("cc") is not None
    """Whether there is a C compiler."""

    def __enter__(self) -> Self:
        self._directory = tempfile.TemporaryDirectory(prefix="muslin-clock-")
        self._file, self._library = (Path(self._directory.name, name) for name in ("offset", "clock.so"))
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", self._library, Path(__file__).with_name("clock.c")],
                       check=True)
        self.move(0)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._directory.cleanup()

    @property
    def environment(self) -> dict[str, str]:
        """What to add to the environment of a process."""
        return {"LD_PRELOAD": str(self._library), "MUSLIN_TEST_CLOCK": str(self._file)}

    def move(self, seconds: float) -> None:
        """Set the clock to so many seconds ahead of the machine's, or behind it."""
        with os.fdopen(os.open(self._file, os.O_RDWR | os.O_CREAT), "wb") as file:
            file.write(round(seconds * 1e9).to_bytes(8, "little", signed=True))
