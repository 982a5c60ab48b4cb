"""One call of the plugin: from environment and stdin to what is printed and the exit status."""

from __future__ import annotations

from time import monotonic

from shim import chain, configuration, environment, jsontext, trace
from shim.client import Client
from shim.deadline import Deadline
from shim.errors import UNEXPECTED, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeAlias

    from shim.chain import Caller, Invocation

    Command: TypeAlias = Callable[[Invocation, Caller, Deadline], bytes]


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
        services = Client(conf.targets, parent)
        return Outcome(0, _COMMANDS[command](chain.Invocation(given, raw), services, Deadline(began + conf.timeout)))
    except CniError as error:
        problem = error
    except BaseException as error:  # noqa: BLE001 - the runtime reads JSON, whatever went wrong
        problem = CniError(UNEXPECTED, f"{type(error).__name__}: {error}", f"a defect of the shim at {_place(error)}")
    return _failure(problem, raw, command, trace.request_id(parent))


def _silent(run_chain: Callable[[Invocation, Caller, Deadline], None]) -> Command:
    """A command without a result."""
    def command(invocation: Invocation, caller: Caller, deadline: Deadline) -> bytes:
        run_chain(invocation, caller, deadline)
        return b""
    return command


_COMMANDS: dict[str, Command] = {
    "ADD": chain.add,
    "DEL": _silent(chain.delete),
    "CHECK": _silent(chain.check),
    "GC": _silent(chain.collect),
    "STATUS": _silent(chain.status),
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
