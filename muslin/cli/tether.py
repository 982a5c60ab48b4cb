"""Run a program that dies with its parent: `python tether.py PARENT_PID PROGRAM ARG...`.

PR_SET_PDEATHSIG (prctl(2)) stays set across execve and is sent when the parent's thread ends, however it ends, so no
service outlives a supervisor that was killed. It is set here, in a fresh interpreter that becomes the program, and not
between fork and exec of the supervisor, which has threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Tie this process to its parent and become the program."""
    parent, *command = arguments
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != int(parent):  # it ended before the signal was set
        sys.exit("the parent is gone")
    os.execv(command[0], command)  # noqa: S606 - becoming the program, without a shell, is the purpose


if __name__ == "__main__":
    main(sys.argv[1:])
