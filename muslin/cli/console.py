"""What the command line shows: results on stdout, everything about the way there on stderr."""

from __future__ import annotations

import os
import shutil
import sys
import time

from muslin.errors import InvalidArgument

__all__ = ["Console", "fancy"]


class Console:
    """Messages and progress. Progress overwrites itself on a terminal and is left out elsewhere."""

    def __init__(self, *, quiet: bool = False) -> None:
        """`quiet` leaves out all but warnings."""
        self._quiet = quiet
        self._live = sys.stderr.isatty() and not quiet
        self._shown = False
        self._last = 0.0

    def say(self, text: str) -> None:
        """A line about what happens."""
        if not self._quiet:
            self.warn(text)

    def warn(self, text: str) -> None:
        """A line that is shown even to those who want quiet."""
        self._clear()
        print(text, file=sys.stderr, flush=True)

    def progress(self, text: str) -> None:
        """How far a long step is; at most ten times a second."""
        now = time.monotonic()
        if self._live and now - self._last >= 0.1:
            self._last = now
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{text[:width]}\033[K", end="", file=sys.stderr, flush=True)
            self._shown = True

    def result(self, text: str) -> None:
        """What was asked for."""
        self._clear()
        print(text, flush=True)

    def binary(self, data: bytes) -> None:
        """What was asked for, if it is no text; not for a terminal. Raises InvalidArgument."""
        if sys.stdout.isatty():
            raise InvalidArgument("this is no text, and stdout is a terminal; write it to a file: > FILE")
        self._clear()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    def _clear(self) -> None:
        if self._shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
            self._shown = False


def fancy() -> tuple[bool, bool, int]:
    """Whether stdout can show more than ASCII, whether colour, and its width (0: no limit). NO_COLOR is honoured."""
    terminal = sys.stdout.isatty()
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    colour = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return unicode, colour, shutil.get_terminal_size().columns if terminal else 0
