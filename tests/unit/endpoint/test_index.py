"""The index says what the records say, whatever has become of them; and fences are the same in every process."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from muslin.etcd import keys
from services.endpoint.index import Index
from services.endpoint.records import WorkloadEndpoint

RECORDS = st.none() | st.builds(
    WorkloadEndpoint, st.just("net"), st.just("c"), st.just("eth0"), st.sampled_from(["n", "m"]), st.just("k8s"),
    st.just("w"),
    namespace=st.just("prod"), pod=st.sampled_from(["", "a", "b"]),
    addresses=st.lists(st.sampled_from(["10.0.0.1", "10.0.0.2"]), max_size=3).map(tuple))


@given(st.lists(st.tuples(st.sampled_from(["k1", "k2", "k3"]), RECORDS)))
def test_it_follows_every_change(changes: list[tuple[str, WorkloadEndpoint | None]]) -> None:
    index, now = Index(), dict[str, WorkloadEndpoint]()
    for key, after in changes:
        index.change(key, now.get(key), after)
        now.pop(key, None)
        if after:
            now[key] = after
    for address in ("10.0.0.1", "10.0.0.2"):
        assert index.holders(address) == sorted(key for key, record in now.items() if address in record.addresses)
    assert index.nodes == {record.node for record in now.values()}
    for pod in ("a", "b"):
        assert index.of_pod(keys.pod("prod", pod)) == sorted(key for key, r in now.items() if r.pod == pod)


def test_a_fence_stays_where_it_is() -> None:
    """Processes of different releases must find the same one: this is written down for good."""
    assert keys.endpoint_fence("/muslin/endpoint/v1/endpoints/net/c1/eth0") == "/muslin/endpoint/v1/fences/50"
    assert keys.endpoint_fence("/muslin/endpoint/v1/pods/prod/web") == "/muslin/endpoint/v1/fences/0d"


def test_fences_are_many() -> None:
    """Of a thousand attachments few share one, so few are turned back by another's deletion."""
    used = [keys.endpoint_fence(keys.endpoint("net", f"{number:064x}", "eth0")) for number in range(1000)]
    assert len(set(used)) > 200
    assert max(used.count(fence) for fence in set(used)) < 20
