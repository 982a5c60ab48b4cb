"""What bench/kubelet.py measures.

One node, one kubelet, two networks in turn: pods are posted to the API server at once, and a watch tells when each has
an address there. A network that is not measured does not run. Then, with Muslin and all pods running: what its
processes have in memory, what they use of a core while nothing happens, and how long after a policy is put to the API
server packets between two pods are stopped or begin to pass.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.support.figures import quantiles, row
from bench.support.flow import Flow
from tests.kubernetes.api import Api
from tests.kubernetes.machine import until
from tests.kubernetes.muslin import Muslin
from tests.kubernetes.node import PATIENCE, POD_NETWORK, Node, missing
from tests.kubernetes.pods import address_of, container, manifest, policy

NETWORKS = ("muslin", "bridge")
AIM_RATIO, AIM_POLICY, AIM_IDLE = 1.2, 0.5, 2.0
"""Of the times of both networks; seconds, at p99; % of a core, all services together."""
POSTS = 8
"""Connections that pods are posted by."""
_PODS, _POLICIES = "/api/v1/namespaces/bench/pods", "/apis/networking.k8s.io/v1/namespaces/bench/networkpolicies"
_BRIDGE = {"cniVersion": "1.0.0", "name": "bridge", "plugins": [
    {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipam": {
        "type": "host-local", "ranges": [[{"subnet": POD_NETWORK}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
SETTLE = 30.0
"""Seconds after the last pod is Ready until nothing of it is under way."""
_PROCESSES = ("ipam", "endpoint", "policy", "node", "etcd")


@dataclass
class Round:
    """Seconds since the first pod was posted, of each pod: until it had an address, and until it was Ready."""

    addressed: list[float] = field(default_factory=list)
    ready: list[float] = field(default_factory=list)


class Bench:
    """A node and the two networks it can have."""

    def __init__(self, node: Node) -> None:
        self.node, self.api, self.muslin = node, Api(node), Muslin(node)
        self.muslin.up()
        node.run("sh", "-ec", "cp /usr/lib/cni/bridge /usr/lib/cni/host-local /opt/cni/bin/")
        node.write("/etc/muslin-bench/bridge.conflist", json.dumps(_BRIDGE))
        self.muslin.install()
        node.ready()
        node.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bench"}})
        until(lambda: node.get("--namespace", "bench", "serviceaccount", "default"), "a service account", PATIENCE)

    @contextmanager
    def network(self, name: str) -> Iterator[None]:
        """The node has this network; a first pod has been there."""
        if name == "bridge":
            self.node.run("sh", "-ec", "rm /etc/cni/net.d/10-muslin.conflist; "
                                       "cp /etc/muslin-bench/bridge.conflist /etc/cni/net.d/20-bridge.conflist")
            self.node.stop("muslin")
        first = "192.168.0." if name == "bridge" else ""
        until(lambda: self._first().startswith(first), f"the runtime has taken {name} up", PATIENCE)
        yield
        self.emptied()
        if name == "bridge":
            self.node.run("rm", "/etc/cni/net.d/20-bridge.conflist")
            self.muslin.begin()
            self.muslin.install("--force")

    def _first(self) -> str:
        """Make a pod and delete it; returns its address."""
        self.at_once(1)
        [pod] = self.api.ask("GET", _PODS)["items"]
        self.emptied()
        return address_of(pod)

    def at_once(self, count: int) -> Round:
        """Post pods; returns when all are Ready."""
        taken, threads = Round(), ThreadPoolExecutor(POSTS)
        began = time.monotonic()
        posted = [threads.submit(self.api.ask, "POST", _PODS, manifest(
            f"p{number}", {"app": f"a{number % 10}"}, containers=[container("pause")])) for number in range(count)]
        addressed, ready = set[str](), set[str]()
        for event in self.api.watch(_PODS):
            pod, now = event["object"], time.monotonic() - began
            name, status = pod["metadata"]["name"], pod.get("status", {})
            if status.get("podIP") and name not in addressed:
                addressed.add(name)
                taken.addressed.append(now)
            if name not in ready and any(each["type"] == "Ready" and each["status"] == "True"
                                         for each in status.get("conditions", ())):
                ready.add(name)
                taken.ready.append(now)
            if len(ready) == count:
                break
        for each in posted:
            each.result()
        threads.shutdown()
        return taken

    def emptied(self) -> None:
        """Delete all pods, and wait until nothing of them is left on the node."""
        self.api.ask("DELETE", _PODS)
        until(lambda: not self.api.ask("GET", _PODS)["items"] and not self.node.run("ls", "/run/netns").split(),
              "all pods are gone", 600, 0.5)

    def processes(self) -> dict[str, int]:
        """Ids of Muslin's processes by name."""
        root, found = self.node.daemons["muslin"].pid, {}
        for child in Path(f"/proc/{root}/task/{root}/children").read_text().split():
            line = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            name = next((name for name in _PROCESSES if f"services.{name}" in line), "etcd")
            found[name] = int(child)
        return found

    def memory(self) -> dict[str, tuple[float, float]]:
        """MB that each process has now, and that it has had at most."""
        def of(pid: int) -> tuple[float, float]:
            status = Path(f"/proc/{pid}/status").read_text()
            now, most = (int(status.partition(f"{name}:")[2].split()[0]) / 1000 for name in ("VmRSS", "VmHWM"))
            return now, most
        return {name: of(pid) for name, pid in self.processes().items()}

    def idle(self, seconds: float) -> dict[str, float]:
        """% of a core that each process uses while nothing is asked of it."""
        before = {name: _cpu(pid) for name, pid in self.processes().items()}
        time.sleep(seconds)
        return {name: 100 * (_cpu(pid) - before[name]) / seconds for name, pid in self.processes().items()}

    def policies(self, changes: int, others: int) -> dict[str, list[float]]:
        """Seconds from when a policy is put until packets are stopped, and until they pass; so many others stand by."""
        for number in range(others):
            self.api.ask("POST", _POLICIES, policy(f"other{number}", {"app": f"a{number % 10}"}, ingress=[
                {"from": [{"podSelector": {"matchLabels": {"app": f"a{(number + 1) % 10}"}}}]}]))
        places = {each["pod"]: each for each in self.muslin.asked("endpoint", "list")["endpoints"]}
        sender, receiver = places["p0"], places["p1"]
        self.api.ask("PATCH", f"{_PODS}/p1", {"metadata": {"labels": {"app": "judged"}}})
        change = policy("judged", {"app": "judged"}, policyTypes=["Ingress"], ingress=[{}])
        self.api.ask("POST", _POLICIES, change)
        taken: dict[str, list[float]] = {"stopped": [], "passing": []}
        with Flow(self._place(sender), self._place(receiver), receiver["addresses"][0]) as flow:
            flow.passes(time.monotonic())
            for number in range(changes):
                stop = number % 2 == 0
                change["spec"]["ingress"] = [] if stop else [{}]
                began = time.monotonic()
                self.api.ask("PUT", f"{_POLICIES}/judged", change)
                taken["stopped" if stop else "passing"].append(flow.stops(began) if stop else flow.passes(began))
        return taken

    def _place(self, endpoint: dict[str, Any]) -> Path:
        return self.node.path(str(endpoint["netns"]).replace("/var/run", "/run"))


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Run, print the tables, then one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round, fewer changes")
    parser.add_argument("--pods", type=int, default=100)
    parser.add_argument("--rounds", type=int, help="of both networks in turn; 0: only what is measured of Muslin alone")
    options = parser.parse_args()
    if lacking := missing():
        print(f"NOT RUN: bench/kubelet.py needs {lacking}")
        return
    node = Node(report=lambda said: print(f"# {said}", file=sys.stderr))
    try:
        node.up()
        rounds = options.rounds if options.rounds is not None else 1 if options.quick else 3
        _run(Bench(node), options.pods, rounds, options.quick)
    finally:
        node.remove()


def _run(bench: Bench, pods: int, rounds: int, quick: bool) -> None:
    rows: dict[str, list[Round]] = {name: [] for name in NETWORKS}
    for number in range(rounds):
        for name in (NETWORKS if number % 2 == 0 else NETWORKS[::-1]):
            with bench.network(name):
                rows[name].append(bench.at_once(pods))
                print(f"# {name}: {max(rows[name][-1].addressed):.1f} s", file=sys.stderr)
    with bench.network("muslin"):
        bench.at_once(pods)
        memory = bench.memory()
        time.sleep(SETTLE)
        idle = bench.idle(20 if quick else 60)
        changes = bench.policies(40 if quick else 200, 50)
    widths = (28, 12, 12, 12, 12)
    ratios = [max(ours.addressed) / max(theirs.addressed) for ours, theirs in zip(*rows.values(), strict=True)]
    if ratios:
        _compared(rows, ratios, pods, widths)
    figures = {kind: quantiles(values) for kind, values in changes.items()}
    print(row(("a policy is put, ms until", "min", "p50", "p99", "max"), widths))
    for kind, found in figures.items():
        print(row((f"packets are {kind}", *(f"{found[name]:.0f}" for name in ("min_ms", "p50_ms", "p99_ms")),
                   f"{max(changes[kind]) * 1000:.0f}"), widths))
    print(f"(aim: p99 below {AIM_POLICY * 1000:.0f})\n")
    print(row((f"with {pods} pods", "MB", "at most", "idle, % of a core"), (*widths[:3], 20)))
    for name in _PROCESSES:
        print(row((name, *(f"{value:.0f}" for value in memory[name]), f"{idle[name]:.2f}"), (*widths[:3], 20)))
    services = sum(value for name, value in idle.items() if name != "etcd")
    print(f"the four services: {services:.2f} % of a core (aim: below {AIM_IDLE}); "
          f"with etcd {services + idle['etcd']:.2f}")
    print(json.dumps({"bench": "kubelet", "pods": pods, "ratio": statistics.median(ratios) if ratios else None,
                      "policy": figures,
                      "seconds": {name: [max(each.addressed) for each in found] for name, found in rows.items()},
                      "memory_mb": memory, "idle_percent": idle}))


def _compared(rows: dict[str, list[Round]], ratios: list[float], pods: int, widths: tuple[int, ...]) -> None:
    print(row((f"{pods} pods at once, s", "all: min", "all: median", "half", "all Ready"), widths))
    for name, measured in rows.items():
        every = [max(each.addressed) for each in measured]
        shown = (min(every), statistics.median(every),
                 statistics.median(statistics.median(each.addressed) for each in measured),
                 statistics.median(max(each.ready) for each in measured))
        print(row((name, *(f"{value:.1f}" for value in shown)), widths))
    print(f"muslin / bridge: {statistics.median(ratios):.2f} (aim: at most {AIM_RATIO}; rounds: "
          f"{', '.join(f'{ratio:.2f}' for ratio in ratios)})\n")


if __name__ == "__main__":
    main()
