"""One call of the plugin: from environment and stdin to what is printed and the exit status."""

from __future__ import annotations

from time import monotonic, time_ns

from shim import chain, configuration, delegate, environment, jsontext, log, trace
from shim.client import Client
from shim.commands import COMMANDS, Call
from shim.deadline import Deadline
from shim.errors import UNEXPECTED, CniError, RpcError
from shim.journal import Journal
from shim.log import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import TypeAlias

    from shim.chain import Caller
    from shim.environment import Environment

    Calls: TypeAlias = Sequence[tuple[str, str, bytes]]

_STATUS_SECONDS = 5.0  # runtimes ask for it about every five


class Outcome:
    """How a call ended.

    Attributes:
        status: Exit status of the process.
        output: All that goes to stdout.
        diagnostics: A line for stderr, "" for none.
        log: To be written when the answer is given.
    """

    __slots__ = ("diagnostics", "log", "output", "status")

    def __init__(self, status: int, output: bytes, diagnostics: str, said: Log) -> None:
        self.status = status
        self.output = output
        self.diagnostics = diagnostics
        self.log = said


def run(environ: Mapping[bytes, bytes], read_stdin: Callable[[], bytes]) -> Outcome:
    """Carry out the command in the environment. Whatever happens, the outcome is CNI's."""
    began, stamp = monotonic(), time_ns()
    raw, command, what, said = b"", "call", "", Log()
    try:
        given = environment.read(environ)
        command = given.command
        parent = trace.traceparent(given.traceparent, command != "STATUS")  # which is asked for all the time
        said.request_id = trace.request_id(parent)
        raw = read_stdin()
        if command == "VERSION":
            return Outcome(0, _versions(configuration.requested_version(raw)), "", said)
        conf = configuration.parse(raw, command)
        said.settings = conf.log
        what = _subject(conf.name, given)
        services: Caller = Client(conf.targets, parent, trace.invocation(command, stamp, given.traceparent))
        if conf.log.level <= log.DEBUG:
            services = _timed(services, said)
        invocation = chain.Invocation(given, raw, bool(conf.ipam_type))
        caller = delegate.Delegating(services, conf, invocation, environ) if conf.ipam_type else services
        seconds = min(conf.timeout, _STATUS_SECONDS) if command == "STATUS" else conf.timeout
        # The daemon's run directory is where its socket is (services/node/upkeep/records.py).
        run_dir = conf.targets["node"].rpartition("/")[0]
        record = f"{run_dir}/attachments/{conf.name}@{given.container_id}@{given.ifname}.json"
        call = Call(invocation, caller, services, Deadline(began + seconds), Journal(conf.state), conf.previous, record)
        output = COMMANDS[command](call)
    except CniError as error:
        problem = error
    except BaseException as error:  # noqa: BLE001 - the runtime reads JSON, whatever went wrong
        problem = CniError(UNEXPECTED, f"{type(error).__name__}: {error}", f"a defect of the shim at {_place(error)}")
    else:
        level = log.WARNING if call.note else log.DEBUG if command == "STATUS" else log.INFO
        took = f"{command}{what} took {1000 * (monotonic() - began):.1f} ms"
        said.add(level, took + (call.note and f": {call.note}"))
        return Outcome(0, output, call.note and log.one_line(f"muslin: {call.note}"), said)
    said.add(log.ERROR, f"{command}{what} failed after {1000 * (monotonic() - began):.1f} ms: code {problem.code}: "
                        f"{problem.message}" + (problem.details and f" ({problem.details})"))
    return _failure(problem, raw, command, said)


def _subject(network: str, given: Environment) -> str:
    """What a command is about, for the log."""
    attachment = f" {network}/{given.container_id}/{given.ifname}" if given.container_id else f" {network}"
    pairs = dict(pair.partition("=")[::2] for pair in given.args.split(";"))
    pod = pairs.get("K8S_POD_NAME")
    return f"{attachment} pod={pairs.get('K8S_POD_NAMESPACE', '')}/{pod}" if pod else attachment


def _timed(services: Caller, said: Log) -> Caller:
    """The same, and how long each took goes to the log."""
    def timed(calls: Calls, deadline: Deadline) -> list[bytes | RpcError]:
        began = monotonic()
        outcomes = services(calls, deadline)
        asked = ", ".join(f"{service} {method.removeprefix('Plugin/')}" for service, method, _ in calls)
        said.add(log.DEBUG, f"{asked}: {1000 * (monotonic() - began):.1f} ms")
        return outcomes
    return timed


def _versions(requested: str) -> bytes:
    return _json({"cniVersion": requested, "supportedVersions": configuration.SUPPORTED})


def _failure(problem: CniError, raw: bytes, command: str, said: Log) -> Outcome:
    details = "; ".join(part for part in (problem.details, said.request_id and f"request {said.request_id}") if part)
    diagnostics = f"muslin: {command} failed: code {problem.code}: {problem.message}" + (details and f" ({details})")
    return Outcome(1, _json({
        "cniVersion": configuration.version_for_error(raw),
        "code": problem.code,
        "msg": problem.message,
        "details": details,
    }), log.one_line(diagnostics), said)


def _json(value: Mapping[str, str | int | tuple[str, ...]]) -> bytes:
    return jsontext.dumps(value).encode() + b"\n"


def _place(error: BaseException) -> str:
    """Where in the shim an exception came from: module and line."""
    trail = error.__traceback__
    while trail and trail.tb_next:
        trail = trail.tb_next
    return f"{trail.tb_frame.f_globals.get('__name__')} line {trail.tb_lineno}" if trail else "an unknown place"
