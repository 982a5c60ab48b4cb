"""Which endpoints a pod has, which have an address, and which nodes have endpoints. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence, Set

from muslin.etcd import keys
from services.endpoint.records import WorkloadEndpoint


class Index:
    """Keys of endpoints, by what their records say."""

    def __init__(self) -> None:
        self._by_pod: dict[str, set[str]] = {}
        self._by_address: dict[str, set[str]] = {}
        self._nodes: Counter[str] = Counter()

    @property
    def nodes(self) -> Set[str]:
        """Nodes that have endpoints; live."""
        return self._nodes.keys()

    def of_pod(self, pod_key: str) -> Sequence[str]:
        """Endpoints of the pod at a key, sorted."""
        return sorted(self._by_pod.get(pod_key, ()))

    def holders(self, address: str) -> Sequence[str]:
        """Endpoints that have an address, sorted."""
        return sorted(self._by_address.get(address, ()))

    def change(self, key: str, before: WorkloadEndpoint | None, after: WorkloadEndpoint | None) -> None:
        """Take in that the record at a key has changed."""
        if before:
            _forget(self._by_address, before.addresses, key)
            _forget(self._by_pod, _pod(before), key)
            self._nodes[before.node] -= 1
        if after:
            _note(self._by_address, after.addresses, key)
            _note(self._by_pod, _pod(after), key)
            self._nodes[after.node] += 1
        if before and not self._nodes[before.node]:
            del self._nodes[before.node]


def _pod(record: WorkloadEndpoint) -> Sequence[str]:
    return (keys.pod(record.namespace, record.pod),) if record.pod else ()


def _note(index: dict[str, set[str]], entries: Iterable[str], key: str) -> None:
    for entry in entries:
        index.setdefault(entry, set()).add(key)


def _forget(index: dict[str, set[str]], entries: Iterable[str], key: str) -> None:
    for entry in set(entries):
        index[entry].discard(key)
        if not index[entry]:
            del index[entry]
