"""The plugin's log: one line a command, in a file that is rotated, in the format of the services' logs.

All that a command has to say is kept until its answer is given, then appended in one write, so lines of plugins that
run at the same moment never mix. Where the directory is not there, or may not be written, there is no log; `muslin
install` makes it. Never in it: configurations, which may hold secrets.
"""

from __future__ import annotations

from posix import (
    F_TLOCK,
    O_APPEND,
    O_CLOEXEC,
    O_CREAT,
    O_WRONLY,
    close,
    fstat,
    lockf,
    rename,
    stat,
    write,
)
from posix import open as open_file
from time import gmtime, strftime, time_ns

DEBUG, INFO, WARNING, ERROR, FATAL = range(10, 60, 10)
LEVELS = {"debug": DEBUG, "info": INFO, "warning": WARNING, "warn": WARNING, "error": ERROR, "fatal": FATAL,
          "panic": FATAL}
"""Calico's names of levels."""

_NAMES = {DEBUG: "debug", INFO: "info", WARNING: "warning", ERROR: "error"}

DEFAULT_PATH = "/var/log/muslin/shim.log"
DEFAULT_SIZE = 10 << 20
DEFAULT_COUNT = 3

_LONGEST_LINE = 4096  # characters


class Settings:
    """Where to, and how much.

    Attributes:
        level: What is less than that is left out.
        path: The file.
        size: Bytes after which it is rotated.
        count: Rotated files that are kept: `path.1` is the newest.
    """

    __slots__ = ("count", "level", "path", "size")

    def __init__(self, level: int = INFO, path: str = DEFAULT_PATH, size: int = DEFAULT_SIZE,
                 count: int = DEFAULT_COUNT) -> None:
        self.level = level
        self.path = path
        self.size = size
        self.count = count


class Log:
    """What one command has to say.

    Attributes:
        settings: From the configuration, once it is read.
        request_id: Of the command.
    """

    def __init__(self) -> None:
        self.settings = Settings()
        self.request_id = ""
        self._lines: list[str] = []

    def add(self, level: int, message: str) -> None:
        """Say something."""
        if level >= self.settings.level:
            now = time_ns()
            stamp = strftime("%Y-%m-%dT%H:%M:%S", gmtime(now // 1_000_000_000))
            request = f" req={self.request_id}" if self.request_id else ""
            line = f"{stamp}.{now // 1_000_000 % 1000:03d}Z {_NAMES[level]} shim{request} {one_line(message)}"
            self._lines.append(line[:_LONGEST_LINE])

    def write(self) -> None:
        """Append it to the file; where there is none to be had, nothing happens."""
        if not self._lines:
            return
        try:
            _append(self.settings, "".join(line + "\n" for line in self._lines).encode("utf-8", "replace"))
        except (OSError, ValueError):
            pass


def one_line(text: str) -> str:
    """Without characters that would break a line or a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else {"\n": "\\n", "\t": "\\t"}.get(c, f"\\u{ord(c):04x}") for c in text)


def _append(settings: Settings, text: bytes) -> None:
    """Write it to the end of the file, which is made anew before if it has become too large."""
    file = _open(settings.path)
    try:
        if fstat(file).st_size >= settings.size and _rotated(settings, file):
            close(file)
            file = _open(settings.path)
        write(file, text)
    finally:
        close(file)


def _open(path: str) -> int:
    return open_file(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o640)


def _rotated(settings: Settings, file: int) -> bool:
    """Move the file aside, unless somebody else does or did: then what we write goes to the one or the other.

    Raises:
        OSError: it can not be moved.
    """
    try:
        lockf(file, F_TLOCK, 0)
    except OSError:
        return False
    ours = fstat(file)
    try:
        there = stat(settings.path)
    except FileNotFoundError:
        return True  # done just now
    if (ours.st_dev, ours.st_ino) != (there.st_dev, there.st_ino):
        return True  # done already
    for number in range(settings.count, 0, -1):
        try:
            rename(f"{settings.path}.{number - 1}" if number > 1 else settings.path, f"{settings.path}.{number}")
        except FileNotFoundError:
            pass
    return True
