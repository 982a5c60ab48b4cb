"""The order of the services, and what happens when one of them fails. Pure: the calls are made by whoever is passed in.

========  ====================================  =================================================
command   order                                 on an error
========  ====================================  =================================================
ADD       ipam with policy; endpoint; node      roll back all that were asked, and report it
DEL       node with endpoint; policy with ipam  go on, but free no address that may be in use;
                                                report the first and name the others
GC        node with endpoint; policy with ipam  go on, report the first and name the others
CHECK     all at once                           report the first and name the others
STATUS    all at once                           the same, as "not available"
========  ====================================  =================================================
"""

from __future__ import annotations

from shim import messages
from shim.errors import (
    ALREADY_EXISTS,
    CNI_CODE,
    CONNECTIVITY_LIMITED,
    FAILED_PRECONDITION,
    INTERNAL,
    NOT_FOUND,
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

    from shim.client import Call
    from shim.deadline import Deadline
    from shim.environment import Environment

    Caller: TypeAlias = Callable[[Sequence[Call], Deadline], list[bytes | RpcError]]
    """Makes calls at once and waits for all; for each its response, or what it came to instead."""

    Failure: TypeAlias = tuple[str, RpcError]
    """A service and what its call came to."""

    Stage: TypeAlias = tuple[str, ...]
    """Services that need nothing of each other."""

FORWARD = (("ipam", "policy"), ("endpoint",), ("node",))
"""Stages of ADD: policy needs no more than the call, endpoint the addresses and profiles, node the record."""

BACKWARD = (("node", "endpoint"), ("policy", "ipam"))
"""Stages of DEL: the veth and the record need nothing of each other; the address goes when they have gone."""

AT_ONCE = (("ipam", "policy", "endpoint", "node"),)

_RESERVE = 0.25  # the part of an ADD's time that is kept for its rollback


class Invocation:
    """What the runtime asked for.

    Attributes:
        environment, config: As every service gets to see them.
        delegated: Another plugin is in ipam's place.
    """

    __slots__ = ("config", "delegated", "environment")

    def __init__(self, environment: Environment, config: bytes, delegated: bool = False) -> None:
        self.environment = environment
        self.config = config
        self.delegated = delegated

    def call(self, result: bytes = b"", context: bytes = b"") -> bytes:
        """The call, with what the services before this one handed on."""
        given = self.environment
        return messages.call(given.container_id, given.netns, given.ifname, given.args, given.path, self.config, result,
                             context)

    def request(self, result: bytes = b"", context: bytes = b"") -> bytes:
        """The request of any verb."""
        return messages.request(self.call(result, context))


def add(invocation: Invocation, caller: Caller, deadline: Deadline, result: bytes = b"",
        there_before: bool = False) -> bytes:
    """Run ADD and return the last service's result; `result` is what there is of one before.

    A call without an answer may have been carried out, so a step that failed is rolled back too, unless its service
    was not even reached. The rollback is the services' own DEL, by attachment. So it must not run when this very
    attachment is there from an earlier ADD, whose address and record the steps have only found again: that is what
    `there_before` says, or a step that answers ALREADY_EXISTS.

    Raises:
        CniError: a step failed; the rollback is done, or its details say what of it is not.
    """
    forward = deadline.earlier(deadline.left() * _RESERVE)
    context = b""
    for number, stage in enumerate(FORWARD, 1):
        answers, failed = _ask((stage,), "Add", invocation.request(result, context), caller, forward)
        steps: list[tuple[bytes, bytes]] = []
        for service, answer in answers:
            try:
                steps.append(_step(service, answer))
            except messages.BadMessage as problem:
                failed.append((service, RpcError(INTERNAL, str(problem))))
        if failed:
            there_before |= any(error.answered and error.status == ALREADY_EXISTS for _, error in failed)
            asked = {service for each in FORWARD[:number] for service in each}
            asked.difference_update(service for service, error in failed if error.unasked)
            undo = [] if there_before else [
                back for each in BACKWARD if (back := tuple(service for service in each if service in asked))]
            undone, broken = _undo(undo, invocation.request(), caller, deadline, invocation.delegated)
            raise _report(failed + broken, f"rolled back {', '.join(undone) or 'nothing'}", broken)
        result, context = steps[0][0], merged([context for _, context in steps])
    return result


def _step(service: str, answer: bytes) -> tuple[bytes, bytes]:
    """Result and context after a service's part of ADD.

    Raises:
        messages.BadMessage: its answer is not what the chain can go on with.
    """
    try:
        result, context = messages.add_response(answer)
    except messages.BadMessage as problem:
        raise messages.BadMessage(f"an answer that does not decode: {problem}") from None
    if service == FORWARD[-1][-1] and not result:
        raise messages.BadMessage("no result at the end of the chain")
    if context and not (context.startswith(b"{") and context.endswith(b"}")):
        raise messages.BadMessage("a context that is not a JSON object")
    return result, context


def merged(contexts: Sequence[bytes]) -> bytes:
    """One JSON object with the members of all, which are different: each has one writer (muslin.cni.context)."""
    members = [inside for context in contexts if (inside := context[1:-1].strip())]
    return b"{" + b",".join(members) + b"}" if members else b""


def delete(request: bytes, caller: Caller, deadline: Deadline, delegated: bool = False) -> None:
    """Run DEL: every service gets its chance, whatever the others said, but ipam.

    Raises:
        CniError: the first failure.
    """
    _, failed = _undo(BACKWARD, request, caller, deadline, delegated)
    if failed:
        raise _report(failed, left=failed)


def _undo(stages: Sequence[Stage], request: bytes, caller: Caller, deadline: Deadline,
          delegated: bool) -> tuple[list[str], list[Failure]]:
    """DEL through some stages: who did it, and what failed. What a service does not find it need not delete.

    An address is only freed when the veth and the record that use it are gone: otherwise a pod that gets it next would
    share it with this one. Another plugin in ipam's place frees it also when the rest is put off: whoever does that
    later does not run plugins.
    """
    done: list[str] = []
    failed: list[Failure] = []
    for number, stage in enumerate(stages):
        in_use = any(not delegated or not error.passing for _, error in failed)
        asked = tuple(service for service in stage if service != "ipam" or not in_use)
        answers, broken = _ask((asked,), "Del", request, caller, deadline.share(len(stages) - number))
        done += [service for service, _ in answers]
        done += [service for service, error in broken if error.status == NOT_FOUND]
        failed += [failure for failure in broken if failure[1].status != NOT_FOUND]
    return done, failed


def collect(invocation: Invocation, caller: Caller, deadline: Deadline) -> None:
    """Run GC: every service gets its chance, whatever the others said.

    Raises:
        CniError: the first failure.
    """
    _, failed = _ask(BACKWARD, "GC", invocation.request(), caller, deadline)
    if failed:
        raise _report(failed)


def check(invocation: Invocation, caller: Caller, deadline: Deadline) -> None:
    """Run CHECK.

    Raises:
        CniError: the first failure.
    """
    _, failed = _ask(AT_ONCE, "Check", invocation.request(), caller, deadline)
    if failed:
        raise _report(failed)


def status(invocation: Invocation, caller: Caller, deadline: Deadline) -> None:
    """Run STATUS.

    Raises:
        CniError: the first failure, by how bad it is. What would be "try again later" elsewhere is
            PLUGIN_NOT_AVAILABLE here; a precondition that fails is CONNECTIVITY_LIMITED: pods that run are touched by
            it (specification 1.1, "STATUS").
    """
    _, failed = _ask(AT_ONCE, "Status", invocation.request(), caller, deadline)
    if failed:
        failed.sort(key=lambda failure: failure[1].status != FAILED_PRECONDITION)  # stable
        error = _report(failed)
        if failed[0][1].status == FAILED_PRECONDITION:
            error.code = CONNECTIVITY_LIMITED
        elif error.code == TRY_AGAIN_LATER:
            error.code = PLUGIN_NOT_AVAILABLE
        raise error


def _ask(stages: Sequence[Stage], verb: str, request: bytes, caller: Caller,
         deadline: Deadline) -> tuple[list[tuple[str, bytes]], list[Failure]]:
    """Call every service, stage by stage, each stage with its share of the time; the answers and the failures."""
    answers: list[tuple[str, bytes]] = []
    failed: list[Failure] = []
    for number, stage in enumerate(stages):
        calls = [(service, f"Plugin/{verb}", request) for service in stage]
        if not calls:
            continue
        for service, outcome in zip(stage, caller(calls, deadline.share(len(stages) - number)), strict=True):
            if isinstance(outcome, RpcError):
                failed.append((service, outcome))
            else:
                answers.append((service, outcome))
    return answers, failed


def _report(failed: Sequence[Failure], done: str = "", left: Sequence[Failure] = ()) -> CniError:
    """What the runtime is told; `left` is what could not be deleted."""
    (service, error), *others = failed
    code: int = getattr(error, "code", 0) or CNI_CODE.get(error.status, UNEXPECTED)
    notes = [f"{service} answered {_status(error)}" if error.answered else f"{service}: {_status(error)}"]
    notes += [part for part in (getattr(error, "details", ""), done) if part]
    notes += [f"{name} failed too: {other.message} ({_status(other)})" for name, other in others]
    return CniError(code, f"{service}: {error.message}", "; ".join(notes),
                    unfinished=bool(left) and all(error.passing for _, error in left))


def _status(error: RpcError) -> str:
    return STATUS_NAME[error.status] if 0 <= error.status < len(STATUS_NAME) else str(error.status)
