"""The commands that services take part in."""

from __future__ import annotations

from posix import stat

from shim import chain, journal, jsontext, messages
from shim.errors import INVALID_CONFIGURATION, IO_FAILURE, TRY_AGAIN_LATER, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shim.chain import Caller, Invocation
    from shim.deadline import Deadline
    from shim.journal import Journal
    from shim.jsontext import Value


class Call:
    """One command that services take part in.

    Attributes:
        note: What a command that succeeded has to say all the same, "" for nothing.
    """

    def __init__(self, invocation: Invocation, caller: Caller, services: Caller, deadline: Deadline, journal: Journal,
                 previous: Mapping[str, Value], record: str) -> None:
        """`caller` is the chain's; `services` is without a plugin in the place of one; `previous` is prevResult.

        `record` is the file that the node daemon keeps of the attachment while it is wired.
        """
        self.invocation = invocation
        self.caller = caller
        self.services = services
        self.deadline = deadline
        self.journal = journal
        self.previous = previous
        self.record = record
        self.note = ""

    def add(self) -> bytes:
        """ADD, after what is left to delete of the same attachment."""
        begun = self._begun()
        self._catch_up()
        there_before = self._wired()
        try:
            return chain.add(self.invocation, self.caller, self.deadline, begun, there_before)
        except CniError as error:
            if error.unfinished:
                error.details += f"; {self._put_off() or 'the rest of the rollback is put off until it can be done'}"
            raise

    def _wired(self) -> bool:
        """Whether the attachment is there from an earlier ADD.

        It is looked up beforehand, and without asking anybody: when this ADD fails since nobody answers, the running
        pod must not be taken for what it has made.
        """
        try:
            stat(self.record)
        except OSError:
            return False
        return True

    def _begun(self) -> bytes:
        """What plugins before us in the list have made: it is handed on, and our interface comes after it.

        Raises:
            CniError: there are addresses in it. They are another interface's, and the services would take them for
                this one's.
        """
        if any(self.previous.get(field) for field in ("ips", "ip4", "ip6")):
            raise CniError(INVALID_CONFIGURATION, "prevResult has addresses: this plugin makes the pod's interface, so "
                                                  "it must come before any other of the list that gives it some")
        return jsontext.dumps(self.previous).encode() if self.previous else b""

    def _catch_up(self) -> None:
        """Do what was put off of this attachment: done later, it would tear down what ADD makes."""
        given = self.invocation.environment
        try:
            for path, call in self.journal.of(given.container_id, given.ifname):
                chain.delete(messages.request(call), self.services, self.deadline)
                journal.remove(path)
        except CniError as error:
            error.message = f"an earlier DEL of this attachment is still to be done: {error.message}"
            raise
        except OSError as problem:
            raise CniError(IO_FAILURE, f"{self.journal.directory}: {problem.strerror}") from None

    def delete(self) -> bytes:
        """DEL. What can not be done now and may be later is put off; a runtime that repeats it all could do no more."""
        try:
            chain.delete(self.invocation.request(), self.caller, self.deadline, self.invocation.delegated)
        except CniError as error:
            if not error.unfinished:
                raise
            if problem := self._put_off():
                raise CniError(TRY_AGAIN_LATER, error.message, f"{error.details}; {problem}") from None
            self.note = f"DEL is put off until it can be done: {error.message} ({error.details})"
        return b""

    def _put_off(self) -> str:
        """Have the deletion done later; what is in the way of that, "" if nothing."""
        given = self.invocation.environment
        try:
            self.journal.add(given.container_id, given.ifname, self.invocation.call())
        except journal.Full as problem:
            return f"it can not be put off: {problem}"
        except OSError as problem:
            return f"it can not be put off: {self.journal.directory}: {problem.strerror}"
        return ""

    def check(self) -> bytes:
        """CHECK."""
        chain.check(self.invocation, self.caller, self.deadline)
        return b""

    def collect(self) -> bytes:
        """GC."""
        chain.collect(self.invocation, self.caller, self.deadline)
        return b""

    def status(self) -> bytes:
        """STATUS."""
        chain.status(self.invocation, self.caller, self.deadline)
        return b""


COMMANDS: dict[str, Callable[[Call], bytes]] = {
    "ADD": Call.add,
    "DEL": Call.delete,
    "CHECK": Call.check,
    "GC": Call.collect,
    "STATUS": Call.status,
}
"""By CNI_COMMAND; each returns what goes to stdout."""
