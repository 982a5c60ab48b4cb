"""Following the endpoint service: what its messages amount to, and what survives a new snapshot."""

from __future__ import annotations

import pytest

from muslin.api.cni.v1 import cni_pb2
from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.errors import Corrupt
from muslin.rpc import Readiness
from services.policy import wire
from services.policy.endpoints import SOURCE, EndpointSource
from services.policy.events import Event
from services.policy.hub import Hub
from services.policy.model import Attachment, Endpoint, NamedPort

PUT, DELETE = endpoint_pb2.Change.KIND_PUT, endpoint_pb2.Change.KIND_DELETE


def message(name: str, address: str = "10.0.0.1", interface: str = "cali1") -> endpoint_pb2.WorkloadEndpoint:
    return endpoint_pb2.WorkloadEndpoint(
        attachment=cni_pb2.Attachment(network="net", container_id=name, ifname="eth0"), node="n1", orchestrator="k8s",
        workload=f"x.{name}", namespace="x", pod=name, service_account="default", labels={"app": "web"},
        addresses=[address], profiles=["k8s_ns.x"], host_interface=interface, revision=7,
        ports=[endpoint_pb2.NamedPort(name="http", protocol="TCP", port=8080)])


def test_a_record_becomes_an_endpoint() -> None:
    assert wire.endpoint(message("a", "FD00:0::1")) == Endpoint(
        Attachment("net", "a", "eth0"), "n1", "cali1", "x/a", "x", "k8s", "default", {"app": "web"}, ("fd00::1",),
        ("k8s_ns.x",), (NamedPort("http", 6, 8080),), 7)


def test_outside_kubernetes_a_workload_is_called_by_its_own_name() -> None:
    record = message("a")
    record.pod = record.namespace = ""
    record.workload = "a"
    assert wire.endpoint(record).workload == "a"


@pytest.mark.parametrize(("record", "problem"), [
    (message("a", "10.0.0"), "'10.0.0' does not appear to be an IPv4 or IPv6 address"),
    (message("a", interface=""), "has not 1 to 15 bytes"),
    (message("a", interface="x" * 16), "has not 1 to 15 bytes"),
])
def test_a_record_that_can_not_be_enforced(record: endpoint_pb2.WorkloadEndpoint, problem: str) -> None:
    with pytest.raises(Corrupt, match=problem) as caught:
        wire.endpoint(record)
    assert "net/a/eth0" in caught.value.message


class Recorder(Hub):
    """A hub that remembers the endpoints that it was told of."""

    def __init__(self) -> None:
        super().__init__((SOURCE, "never"))

    def put(self, events: object) -> None:
        assert isinstance(events, list)
        super().put(events)

    @property
    def present(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for event in self._pending:
            self._note(event, found)
        return found

    @staticmethod
    def _note(event: Event, found: dict[str, str]) -> None:
        if (endpoint := getattr(event, "endpoint", None)) is not None:
            found[endpoint.attachment.container_id] = endpoint.addresses[0]
        else:
            found.pop(getattr(event, "attachment").container_id, None)  # noqa: B009  the union has no common field


def watch(*changes: tuple[int, endpoint_pb2.WorkloadEndpoint], revision: int = 1,
          complete: bool = False) -> endpoint_pb2.WatchResponse:
    return endpoint_pb2.WatchResponse(
        changes=[endpoint_pb2.Change(kind=kind, endpoint=record) for kind, record in changes],  # type: ignore[arg-type]
        # (the enum's stub type can not be written in a signature)
        revision=revision, snapshot_complete=complete)


def source() -> tuple[EndpointSource, Recorder]:
    hub = Recorder()
    made = EndpointSource("unix:/nowhere", hub, Readiness().part("endpoints"))
    made.begin()
    return made, hub


def test_a_snapshot_is_complete_when_it_says_so() -> None:
    made, hub = source()
    made.take(watch((PUT, message("a"))))
    assert SOURCE in hub.missing
    made.take(watch((PUT, message("b", "10.0.0.2")), complete=True))
    assert SOURCE not in hub.missing
    assert hub.present == {"a": "10.0.0.1", "b": "10.0.0.2"}


def test_changes_after_it() -> None:
    made, hub = source()
    made.take(watch((PUT, message("a")), (PUT, message("b")), revision=5, complete=True))
    made.take(watch((DELETE, message("a")), (PUT, message("b", "10.0.0.9")), revision=6))
    assert hub.present == {"b": "10.0.0.9"}
    assert made.revision == 6


def test_what_a_new_snapshot_does_not_name_is_gone_when_it_is_complete() -> None:
    """Not before: while it is under way the last state stays."""
    made, hub = source()
    made.take(watch((PUT, message("a")), (PUT, message("b")), revision=5, complete=True))
    made.restart()
    made.take(watch((PUT, message("b", "10.0.0.9")), revision=9))
    assert hub.present == {"a": "10.0.0.1", "b": "10.0.0.9"}
    assert made.revision == 0  # a snapshot that breaks off begins anew
    made.take(watch(revision=9, complete=True))
    assert hub.present == {"b": "10.0.0.9"}
    assert made.revision == 9


def test_a_resumed_watch_forgets_nobody() -> None:
    made, hub = source()
    made.take(watch((PUT, message("a")), revision=5, complete=True))
    made.begin()
    made.take(watch((PUT, message("b")), revision=6))
    assert set(hub.present) == {"a", "b"}


def test_a_record_that_can_not_be_enforced_has_no_program() -> None:
    made, hub = source()
    made.take(watch((PUT, message("a")), (PUT, message("b")), revision=5, complete=True))
    made.take(watch((PUT, message("a", "nonsense")), revision=6))
    assert set(hub.present) == {"b"}
