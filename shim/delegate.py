"""Addresses from another plugin: `ipam.type` names it, CNI_PATH has it (CNI specification 1.1, section 4).

It gets the whole configuration and our environment, and takes ipam's place in the chain: where ipam would be asked it
is run, while the other services of the stage are asked.
"""

from __future__ import annotations

from shim import jsontext, messages
from shim.errors import FAILED_PRECONDITION, IO_FAILURE, NOT_FOUND, RpcError
from shim.process import DelegateError, Running, excerpt, find

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shim.chain import Caller, Invocation
    from shim.client import Call
    from shim.configuration import Configuration
    from shim.deadline import Deadline

_COMMAND = {"Plugin/Add": b"ADD", "Plugin/Del": b"DEL", "Plugin/Check": b"CHECK", "Plugin/GC": b"GC",
            "Plugin/Status": b"STATUS"}


class Delegating:
    """A chain.Caller of services in which ipam is another plugin."""

    def __init__(self, services: Caller, conf: Configuration, invocation: Invocation,
                 environ: Mapping[bytes, bytes]) -> None:
        self._services = services
        self._conf = conf
        self._invocation = invocation
        self._environ = environ
        self._may_be_another = False  # ADD failed: what there is may be an earlier ADD's

    def __call__(self, calls: Sequence[Call], deadline: Deadline) -> list[bytes | RpcError]:
        """Make the calls at once."""
        running: Running | RpcError | None = None
        for service, method, _ in calls:
            if service == "ipam":
                running = self._start(method, deadline)
        others = [call for call in calls if call[0] != "ipam"]
        answers = iter(self._services(others, deadline) if others else ())
        return [next(answers) if service != "ipam" else self._finish(running, method, deadline)
                for service, method, _ in calls]

    def _start(self, method: str, deadline: Deadline) -> Running | RpcError:
        try:
            if method == "Plugin/Del" and self._may_be_another:
                self._spare_another(deadline)
            config = self._configuration(method, deadline)
            name = self._conf.ipam_type
            return Running(name, find(name, self._invocation.environment.path), config,
                           {**self._environ, b"CNI_COMMAND": _COMMAND[method]})
        except RpcError as problem:
            return problem

    def _finish(self, running: Running | RpcError | None, method: str, deadline: Deadline) -> bytes | RpcError:
        assert running
        outcome = running if isinstance(running, RpcError) else running.finish(deadline)
        if method != "Plugin/Add":
            return outcome
        if isinstance(outcome, bytes):
            try:
                if isinstance(result := jsontext.loads(outcome), dict):
                    return messages.add_answer(self._with_previous(result, outcome.strip()))
            except jsontext.NotJson:
                pass
            outcome = DelegateError(IO_FAILURE, f"{self._conf.ipam_type} printed no result but {excerpt(outcome)}")
        self._may_be_another = not outcome.unasked
        return outcome

    def _with_previous(self, result: Mapping[str, jsontext.Value], raw: bytes) -> bytes:
        """Its result, with what it leaves open taken from prevResult."""
        previous = self._conf.previous
        if not previous:
            return raw
        return jsontext.dumps({**previous, **{name: value for name, value in result.items() if value}}).encode()

    def _configuration(self, method: str, deadline: Deadline) -> bytes:
        """What it reads: the configuration as it is, or with the node's pod CIDRs filled in.

        Raises:
            RpcError: the node has none, or they are not known.
        """
        if not asks_for_pod_cidrs(self._conf.document):
            return self._invocation.config
        if method != "Plugin/Add":  # then it goes by container id, but has to read some network
            return with_pod_cidrs(self._conf.document, _ANY)
        outcome, = self._services([("endpoint", "Endpoints/GetNode", b"")], deadline)
        if isinstance(outcome, RpcError):
            outcome.message = f"usePodCidr: {outcome.message}"
            outcome.unasked = True
            raise outcome
        return with_pod_cidrs(self._conf.document, messages.pod_cidrs(outcome))

    def _spare_another(self, deadline: Deadline) -> None:
        """ADD of an attachment that is there fails too, and DEL would free the address of the pod that runs with it.

        Raises:
            RpcError: there is a record of this attachment, or whether there is is not known.
        """
        given = self._invocation.environment
        request = messages.get_request(self._conf.name, given.container_id, given.ifname)
        outcome, = self._services([("endpoint", "Endpoints/Get", request)], deadline)
        if isinstance(outcome, RpcError) and outcome.status == NOT_FOUND:
            return
        why = (f"whether an earlier ADD's is there is not known: {outcome.message}" if isinstance(outcome, RpcError)
               else "there is a record of this attachment, of an earlier ADD")
        raise RpcError(FAILED_PRECONDITION, f"the address is left: {why}", unasked=True)


_POD_CIDR, _POD_CIDR_6 = "usePodCidr", "usePodCidrIPv6"
_ANY = ("0.0.0.0/0", "::/0")


def _sections(ipam: object) -> list[dict[str, jsontext.Value]]:
    """The objects of host-local's section that have a subnet."""
    found = [ipam]
    ranges = ipam.get("ranges") if isinstance(ipam, dict) else None
    for each in ranges if isinstance(ranges, list) else ():
        found += each if isinstance(each, list) else ()
    return [section for section in found if isinstance(section, dict)]


def asks_for_pod_cidrs(document: Mapping[str, jsontext.Value]) -> bool:
    """Whether host-local is to use the node's pod CIDRs."""
    ipam = document.get("ipam")
    return isinstance(ipam, dict) and ipam.get("type") == "host-local" and any(
        section.get("subnet") in (_POD_CIDR, _POD_CIDR_6) for section in _sections(ipam))


def with_pod_cidrs(document: Mapping[str, jsontext.Value], cidrs: Sequence[str]) -> bytes:
    """The configuration with them: IPv4's for "usePodCidr", or the first where the node has none of IPv4.

    Raises:
        RpcError: the node has none that fits.
    """
    copy = jsontext.loads(jsontext.dumps(document).encode())
    assert isinstance(copy, dict)
    six = [cidr for cidr in cidrs if ":" in cidr]
    four = [cidr for cidr in cidrs if ":" not in cidr] or six
    for section in _sections(copy["ipam"]):
        wanted = section.get("subnet")
        if wanted in (_POD_CIDR, _POD_CIDR_6):
            fitting = six if wanted == _POD_CIDR_6 else four
            if not fitting:
                raise RpcError(FAILED_PRECONDITION, f"ipam asks for {wanted}, and the node's podCIDRs are "
                                                    f"{', '.join(cidrs) or 'none'}", unasked=True)
            section["subnet"] = fitting[0]
    return jsontext.dumps(copy).encode()
