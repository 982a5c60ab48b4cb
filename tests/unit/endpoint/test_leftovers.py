"""A node is no more when nobody knows of it any more, for a while; in doubt it is there."""

from __future__ import annotations

from services.endpoint.leftovers import Leftovers
from services.endpoint.records import WorkloadEndpoint


def record(node: str, pod: str = "web") -> WorkloadEndpoint:
    return WorkloadEndpoint("net", f"c-{node}-{pod}", "eth0", node, "k8s" if pod else "cni", "w", pod=pod)


def looked(leftovers: Leftovers, now: float, *, declared: tuple[str, ...] = (), hosts: dict[str, bool] | None = None,
           records: tuple[WorkloadEndpoint, ...] = (), alive: tuple[WorkloadEndpoint, ...] = ()) -> list[str]:
    return [departed.node for departed in leftovers.look(
        declared, hosts or {}, records, lambda each: each in alive, now)]


def test_a_node_that_nobody_knows_of_is_no_more_after_its_time() -> None:
    leftovers, left = Leftovers(60.0), (record("n1"), record("n2"))
    assert looked(leftovers, 0.0, declared=("n2",), hosts={"n1": False}, records=left) == []
    assert looked(leftovers, 59.0, declared=("n2",), hosts={"n1": False}, records=left) == []
    assert looked(leftovers, 60.0, declared=("n2",), hosts={"n1": False}, records=left) == ["n1"]


def test_a_node_without_records_is_forgotten_and_one_without_an_announcement_is_cleared() -> None:
    leftovers = Leftovers(0.0)
    assert looked(leftovers, 0.0, hosts={"n1": False}) == ["n1"]
    assert looked(leftovers, 0.0, records=(record("n2"),)) == ["n2"]


def test_each_sign_of_life_begins_the_time_anew() -> None:
    for sign in ({"declared": ("n1",)}, {"hosts": {"n1": True}}, {"alive": (record("n1"),)}):
        leftovers, left = Leftovers(60.0), (record("n1"), record("n1", "other"))
        assert looked(leftovers, 0.0, records=left) == []
        assert looked(leftovers, 60.0, records=left, **sign) == []
        assert looked(leftovers, 61.0, records=left) == []
        assert looked(leftovers, 120.0, records=left) == []
        assert looked(leftovers, 121.0, records=left) == ["n1"]


def test_what_is_no_pod_stays_and_its_node_stays_known() -> None:
    pod, other = record("n1"), record("n1", "")
    (departed,) = Leftovers(0.0).look((), {}, (pod, other), lambda _: False, 0.0)
    assert (departed.records, departed.forgettable) == ((pod,), False)


def test_what_was_before_a_gap_counts_no_more() -> None:
    leftovers = Leftovers(60.0)
    looked(leftovers, 0.0, hosts={"n1": False})
    leftovers.forget()
    assert looked(leftovers, 60.0, hosts={"n1": False}) == []
