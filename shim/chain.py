"""The order of the services, and what happens when one of them fails. Pure: the calls are made by whoever is passed in.

========  ==============================  =======================================================
command   order                           on an error
========  ==============================  =======================================================
ADD       ipam, policy, endpoint, node    roll back, the failing step first, and report it
DEL, GC   node, endpoint, policy, ipam    go on, report the first and name the others
CHECK     ipam, policy, endpoint, node    stop, report it
STATUS    ipam, policy, endpoint, node    stop, report it as "not available"
========  ==============================  =======================================================
"""

from __future__ import annotations

from shim import messages
from shim.configuration import SERVICES
from shim.errors import (
    ALREADY_EXISTS,
    CNI_CODE,
    INTERNAL,
    PLUGIN_NOT_AVAILABLE,
    STATUS_NAME,
    TRY_AGAIN_LATER,
    UNEXPECTED,
    CniError,
    RpcError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from shim.deadline import Deadline
    from shim.environment import Environment

    Caller: TypeAlias = Callable[[str, str, bytes, Deadline], bytes]
    """Calls a verb of a service: (service, verb, request, deadline) to response; raises RpcError."""

    Failure: TypeAlias = tuple[str, RpcError]
    """A service and what its call came to."""

_RESERVE = 0.25  # the part of an ADD's time that is kept for its rollback


class Invocation:
    """What the runtime asked for: its environment and configuration, as every service gets to see them."""

    __slots__ = ("config", "environment")

    def __init__(self, environment: Environment, config: bytes) -> None:
        self.environment = environment
        self.config = config

    def request(self, result: bytes = b"", context: bytes = b"") -> bytes:
        """The request of any verb, with what the services before this one handed on."""
        given = self.environment
        return messages.request(messages.call(given.container_id, given.netns, given.ifname, given.args, given.path,
                                              self.config, result, context))


def add(invocation: Invocation, caller: Caller, deadline: Deadline) -> bytes:
    """Run ADD and return the last service's result.

    A call without an answer may have been carried out, so the failing step is rolled back too. The rollback is the
    services' own DEL, by attachment. So it must not run when a step answers ALREADY_EXISTS: that means that this very
    attachment is there from an earlier ADD, whose address and record the steps before it have only found again.

    Raises:
        CniError: a step failed; the rollback is done, or its details say what of it is not.
    """
    whole = deadline.left()
    forward = deadline.earlier(whole * _RESERVE)
    result = context = b""
    for number, service in enumerate(SERVICES):
        try:
            answer = _step(service, invocation.request(result, context), caller, forward)
        except RpcError as error:
            there_before = error.answered and error.status == ALREADY_EXISTS
            undo = () if there_before else SERVICES[:number + 1][::-1]
            failed = _each(undo, "Del", invocation.request(), caller, deadline)
            raise _report((service, error), failed, f"rolled back {_names(undo, failed)}") from None
        result, context = answer
    return result


def _step(service: str, request: bytes, caller: Caller, deadline: Deadline) -> tuple[bytes, bytes]:
    """Result and context after a service's part of ADD.

    Raises:
        RpcError: its own, or its answer is not what the chain can go on with.
    """
    try:
        result, context = messages.add_response(caller(service, "Add", request, deadline))
    except messages.BadMessage as problem:
        raise RpcError(INTERNAL, f"an answer that does not decode: {problem}") from None
    if service == SERVICES[-1] and not result:
        raise RpcError(INTERNAL, "no result at the end of the chain")
    return result, context


def delete(invocation: Invocation, caller: Caller, deadline: Deadline) -> None:
    """Run DEL: every service gets its chance, whatever the others said.

    Raises:
        CniError: the first failure.
    """
    _all_or_first(invocation, "Del", caller, deadline)


def collect(invocation: Invocation, caller: Caller, deadline: Deadline) -> None:
    """Run GC, as DEL.

    Raises:
        CniError: the first failure.
    """
    _all_or_first(invocation, "GC", caller, deadline)


def check(invocation: Invocation, caller: Caller, deadline: Deadline) -> None:
    """Run CHECK.

    Raises:
        CniError: the first failure, at which it stops.
    """
    _until_first(invocation, "Check", caller, deadline)


def status(invocation: Invocation, caller: Caller, deadline: Deadline) -> None:
    """Run STATUS.

    Raises:
        CniError: the first failure, at which it stops. What would be "try again later" elsewhere is
            PLUGIN_NOT_AVAILABLE here (specification 1.1, "STATUS").
    """
    try:
        _until_first(invocation, "Status", caller, deadline)
    except CniError as error:
        if error.code == TRY_AGAIN_LATER:
            error.code = PLUGIN_NOT_AVAILABLE
        raise


def _until_first(invocation: Invocation, verb: str, caller: Caller, deadline: Deadline) -> None:
    for service in SERVICES:
        try:
            caller(service, verb, invocation.request(), deadline)
        except RpcError as error:
            raise _report((service, error), (), "") from None


def _all_or_first(invocation: Invocation, verb: str, caller: Caller, deadline: Deadline) -> None:
    failed = _each(SERVICES[::-1], verb, invocation.request(), caller, deadline)
    if failed:
        raise _report(failed[0], failed[1:], "")


def _each(services: Sequence[str], verb: str, request: bytes, caller: Caller, deadline: Deadline) -> list[Failure]:
    """Call every service, each with its share of the time, and collect what failed."""
    failed = []
    for number, service in enumerate(services):
        try:
            caller(service, verb, request, deadline.share(len(services) - number))
        except RpcError as error:
            failed.append((service, error))
    return failed


def _report(first: Failure, others: Sequence[Failure], done: str) -> CniError:
    service, error = first
    notes = [f"{service} answered {_status(error)}" if error.answered else f"{service}: {_status(error)}"]
    notes += [done] if done else []
    notes += [f"{name} failed too: {other.message} ({_status(other)})" for name, other in others]
    return CniError(CNI_CODE.get(error.status, UNEXPECTED), f"{service}: {error.message}", "; ".join(notes))


def _status(error: RpcError) -> str:
    return STATUS_NAME[error.status] if 0 <= error.status < len(STATUS_NAME) else str(error.status)


def _names(services: Sequence[str], failed: Sequence[Failure]) -> str:
    """The services that were rolled back, without those that failed to."""
    broken = [name for name, _ in failed]
    return ", ".join(name for name in services if name not in broken) or "nothing"
