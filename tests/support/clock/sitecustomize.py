"""The clock of a process that is started with this folder on PYTHONPATH can be moved while it runs.

The file MUSLIN_TEST_CLOCK names holds eight bytes, an integer of the machine: the nanoseconds that are added to the
time of day. The monotonic clock stays as it is, as when an administrator sets the clock.
"""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path

if _name := os.environ.get("MUSLIN_TEST_CLOCK"):
    with Path(_name).open("rb") as _file:
        _offset = memoryview(mmap.mmap(_file.fileno(), 8, access=mmap.ACCESS_READ)).cast("q")
    _time_ns = time.time_ns

    def _moved_ns() -> int:
        return _time_ns() + _offset[0]

    def _moved() -> float:
        return _moved_ns() / 1e9

    time.time_ns, time.time = _moved_ns, _moved
