"""Another plugin as a process. What it reads and prints are files in memory: neither side ever waits for the other."""

from __future__ import annotations

import posix
from _socket import socketpair
from time import sleep

from shim import jsontext
from shim.errors import CNI_CODE, DEADLINE_EXCEEDED, INTERNAL, INVALID_CONFIGURATION, IO_FAILURE, RpcError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from shim.deadline import Deadline

_SIGKILL, _SIGPIPE = 9, 13
_LOOK = 0.05    # seconds between two looks at a process that shows no sign of having ended
_REAP = 0.0002  # and at one that has closed all it had open, as an ending one does
_FILE, _KIND = 0o100000, 0o170000  # of a mode (inode(7))


class DelegateError(RpcError):
    """The other plugin failed, and the runtime is told what it said.

    It is never put off: the node daemon, which does what was put off, does not run plugins.
    """

    def __init__(self, code: int, message: str, details: str = "", unasked: bool = False) -> None:
        super().__init__(INTERNAL, message, answered=not unasked, unasked=unasked)
        self.code = code
        self.details = details

    @property
    def passing(self) -> bool:
        """Never."""
        return False


class Running:
    """The plugin's process."""

    def __init__(self, name: str, path: str, config: bytes, environ: Mapping[bytes, bytes]) -> None:
        """Start it.

        Raises:
            DelegateError: it can not be started.
        """
        self._name = name
        self._output = posix.memfd_create("stdout")
        source = posix.memfd_create("stdin")
        ours, its = socketpair()  # ours ends when it has gone, with whatever it started
        try:
            while config:
                config = config[posix.write(source, config):]
            posix.lseek(source, 0, 0)
            posix.set_inheritable(its.fileno(), True)
            self._process = posix.posix_spawn(path, [path], environ, file_actions=[
                (posix.POSIX_SPAWN_DUP2, source, 0), (posix.POSIX_SPAWN_DUP2, self._output, 1)],
                setsigdef=[_SIGPIPE])
        except OSError as problem:
            raise DelegateError(INVALID_CONFIGURATION, f"{path} can not be run: {problem.strerror}",
                                unasked=True) from None
        finally:
            posix.close(source)
            its.close()
        self._life = ours

    def finish(self, deadline: Deadline) -> bytes | RpcError:
        """Wait for its end: what it printed, or why it failed."""
        allowed = deadline.left()
        try:
            status = self._wait(deadline)
        except TimeoutError:
            posix.kill(self._process, _SIGKILL)
            posix.waitpid(self._process, 0)
            return DelegateError(CNI_CODE[DEADLINE_EXCEEDED], f"{self._name} did not end within {allowed:.1f} s, and "
                                                              "was killed")
        output = posix.pread(self._output, posix.fstat(self._output).st_size, 0)
        return output if status == 0 else self._failure(status, output)

    def _wait(self, deadline: Deadline) -> int:
        pause = 0.0
        while True:
            process, status = posix.waitpid(self._process, posix.WNOHANG)
            if process:
                return posix.waitstatus_to_exitcode(status)
            if pause:
                sleep(min(pause, deadline.remaining()))
                continue
            self._life.settimeout(min(_LOOK, deadline.remaining()))
            try:
                self._life.recv(1)
                pause = _REAP
            except TimeoutError:
                pass

    def _failure(self, status: int, output: bytes) -> DelegateError:
        """What it said, with the code that it said (specification 1.1, "Error")."""
        try:
            said = jsontext.loads(output)
        except jsontext.NotJson:
            said = None
        code, message, details = ((said.get(key) for key in ("code", "msg", "details")) if isinstance(said, dict)
                                  else (None, None, None))
        if isinstance(code, int) and not isinstance(code, bool) and code > 0:
            return DelegateError(code, f"{self._name}: {message}", str(details) if details else "")
        end = f"exit code {status}" if status > 0 else f"signal {-status}"
        return DelegateError(IO_FAILURE, f"{self._name} ended with {end} and no CNI error but {excerpt(output)}")


def find(name: str, path: str) -> str:
    """The path of a plugin: in the first directory of CNI_PATH that has it.

    Raises:
        DelegateError: none has.
    """
    for directory in path.split(":"):
        candidate = f"{directory}/{name}"
        try:
            if directory and posix.stat(candidate).st_mode & _KIND == _FILE and posix.access(candidate, posix.X_OK):
                return candidate
        except (OSError, ValueError):
            pass  # not there
    raise DelegateError(INVALID_CONFIGURATION, f"ipam.type {name!r}: there is no such plugin in CNI_PATH {path!r}",
                        unasked=True)


def excerpt(output: bytes) -> str:
    """What it printed, for people."""
    return repr(output[:200].decode("utf-8", "replace")) if output else "nothing"
