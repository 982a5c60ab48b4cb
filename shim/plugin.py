"""One call of the plugin: from environment and stdin to what is printed and the exit status."""

from __future__ import annotations

from time import monotonic

from shim import chain, configuration, delegate, environment, journal, jsontext, messages, trace
from shim.client import Client
from shim.deadline import Deadline
from shim.errors import IO_FAILURE, TRY_AGAIN_LATER, UNEXPECTED, CniError
from shim.journal import Journal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shim.chain import Caller, Invocation


_STATUS_SECONDS = 5.0  # runtimes ask for it about every five


class Outcome:
    """How a call ended.

    Attributes:
        status: Exit status of the process.
        output: All that goes to stdout.
        diagnostics: A line for stderr, "" for none.
    """

    __slots__ = ("diagnostics", "output", "status")

    def __init__(self, status: int, output: bytes, diagnostics: str = "") -> None:
        self.status = status
        self.output = output
        self.diagnostics = diagnostics


def run(environ: Mapping[bytes, bytes], read_stdin: Callable[[], bytes]) -> Outcome:
    """Carry out the command in the environment. Whatever happens, the outcome is CNI's."""
    began = monotonic()
    raw, parent, command = b"", "", "call"
    try:
        given = environment.read(environ)
        command = given.command
        parent = trace.traceparent(given.traceparent)
        raw = read_stdin()
        if command == "VERSION":
            return Outcome(0, _versions(configuration.requested_version(raw)))
        conf = configuration.parse(raw, command)
        seconds = min(conf.timeout, _STATUS_SECONDS) if command == "STATUS" else conf.timeout
        invocation = chain.Invocation(given, raw, bool(conf.ipam_type))
        services = Client(conf.targets, parent)
        caller = delegate.Delegating(services, conf, invocation, environ) if conf.ipam_type else services
        call = Call(invocation, caller, services, Deadline(began + seconds), Journal(conf.state))
        return Outcome(0, _COMMANDS[command](call), call.note)
    except CniError as error:
        problem = error
    except BaseException as error:  # noqa: BLE001 - the runtime reads JSON, whatever went wrong
        problem = CniError(UNEXPECTED, f"{type(error).__name__}: {error}", f"a defect of the shim at {_place(error)}")
    return _failure(problem, raw, command, trace.request_id(parent))


class Call:
    """One command that services take part in.

    Attributes:
        note: What a command that succeeded has to say all the same, "" for nothing.
    """

    def __init__(self, invocation: Invocation, caller: Caller, services: Caller, deadline: Deadline,
                 journal: Journal) -> None:
        """`caller` is that of the chain; `services` is without a plugin in the place of one."""
        self.invocation = invocation
        self.caller = caller
        self.services = services
        self.deadline = deadline
        self.journal = journal
        self.note = ""

    def add(self) -> bytes:
        """ADD, after what is left to delete of the same attachment."""
        self._catch_up()
        try:
            return chain.add(self.invocation, self.caller, self.deadline)
        except CniError as error:
            if error.unfinished:
                error.details += f"; {self._put_off() or 'the rest of the rollback is put off until it can be done'}"
            raise

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
            self.note = f"muslin: DEL is put off until it can be done: {error.message} ({error.details})"
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


_COMMANDS: dict[str, Callable[[Call], bytes]] = {
    "ADD": Call.add,
    "DEL": Call.delete,
    "CHECK": Call.check,
    "GC": Call.collect,
    "STATUS": Call.status,
}


def _versions(requested: str) -> bytes:
    return _json({"cniVersion": requested, "supportedVersions": configuration.SUPPORTED})


def _failure(problem: CniError, raw: bytes, command: str, request_id: str) -> Outcome:
    details = "; ".join(part for part in (problem.details, request_id and f"request {request_id}") if part)
    diagnostics = f"muslin: {command} failed: code {problem.code}: {problem.message}" + (details and f" ({details})")
    return Outcome(1, _json({
        "cniVersion": configuration.version_for_error(raw),
        "code": problem.code,
        "msg": problem.message,
        "details": details,
    }), diagnostics)


def _json(value: Mapping[str, str | int | tuple[str, ...]]) -> bytes:
    return jsontext.dumps(value).encode() + b"\n"


def _place(error: BaseException) -> str:
    """Where in the shim an exception came from: module and line."""
    trail = error.__traceback__
    while trail and trail.tb_next:
        trail = trail.tb_next
    return f"{trail.tb_frame.f_globals.get('__name__')} line {trail.tb_lineno}" if trail else "an unknown place"
